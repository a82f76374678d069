"""Sets whose parts do not agree, or that are not what they should be: mended where that is certain, else one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from formats import NAMES, Arrays, as_folder, as_npz_of_splits, as_parquet, as_plain_parquet, made, png
from PIL import Image
from running import command

from proard import evaluate, extract, train
from proard.common.errors import UserError
from proard.config import DataConfig
from proard.config.schema import ExtraConfig
from proard.data import (
    ImageSet,
    decode_image,
    given_arrays,
    given_test_images,
    load_data,
    load_test_split,
    training_images,
)

datasets = pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
Write = Callable[[Arrays, Path], dict[str, Any]]


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.chdir(tmp_path)


def refused(call: Callable[[], Any]) -> str:
    """The one line by which it ends."""
    with pytest.raises(UserError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert "object at" not in message
    return message


def pixels(images: ImageSet) -> torch.Tensor:
    ((batch, labels),) = images.batches([torch.arange(len(images))], "cpu")
    assert torch.equal(labels, images.labels)
    return batch


def config_of(data: dict[str, Any]) -> dict[str, Any]:
    """A training of a second on it."""
    phase = {"name": "all", "epochs": 1, "learning_rate": 0.1, "elastic": ["all"], "recipe": "strong"}
    return {
        "supernet": {"family": "resnet", "widths": [8, 8], "blocks": [1, 1]},
        "batch_size": 8,
        "phases": [phase],
        "validation": {"students": 0, "images": 8, "attack": {"steps": 1}},
        "search": {"candidates": 1, "mutations": 0, "images": 8, "attack": {"steps": 1}},
        "evaluation": {"attack": {"steps": 1}},
        "energy": {"enabled": False},
        "data": {"validation": 0.25, "augmentation": {"crop_padding": 0, "flip": False}, **data},
    }


# ---------------------------------------------------------------------------------------------------------------------
# Names of classes


def npz_of_splits(data: Arrays, root: Path, tested: tuple[str, ...]) -> dict[str, Any]:
    config = as_npz_of_splits(data, root)
    np.savez(root / "val.npz", x=data[2], y=data[3], class_names=np.array(tested))
    return config


def saved_to_disk(data: Arrays, root: Path, tested: tuple[str, ...]) -> dict[str, Any]:
    parts = {}
    for split, images, labels, names in (("train", *data[:2], NAMES), ("test", *data[2:4], tested)):
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(names)))
        rows = {"image": [{"bytes": png(image), "path": None} for image in images], "label": labels.tolist()}
        parts[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(parts).save_to_disk(root)
    return {"name": "huggingface", "root": str(root)}


@pytest.mark.parametrize("write", [npz_of_splits, saved_to_disk])
@pytest.mark.parametrize("limit", [4e9, 10.0])
def test_labels_count_by_their_own_names(write: Any, limit: float, tmp_path: Path) -> None:
    data = made()
    swapped = (*data[:3], 1 - data[3], NAMES)
    config = DataConfig(**write(swapped, tmp_path / "set", NAMES[::-1]), memory_limit=limit, workers=0)
    loaded = load_data(config)
    assert loaded.class_names == NAMES
    assert loaded.test.labels.tolist() == data[3].tolist()
    for known in (NAMES, ()):
        alone = load_test_split(config, known)
        assert (alone.class_names, alone.test.labels.tolist()) == (NAMES, data[3].tolist())
    foreign = DataConfig(**write(data, tmp_path / "foreign", ("dark", "bird")))
    assert "has labels that are no classes: bird (classes: dark, light)" in refused(lambda: load_data(foreign))
    assert "bird (classes: dark, light)" in refused(lambda: load_test_split(foreign, NAMES))


def test_extra_images_count_by_their_own_names(tmp_path: Path) -> None:
    data = made()
    config = DataConfig(**as_npz_of_splits(data, tmp_path / "npz"))
    for names, words in ((NAMES[::-1], None), (("dark", "bird"), "its: has labels that are no classes: bird")):
        np.savez("extra.npz", image=data[0], label=1 - data[1], class_names=np.array(names))
        extra = ExtraConfig(file=Path("extra.npz"), fraction=0.5)
        if words is not None:
            assert words in refused(lambda extra=extra: training_images(load_data(config), extra, 4e9))
            continue
        source = training_images(load_data(config), extra, 4e9)
        assert source.images.labels[source.own :].tolist() == data[1].tolist()


def test_a_student_is_measured_by_the_names_of_its_classes(tmp_path: Path) -> None:
    data = made()
    run = train(config_of(as_npz_of_splits(data, tmp_path / "npz")), run="run", quiet=True)
    (student,) = extract(flops="1G", run=run, quiet=True)
    (expected,) = evaluate(student.path)
    npz_of_splits((*data[:3], 1 - data[3], NAMES), tmp_path / "other", NAMES[::-1])
    (elsewhere,) = evaluate(student.path, data_root="other")
    given = (data[0], 1 - data[1], data[2], 1 - data[3], NAMES[::-1])
    (arrays,) = evaluate(student.path, data=given)
    assert expected.measurement == elsewhere.measurement == arrays.measurement
    named = (*data[:4], ("cat", "dog"))
    assert "no classes: cat, dog (classes: dark, light)" in refused(lambda: evaluate(student.path, data=named))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a", "a"), "two classes have the name 'a'"),
        (np.array("a,b"), "must be a list of them, got array('a,b'"),
        ({"a": 0, "b": 1}, "must be a list of them, got {'a': 0"),
    ],
)
def test_wrong_names(names: Any, words: str, tmp_path: Path) -> None:
    assert words in refused(lambda: given_arrays((*made()[:4], names)))
    if isinstance(names, np.ndarray | tuple):
        config = as_npz_of_splits(made(), tmp_path / "npz")
        np.savez(tmp_path / "npz" / "train.npz", image=made()[0], label=made()[1], class_names=names)
        assert "class_names: " in refused(lambda: load_data(DataConfig(**config)))


def test_arrays_of_other_libraries() -> None:
    pandas = pytest.importorskip("pandas")
    data = made()
    labels = pandas.Series(data[1], index=range(7, 7 + len(data[1])))
    names = np.array([name.encode() for name in NAMES])
    photographs = [Image.fromarray(image) for image in data[0]]
    loaded = given_arrays((photographs, labels, *data[2:4], names))
    assert loaded is not None
    assert torch.equal(loaded[0].labels, torch.from_numpy(data[1]))
    assert torch.equal(pixels(loaded[0]), torch.from_numpy(data[0]).permute(0, 3, 1, 2) / 255)
    assert loaded[2] == NAMES
    assert given_arrays((*data[:4], pandas.Series(NAMES)))[2] == NAMES  # type: ignore[index]
    assert "images: are no array of numbers (a single one" in refused(lambda: given_arrays((3, *data[1:])))


# ---------------------------------------------------------------------------------------------------------------------
# A network from elsewhere, on sets that do not name their classes


def test_classes_of_sets_without_names(tmp_path: Path) -> None:
    data = made()
    config = as_npz_of_splits(data, tmp_path / "npz")
    np.savez(tmp_path / "npz" / "train.npz", image=data[0], label=data[1])
    few = data[3] == 1  # one of the classes alone is tested
    np.savez(tmp_path / "npz" / "val.npz", image=data[2][few], label=data[3][few])
    split = load_test_split(DataConfig(**config), ())
    assert (split.class_names, set(split.test.labels.tolist())) == (("0", "1"), {1})

    plain = as_plain_parquet((*data[:2], data[2][few], data[3][few], NAMES), tmp_path / "parquet")
    split = load_test_split(DataConfig(**plain), ())
    assert (split.class_names, set(split.test.labels.tolist())) == (NAMES, {1})

    folder = as_folder(data, tmp_path / "folder")
    (tmp_path / "folder" / "train").rename(tmp_path / "away")
    assert load_test_split(DataConfig(**folder), ()).class_names == NAMES

    for given, names in ((data[2:4], ("0", "1")), (data[:4], ("0", "1")), (data, NAMES)):
        images, classes = given_test_images(given, ())
        assert (images.labels.tolist(), classes) == (data[3].tolist(), names)


def test_a_network_from_elsewhere_on_such_a_set(tmp_path: Path) -> None:
    data = made()
    config = config_of(as_npz_of_splits(data, tmp_path / "npz"))
    for split, images, labels in (("train", *data[:2]), ("val", *data[2:4])):
        np.savez(tmp_path / "npz" / f"{split}.npz", image=images, label=labels)
    (student,) = extract(flops="1G", run=train(config, run="run", quiet=True), quiet=True)
    Path("own.yaml").write_text(yaml.safe_dump(config))
    source = json.dumps({"source": str(student.path / "student.pt2"), "trusted": True})
    for given in (None, data[2:4]):
        (found,) = evaluate(source, config="own.yaml", data=given)
        assert found.measurement.clean.value == student.card["clean_accuracy"]


# ---------------------------------------------------------------------------------------------------------------------
# What is measured on other images


def test_the_record_of_a_student_is_of_its_own_images() -> None:
    data = made()
    config = config_of({})
    run = train(config, run="run", data=data, quiet=True)
    (student,) = extract(flops="1G", run=run, data=data, quiet=True)
    record, card = student.path / "autoattack.json", (student.path / "README.md").read_text()
    (other,) = evaluate(student.path, ["autoattack"], data=(255 - data[2], data[3]))
    assert other.measurement.robust["autoattack"].total == len(data[3])
    assert not record.exists()
    assert (student.path / "README.md").read_text() == card
    evaluate(student.path, ["autoattack"], data=(data[0], data[1], data[2][::-1], data[3][::-1], NAMES))
    assert not record.exists()
    evaluate(student.path, ["autoattack"], data=data)
    assert record.exists()


# ---------------------------------------------------------------------------------------------------------------------
# Parquet files


def with_rows(write: Write, change: Callable[[dict[str, list[Any]]], Any], split: str = "test") -> Write:
    """A set in Parquet files, with a split changed."""

    def written(data: Arrays, root: Path) -> dict[str, Any]:
        import pyarrow
        from pyarrow import parquet

        config = write(data, root)
        (file,) = root.glob(f"{split}*.parquet")
        table = parquet.read_table(file)
        values = table.to_pydict()
        change(values)
        parquet.write_table(pyarrow.table(values, schema=table.schema), file)
        return config

    return written


def spoil(rows: dict[str, list[Any]]) -> None:
    rows["image"][7] = {"bytes": b"no image", "path": None}
    rows["image"][9] = None
    rows["image"][11]["bytes"] = rows["image"][11]["bytes"][:60]


@pytest.mark.parametrize("limit", [4e9, 10.0])
def test_broken_images_are_named_before_anything_is_trained(limit: float, tmp_path: Path, capsys: Capture) -> None:
    data = made()
    config = with_rows(as_parquet, spoil)(data, tmp_path / "set") | {"memory_limit": limit, "workers": 0}
    Path("own.yaml").write_text(yaml.safe_dump(config_of(config)))
    for arguments in (("train", "--config", "own.yaml", "--run", "run", "--quiet"),) * 2:  # the second time remembered
        capsys.readouterr()
        assert command(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "3 images cannot be read: test: image 7 (no image), test: image 9 (the cell is empty), test: " in line
        assert "data.skip_broken: true" in line
        assert "object at" not in line
    assert not Path("run").exists()
    loaded = load_data(DataConfig(**config, skip_broken=True))
    assert "3 images cannot be read" in capsys.readouterr().err
    kept = np.setdiff1d(np.arange(16), [7, 9, 11])
    assert loaded.test.labels.tolist() == data[3][kept].tolist()
    assert torch.equal(pixels(loaded.test), torch.from_numpy(data[2][kept]).permute(0, 3, 1, 2) / 255)


def test_a_first_image_that_is_broken(tmp_path: Path) -> None:
    def first(rows: dict[str, list[Any]]) -> None:
        rows["image"][0] = None

    config = with_rows(as_parquet, first, "train")(made(), tmp_path / "set")
    assert "1 image cannot be read: train: image 0 (the cell is empty)" in refused(
        lambda: load_data(DataConfig(**config))
    )
    loaded = load_data(DataConfig(**config, skip_broken=True))
    assert len(loaded.train) + len(loaded.validation) == 47


def test_streamed_images_of_another_size_are_named_at_once(tmp_path: Path) -> None:
    def larger(rows: dict[str, list[Any]]) -> None:
        rows["image"][3]["bytes"] = png(np.zeros((9, 8, 3), np.uint8))

    config = with_rows(as_parquet, larger)(made(), tmp_path / "set")
    streamed = DataConfig(**config, memory_limit=10, workers=0)
    assert "test: image 3 is of another size" in refused(lambda: load_data(streamed))


@pytest.mark.parametrize("nothing", [-1, None])
def test_a_split_without_labels_is_not_tested_on(nothing: int | None, tmp_path: Path, capsys: Capture) -> None:
    def unlabelled(rows: dict[str, list[Any]]) -> None:
        rows["label"] = [nothing] * len(rows["label"])

    def and_validation(data: Arrays, root: Path) -> dict[str, Any]:
        config = as_parquet(data, root)
        (root / "validation-00000-of-00001.parquet").write_bytes((root / "test-00000-of-00001.parquet").read_bytes())
        return config

    config = with_rows(and_validation, unlabelled)(made(), tmp_path / "set")
    assert load_data(DataConfig(**config)).test.labels.tolist() == made()[3].tolist()
    assert "left out test: it has no labels; validation is tested on" in capsys.readouterr().err
    alone = with_rows(as_parquet, unlabelled)(made(), tmp_path / "alone")
    assert f"test: column 'label' has no label ({nothing})" in refused(lambda: load_data(DataConfig(**alone)))


@pytest.mark.parametrize(("values", "classes"), [((0, 1, -1), None), ((-1, 1), ("-1", "1")), ((3, 10), ("3", "10"))])
def test_labels_that_are_numbers(values: tuple[int, ...], classes: tuple[str, ...] | None, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    data = made()
    (tmp_path / "set").mkdir()
    for split, images in (("train", data[0]), ("test", data[2])):
        table = {
            "image": [png(image) for image in images],
            "label": [values[i % len(values)] for i in range(len(images))],
        }
        parquet.write_table(pyarrow.table(table), tmp_path / "set" / f"{split}.parquet")
    config = DataConfig(name="huggingface", root=tmp_path / "set")
    if classes is None:
        assert "train: column 'label' has no label (-1) for some images" in refused(lambda: load_data(config))
    else:
        assert load_data(config).class_names == classes


def test_a_grey_test_split_of_a_colour_set(tmp_path: Path) -> None:
    data = made()
    grey = data[2][..., :1].repeat(3, axis=3)

    def without_colour(rows: dict[str, list[Any]]) -> None:
        for row, image in zip(rows["image"], grey, strict=True):
            row["bytes"] = png(image[..., :1])

    config = DataConfig(**with_rows(as_parquet, without_colour)(data, tmp_path / "set"))
    whole, alone = load_data(config), load_test_split(config, NAMES)
    assert whole.input_shape == alone.input_shape == (3, 8, 8)
    assert torch.equal(pixels(whole.test), pixels(alone.test))


def test_why_a_set_cannot_be_read(tmp_path: Path) -> None:
    config = DataConfig(**as_parquet(made(), tmp_path / "set"))
    (tmp_path / "set" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")
    assert "cannot be read as a data set (An error occurred while generating the dataset: " in refused(
        lambda: load_data(config)
    )
    split = datasets.Dataset.from_dict({"image": [], "label": []})
    split.save_to_disk(tmp_path / "one")
    one = DataConfig(name="huggingface", root=tmp_path / "one")
    assert "is one split alone; save a DatasetDict with train and test" in refused(lambda: load_data(one))


# ---------------------------------------------------------------------------------------------------------------------
# Images


def test_a_folder_without_a_readable_image(tmp_path: Path) -> None:
    config = as_folder(made(), tmp_path / "set")
    for file in (tmp_path / "set" / "test").rglob("*.png"):
        file.write_bytes(b"no image")
    message = refused(lambda: load_data(DataConfig(**config, skip_broken=True)))
    assert f"data {tmp_path}/set/test: has no image that can be read" in message


def test_a_class_without_readable_images_is_said(tmp_path: Path, capsys: Capture) -> None:
    config = as_folder(made(), tmp_path / "set")
    for file in (tmp_path / "set" / "train" / "dark").glob("*.png"):
        file.write_bytes(b"no image")
    load_data(DataConfig(**config, skip_broken=True))
    assert "data image_folder: has no training images of dark\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: images, None),
        (lambda images: np.full_like(images, 7), "training images are all alike; are they what they should be?"),
        (lambda images: images[:1].repeat(len(images), axis=0), "training images are all alike"),
        (
            lambda images: images > 120,
            "have hardly any contrast (0.002 in the mean, with a standard deviation of 0.002",
        ),
    ],
)
def test_implausible_images_are_said(change: Any, words: str | None, capsys: Capture) -> None:
    data = made()
    images = change(data[0]).astype(np.uint8)
    given = given_arrays((images, data[1], images, data[1]))
    load_data(DataConfig(name="arrays"), given=given)
    said = capsys.readouterr().err
    assert (words in said and len(said.splitlines()) == 1) if words else not said


def test_extra_images_are_not_the_set_itself(tmp_path: Path) -> None:
    config = as_npz_of_splits(made(), tmp_path / "npz")
    for name in ("train.npz", "val.npz"):
        extra = {"file": str(tmp_path / "npz" / name), "fraction": 0.5}
        assert "is of the set itself" in refused(lambda extra=extra: load_data(DataConfig(**config, extra=extra)))
    extra["file"] = str(tmp_path / "npz" / "generated.npz")
    load_data(DataConfig(**config, extra=extra))


def test_a_small_part_has_two_images_of_every_class() -> None:
    labels = np.repeat([0, 1], [1000, 10])
    images = np.random.default_rng(0).integers(0, 256, (1010, 4, 4), dtype=np.uint8)
    loaded = load_data(DataConfig(name="arrays", limit=20), given=given_arrays((images, labels, images, labels)))
    assert len(loaded.train) + len(loaded.validation) == 20
    assert set(loaded.train.labels.tolist()) == set(loaded.validation.labels.tolist()) == {0, 1}


def test_decode_image_is_public(tmp_path: Path) -> None:
    Image.fromarray(made()[0][0]).save(tmp_path / "image.png")
    assert np.array_equal(decode_image(tmp_path / "image.png", 8), made()[0][0].transpose(2, 0, 1))
