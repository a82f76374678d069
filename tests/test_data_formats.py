"""Images from a folder, from memory, from .npz and from Parquet are the same images, and train the same network."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
import yaml
from formats import (
    FORMATS,
    NAMES,
    Arrays,
    as_folder,
    as_npz,
    as_npz_of_splits,
    as_parquet,
    as_plain_parquet,
    made,
    png,
)
from running import command

from proard import evaluate, extract, train
from proard.commands.search import search
from proard.common.errors import UserError
from proard.config import DataConfig, parse_config
from proard.data import ImageSet, StreamedImageSet, data_sets, given_arrays, load_data, load_test_split
from proard.data import arrays as arrays_module
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import read_metrics

datasets = pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.chdir(tmp_path)


def pixels(images: ImageSet) -> torch.Tensor:
    ((batch, labels),) = images.batches([torch.arange(len(images))], "cpu")
    assert torch.equal(labels, images.labels)
    return batch


@pytest.fixture
def short(tiny: dict[str, Any]) -> dict[str, Any]:
    """A training of a second, without its data."""
    augmentation = tiny.pop("data")["augmentation"]
    tiny["supernet"] |= {"widths": [8, 8]}
    tiny["batch_size"] = 8
    tiny["phases"] = [{**tiny["phases"][2], "objective": {"name": "trades"}}]
    tiny["validation"] |= {"students": 0}
    tiny["search"] |= {"candidates": 1, "mutations": 0}
    return {**tiny, "data": {"augmentation": augmentation, "validation": 0.25}}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoint.pt")["supernet"]


def rows(run: Path) -> str:
    """The metrics without what the clock says."""
    plain = [{k: v for k, v in row.items() if "second" not in k} for row in read_metrics(run / "metrics.jsonl")]
    return json.dumps([{k: v for k, v in row.items() if k != "peak_memory_bytes"} for row in plain])


# ---------------------------------------------------------------------------------------------------------------------
# The same images


def test_the_same_training_whatever_the_images_come_from(short: dict[str, Any], tmp_path: Path) -> None:
    data = made()
    runs = {"arrays": train(short, run=tmp_path / "runs" / "arrays", data=data, quiet=True)}
    for write in (as_folder, as_npz, as_parquet):
        config = {**short, "data": {**short["data"], **write(data, tmp_path / write.__name__)}}
        runs[write.__name__] = train(config, run=tmp_path / "runs" / write.__name__, quiet=True)
    config["data"] |= {"memory_limit": 10, "workers": 1}
    runs["streamed"] = train(config, run=tmp_path / "runs" / "streamed", quiet=True)
    expected, *others = runs
    for name in others:
        assert rows(runs[name]) == rows(runs[expected]), name
        for tensor, other in zip(weights(runs[expected]).values(), weights(runs[name]).values(), strict=True):
            assert torch.equal(tensor, other), name
    assert len({load_checkpoint(run / "checkpoint.pt")["data"] for run in runs.values()}) == 1


@pytest.mark.parametrize("write", FORMATS)
def test_names_shape_and_split_come_from_the_set(write: Callable[..., Any], tmp_path: Path) -> None:
    data = made()
    config = write(data, tmp_path / "set")
    loaded = load_data(DataConfig(**config))
    assert (loaded.class_names, loaded.input_shape) == (NAMES, (3, 8, 8))
    streamed = load_data(DataConfig(**config, memory_limit=10, workers=0))
    assert isinstance(streamed.train, StreamedImageSet)
    assert streamed.fingerprint() == loaded.fingerprint()
    assert torch.equal(pixels(streamed.train), pixels(loaded.train))
    assert torch.equal((255 * pixels(loaded.test)).round().byte(), torch.from_numpy(data[2]).permute(0, 3, 1, 2))


@pytest.mark.parametrize("write", [as_npz, as_parquet])
def test_grey_sets_have_one_channel(write: Callable[..., Any], tmp_path: Path) -> None:
    data = made(1)
    config = write(data, tmp_path / "set")
    loaded = load_data(DataConfig(**config))
    assert loaded.input_shape == (1, 8, 8)
    assert torch.equal((255 * pixels(loaded.test)).round().byte(), torch.from_numpy(data[2]).permute(0, 3, 1, 2))
    if write is as_parquet:
        assert load_data(DataConfig(**config, channels=3)).input_shape == (3, 8, 8)
        assert load_data(DataConfig(**config, image_size=5)).input_shape == (1, 5, 5)


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    config = as_parquet(made(), tmp_path / "parquet")
    datasets.load_dataset(config["root"]).save_to_disk(tmp_path / "saved")
    one, other = (load_data(DataConfig(**{**config, "root": tmp_path / name})) for name in ("parquet", "saved"))
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_large_files_stay_on_the_disk(save: Callable[..., None], tmp_path: Path, capsys: Capture) -> None:
    config = as_npz(made(), tmp_path / "set", save)
    small, large = (load_data(DataConfig(**config, memory_limit=limit)) for limit in (1e6, 5000))
    assert isinstance(large.train, StreamedImageSet)
    assert not isinstance(large.test, StreamedImageSet)
    assert torch.equal(pixels(small.train), pixels(large.train))
    assert ("unpacking" in capsys.readouterr().err) == (save is np.savez_compressed)
    load_data(DataConfig(**config, memory_limit=5000))
    assert capsys.readouterr().err == ""  # unpacked once


# ---------------------------------------------------------------------------------------------------------------------
# Arrays in memory


def test_a_run_on_arrays_says_so_and_asks_for_them_again(
    short: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    data = made()
    run = train(short, run="run", data=data, quiet=True)
    written = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert written["name"] == "arrays"
    assert written["root"] is None
    assert len(written["sha256"]) == 64
    for arguments in (
        ("extract", "--flops", "1G", "--run", "run"),
        ("train", "--resume", "--run", "run"),
        ("train", "--config", "run/config.yaml", "--run", "new"),
    ):
        capsys.readouterr()
        assert command(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "data arrays: these images were arrays in memory" in line
        assert "data=(images, labels, test_images, test_labels)" in line
        assert "--data-root" not in line
    assert not Path("new").exists()

    (student,) = extract(flops="1G", run=run, data=data, quiet=True)
    (again,) = evaluate(run, data=data)
    assert again.measurement.clean.value == student.card["clean_accuracy"]
    (images_alone,) = evaluate(student.path, data=data[2:4])
    assert images_alone.measurement == again.measurement
    with pytest.raises(UserError, match="arrays in memory"):
        evaluate(student.path)
    assert search(run, labels=8, verify=1, population=4, generations=1, data=data, quiet=True) is not None
    repeated = train(run / "config.yaml", run="repeated", data=data, quiet=True)
    assert rows(repeated) == rows(run)
    with pytest.raises(UserError, match="not the arrays of the run"):
        train(run / "config.yaml", run="other", data=(data[0][::-1], *data[1:]), quiet=True)
    assert not Path("other").exists()


def test_a_run_on_arrays_goes_on_bit_for_bit(short: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from proard.training import trainer as trainer_module

    data = made()
    short["phases"][0]["epochs"] = 2
    whole = train(short, run="whole", data=data, quiet=True)
    step = trainer_module.Trainer._update
    calls = []

    def dying(self: Any, images: int) -> None:
        calls.append(images)
        if len(calls) == 6:  # in the second epoch
            raise KeyboardInterrupt
        step(self, images)

    with monkeypatch.context() as patched:
        patched.setattr(trainer_module.Trainer, "_update", dying)
        with pytest.raises(KeyboardInterrupt):
            train(short, run="part", data=data, quiet=True)
    with pytest.raises(UserError, match="not the arrays of the run"):
        train(resume=True, run="part", data=(*data[:2], data[2][::-1], *data[3:]), quiet=True)
    resumed = train(resume=True, run="part", data=data, quiet=True)
    for tensor, other in zip(weights(whole).values(), weights(resumed).values(), strict=True):
        assert torch.equal(tensor, other)


def given(**changes: Any) -> tuple[Any, ...]:
    parts = dict(zip(("images", "labels", "test_images", "test_labels", "names"), made(), strict=True))
    return tuple({**parts, **changes}.values())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (made()[:2], ["give (images, labels, test_images, test_labels)", "got 2"]),
        (5, ["give (images, labels, test_images, test_labels)", "got int"]),
        (given(names="ab"), ["names of the classes must be a list", "'ab'"]),
        (given(names=2), ["names of the classes must be a list", "2"]),
        (given(images=made()[0].astype(np.int64)), ["training images", "int64", "uint8, or floats"]),
        (given(images=made()[0].astype(np.float32)), ["floats from 0 to 239", "uint8 from 0 to 255"]),
        (given(images=np.full((48, 8, 8), np.nan)), ["floats from nan to nan"]),
        (given(images=made()[0][0]), ["48 labels", "8 images"]),
        (given(images=np.zeros((48, 8), np.uint8)), ["(48, 8)", "(N, C, H, W)"]),
        (given(images=np.zeros((48, 8, 8, 8), np.uint8)), ["at most 4"]),
        (given(images=[["a"]]), ["training images", "no array of numbers", "give uint8, or floats"]),
        (given(labels=np.array(["cat", "dog"])[made()[1]]), ["training labels", "give whole numbers"]),
        (given(images=made()[0][:0], labels=made()[1][:0]), ["0 images and 0 labels; give images"]),
        (given(labels=made()[1] / 1), ["training labels", "float64", "whole numbers"]),
        (given(labels=made()[1] + 1), ["from 1 to 2", "from 0 to 1"]),
        (given(labels=made()[1] + 1, test_labels=made()[3] + 1, names=None), ["no training images of label 0"]),
        (given(test_labels=made()[3] + 1), ["test labels", "from 1 to 2"]),
        (given(labels=made()[1][:-1]), ["48 images and 47 labels"]),
        (given(labels=0 * made()[1], test_labels=0 * made()[3], names=None), ["has a single class"]),
        (given(labels=made()[1] - 1, names=None), ["training labels", "from -1 to 0", "count from 0"]),
        (given(labels=made()[1] * 10**12, names=None), ["no training images of label 1"]),
        (given(test_images=made()[2][:, :6]), ["training images are 3x8x8, test images 3x6x8"]),
        (given(test_images=made()[2][..., :1]), ["training images are 3x8x8, test images 1x8x8"]),
    ],
)
def test_wrong_arrays_are_one_line_and_leave_nothing(
    data: tuple[Any, ...], words: list[str], short: dict[str, Any]
) -> None:
    with pytest.raises(UserError) as raised:
        train(short, run="run", data=data, quiet=True)
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not Path("run").exists()


def test_floats_that_are_rounded_are_said(capsys: Capture) -> None:
    data = made()
    exact = (data[0] / 255).astype(np.float16)
    assert given_arrays((exact, *data[1:])) is not None
    assert capsys.readouterr().err == ""
    given_arrays((data[0] / 256, *data[1:]))
    assert capsys.readouterr().err == "data, training images: rounded to 8 bits, by up to 0.002\n"


def test_layouts_are_the_same_images() -> None:
    data = made()
    sets = [given_arrays((images, *data[1:])) for images in (data[0], data[0].transpose(0, 3, 1, 2).copy())]
    sets.append(given_arrays((torch.from_numpy(data[0]), *map(torch.from_numpy, data[1:4]), NAMES)))
    digests = {arrays_module.digest(loaded) for loaded in sets if loaded}
    assert len(digests) == 1
    one = given_arrays((data[0][..., 0], data[1], data[2][..., 0], data[3]))
    assert one is not None
    assert pixels(one[0]).shape == (48, 1, 8, 8)
    assert one[2] == ("0", "1")


# ---------------------------------------------------------------------------------------------------------------------
# Files that are wrong


def wrong_npz(_: Arrays, root: Path) -> dict[str, Any]:
    np.savez(root.with_suffix(".npz"), image=np.zeros((2, 8, 8)), label=[0, 1])
    return {"name": "npz", "root": str(root.with_suffix(".npz"))}


def objects(_: Arrays, root: Path) -> dict[str, Any]:
    no_images = np.array([{}, None], dtype=object)
    np.savez(root.with_suffix(".npz"), x_train=made()[0], y_train=made()[1], x_test=no_images, y_test=[0, 1])
    return {"name": "npz", "root": str(root.with_suffix(".npz"))}


def empty(_: Arrays, root: Path) -> dict[str, Any]:
    root.mkdir()
    return {"name": "huggingface", "root": str(root)}


def mixed_sizes(data: Arrays, root: Path) -> dict[str, Any]:
    config = as_parquet(data, root)
    file = root / "test-00000-of-00001.parquet"
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(root / "cache"))
    rows = rows.cast_column("image", datasets.Image(decode=False)).to_dict()
    rows["image"][3]["bytes"] = png(np.zeros((9, 8, 3), np.uint8))
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(NAMES)))
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    return config


def broken(data: Arrays, root: Path) -> dict[str, Any]:
    config = as_plain_parquet((data[0][..., :1].copy(), *data[1:]), root)
    import pyarrow
    from pyarrow import parquet

    table = {"picture": [b"no image"] * 2, "kind": list(NAMES)}
    parquet.write_table(pyarrow.table(table), root / "validation.parquet")
    return config


def unlabelled(data: Arrays, root: Path) -> dict[str, Any]:
    config = as_plain_parquet(data, root)
    import pyarrow
    from pyarrow import parquet

    for file in root.glob("*.parquet"):
        table = parquet.read_table(file)
        kinds = [float("nan"), *range(1, len(table))]
        table = table.set_column(table.column_names.index("kind"), "kind", pyarrow.array(kinds, pyarrow.float64()))
        parquet.write_table(table, file)
    return config


def with_colours(data: Arrays, root: Path) -> dict[str, Any]:
    return as_plain_parquet((data[0][..., :1].copy(), *data[1:]), root)


def changed(write: Callable[..., dict[str, Any]], **changes: Any) -> Callable[..., dict[str, Any]]:
    return lambda data, root: {**write(data, root), **changes}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (changed(as_npz, root="none.npz"), ["none.npz", "cannot be read"]),
        (changed(as_npz, root=None), ["needs data.root"]),
        (changed(as_npz, image_size=8), ["no data.image_size"]),
        (changed(as_npz, root="."), ["train.npz and test.npz"]),
        (changed(as_npz, label="y"), ["data set 'npz' has no option 'label'"]),
        (wrong_npz, ["has image, label", "test_images and test_labels", "x_test and y_test"]),
        (objects, ["cannot be read", "allow_pickle"]),
        (changed(as_parquet, root="none"), ["no such folder", "hub:OWNER/NAME"]),
        (changed(as_parquet, root="hub:a/b"), ["hub:a/b", "is not on this machine", "data.download=true"]),
        (changed(as_parquet, root="hub:a b"), ["give hub:OWNER/NAME"]),
        (empty, ["set", "cannot be read as a data set"]),
        (changed(as_parquet, image="img"), ["no column 'img' (data.image)", "did you mean 'image'?"]),
        (changed(as_parquet, image="label"), ["column 'label' has no images"]),
        (changed(as_parquet, imge="label"), ["data set 'huggingface' has no option 'imge'", "'image'"]),
        (changed(as_parquet, channels=2), ["option 'channels'", "1 or 3"]),
        (lambda data, root: as_parquet(data, root, "train2"), ["it must have train, and test or validation"]),
        (mixed_sizes, ["test: image 3 is of another size", "data.image_size"]),
        (broken, ["validation: image", "cannot be read"]),
        (unlabelled, ["column 'kind' has no label (nan) for some images"]),
        (with_colours, ["validation: image", "has colours", "data.channels"]),
        (lambda data, root: as_plain_parquet((*data[:3], 0 * data[3], NAMES), root), []),  # a class is not tested
    ],
)
def test_wrong_files_are_one_line_and_leave_nothing(
    write: Callable[..., Any], words: list[str], short: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    short["data"] |= write(made(), tmp_path / "set")
    Path("short.yaml").write_text(yaml.safe_dump(short))
    capsys.readouterr()
    assert command("train", "--config", "short.yaml", "--run", "run", "--quiet") == (2 if words else 0)
    if words:
        (line,) = capsys.readouterr().err.splitlines()
        assert all(word in line for word in words), line
        assert not Path("run").exists()


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from proard.data import huggingface

    monkeypatch.setattr(huggingface, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'proard\[datasets\]'"):
        load_data(DataConfig(name="huggingface", root=Path(".")))


def test_the_hub_is_asked_only_with_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    as_parquet(made(), tmp_path / "snapshot")
    asked = []

    def snapshot(repository: str, **options: Any) -> str:
        asked.append((repository, options["revision"], options["repo_type"], options["local_files_only"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for download in (False, True):
        config = parse_config({"data": {"name": "huggingface", "root": "hub:me/set@v1", "download": download}})
        assert load_data(config.data).class_names == NAMES
    assert asked == [("me/set", "v1", "dataset", True), ("me/set", "v1", "dataset", False)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server on this machine that has the set me/set as the Hub would; what it was asked for."""
    folder, commit, asked = tmp_path / "served", "1" * 40, []
    as_parquet(made(), folder)
    (folder / "notes.txt").write_text("not asked for")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            body, status = b"{}", 404
            if path.startswith("/api/datasets/me/set/"):  # of a revision: what it is
                files = [{"rfilename": file.name} for file in folder.iterdir()]
                about: Any = {"id": "me/set", "sha": commit, "siblings": files}
                if "/tree/" in path:  # the same, as newer versions ask
                    about = [
                        {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": commit}
                        for file in folder.iterdir()
                    ]
                body, status = json.dumps(about).encode(), 200
            elif (file := folder / path.rpartition("/")[2]).is_file():
                body, status = file.read_bytes(), 200
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield asked
    server.shutdown()
    server.server_close()


def test_a_set_is_fetched_from_the_hub_once(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Parquet files alone; afterwards it is there without a network."""
    root = {"name": "huggingface", "root": "hub:me/set"}
    with pytest.raises(UserError, match=r"is not on this machine; set data\.download=true"):
        load_data(DataConfig.model_validate(root))
    assert hub == []
    fetched = load_data(DataConfig.model_validate({**root, "download": True}))
    assert fetched.class_names == NAMES
    assert any(".parquet" in request for request in hub)
    assert not any("notes.txt" in request for request in hub)
    hub.clear()
    assert load_data(DataConfig.model_validate(root)).fingerprint() == fetched.fingerprint()
    assert hub == []
    with pytest.raises(UserError) as raised:
        load_data(DataConfig.model_validate({**root, "root": "hub:me/other", "download": True}))
    assert "hub:me/other" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_only_test_images_are_needed_to_evaluate(short: dict[str, Any], tmp_path: Path) -> None:
    config = DataConfig(**as_plain_parquet(made(), tmp_path / "parquet"))
    test = load_data(config).test
    (tmp_path / "parquet" / "train.parquet").unlink()
    alone = load_test_split(config, NAMES)
    assert (alone.class_names, alone.input_shape) == (NAMES, (3, 8, 8))
    assert torch.equal(pixels(alone.test), pixels(test))

    short["data"] |= as_npz_of_splits(made(), tmp_path / "npz")
    run = train(short, run="run", quiet=True)
    (student,) = extract(flops="1G", run=run, quiet=True)
    (tmp_path / "npz" / "train.npz").unlink()
    (again,) = evaluate(student.path)
    assert again.measurement.clean.value == student.card["clean_accuracy"]


# ---------------------------------------------------------------------------------------------------------------------
# Options of a set of one's own


def test_a_set_of_ones_own_has_options(monkeypatch: pytest.MonkeyPatch, short: dict[str, Any], capsys: Capture) -> None:
    monkeypatch.setattr(data_sets, "_entries", dict(data_sets._entries))

    @data_sets.register("noise")
    def noise(config: DataConfig, low: float, side: int = 4) -> Any:
        """Noise."""
        labels = torch.arange(40) % 2
        images = torch.full((40, 1, side, side), round(255 * low), dtype=torch.uint8)
        return ImageSet(images, labels), ImageSet(images, labels), ("a", "b")

    config = parse_config({"data": {"name": "noise", "low": "51/255", "side": 6}})
    loaded = load_data(config.data)
    assert loaded.input_shape == (1, 6, 6)
    assert loaded.mean == pytest.approx((0.2,))
    assert parse_config(yaml.safe_load(config.to_yaml())) == config
    for options, words in (
        ({"low": 0.5, "sde": 3}, "data set 'noise' has no option 'sde'; did you mean 'side'?"),
        ({"low": 0.5, "side": "big"}, "option 'side' of data set 'noise' should be a valid integer"),
        ({}, "missing 1 required positional argument: 'low'"),
    ):
        with pytest.raises(UserError, match=words.replace("?", r"\?")):
            load_data(DataConfig(name="noise", **options))  # type: ignore[arg-type]


def of_ones_own(**changes: Any) -> tuple[Any, Any, Any]:
    """What a set must give, with something else in places."""
    images = torch.zeros((40, 1, 4, 4), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    parts = {"images": images, "labels": labels, "test_images": images, "test_labels": labels, "names": ("a", "b")}
    parts |= changes
    train, test = (ImageSet(parts[f"{name}images"], parts[f"{name}labels"]) for name in ("", "test_"))
    return train, test, parts["names"]


NONE = torch.zeros((0, 1, 4, 4), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (lambda: of_ones_own(names=["a", "b"]), ""),
        (lambda: of_ones_own()[:2], "must give training images and test images, as ImageSet, and names"),
        (lambda: None, "must give training images"),
        (lambda: (NONE, NONE, ("a", "b")), "must give training images"),
        (lambda: of_ones_own(names="ab"), "must give training images"),
        (lambda: of_ones_own(names=("a",)), "names one class; two or more"),
        (lambda: of_ones_own(labels=torch.arange(40) % 3), "training labels: are from 0 to 2; with 2 classes"),
        (lambda: of_ones_own(test_labels=torch.arange(40) % 3), "test labels: are from 0 to 2; with 2 classes"),
        (lambda: of_ones_own(labels=torch.arange(40) % 2 - 1), "training labels: are from -1 to 0"),
        (
            lambda: of_ones_own(test_images=torch.zeros((40, 3, 4, 4), dtype=torch.uint8)),
            "are 1x4x4, test images 3x4x4",
        ),
        (lambda: of_ones_own(test_images=NONE, test_labels=torch.zeros(0, dtype=torch.int64)), "has no test images"),
        (lambda: of_ones_own(images=NONE, labels=torch.zeros(0, dtype=torch.int64)), "has no training images"),
        (lambda: Path("none").read_text(), "cannot be read ([Errno 2] No such file"),
    ],
)
def test_what_a_set_of_ones_own_gives_is_checked(
    gives: Callable[[], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, before anything is trained: else it fails late, or never and trains on what it should not."""
    monkeypatch.setattr(data_sets, "_entries", dict(data_sets._entries))
    data_sets.register("mine")(lambda config: gives())
    if not words:
        assert load_data(DataConfig(name="mine")).num_classes == 2
        return
    with pytest.raises(UserError) as raised:
        load_data(DataConfig(name="mine"))
    message = str(raised.value)
    assert message.startswith("data mine")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_order_of_bytes_does_not_matter(order: str) -> None:
    """Such as arrays that were read from a file of the IDX format, which counts from the other end."""
    images, labels = made()[:2]
    ordered = arrays_module.image_set((images / 255).astype(f"{order}f4"), labels.astype(f"{order}i4"), "data")
    for mine, same in zip(
        ordered.tensors().values(), arrays_module.image_set(images, labels, "data").tensors().values(), strict=True
    ):
        assert torch.equal(mine, same)


def test_a_student_is_evaluated_on_images_of_its_size(short: dict[str, Any]) -> None:
    """A convolutional network answers on others as well, which are not what its card is about."""
    data = made()
    run = train(short, run="run", data=data, quiet=True)
    (student,) = extract(flops="1G", run=run, data=data, quiet=True)
    evaluate(student.path, data=data[2:4])
    for other, words in ((data[2][:, :6], "3x6x8"), (data[2][..., :1], "1x8x8")):
        with pytest.raises(UserError, match=f"takes images of 3x8x8, and those to evaluate it on are {words}"):
            evaluate(student.path, data=(other, data[3]))
