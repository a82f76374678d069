"""Further images, such as generated ones: their share of every batch, and training with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from running import command

from proard import extract, train
from proard.common.distributed import share
from proard.common.errors import UserError
from proard.config import parse_config
from proard.data import ImageSet, TrainingImages, load_data, training_images
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import Run
from proard.training.plan import plan
from proard.training.trainer import Trainer

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def short(tiny: dict[str, Any]) -> dict[str, Any]:
    """A training of digits with 300 random images beside them, of which every batch has a quarter."""
    tiny["data"] |= {"limit": 100, "extra": {"file": "generated.npz", "fraction": 0.25}}
    tiny["supernet"] |= {"widths": [8, 8]}
    tiny["phases"] = [{**tiny["phases"][2], "epochs": 2, "objective": {"name": "trades"}}]
    tiny["validation"] |= {"students": 0}
    write()
    return tiny


def write(name: str = "generated.npz", save: Callable[..., None] = np.savez, **changes: Any) -> None:
    """Images as published sets have them."""
    images = np.random.default_rng(1).integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
    arrays = {"image": images, "label": np.arange(300) % 10, **changes}
    save(name, **{key: array for key, array in arrays.items() if array is not None})


def weights(run: Path) -> list[torch.Tensor]:
    return list(load_checkpoint(run / "checkpoint.pt")["supernet"].values())


# ---------------------------------------------------------------------------------------------------------------------
# The order


def numbered(count: int, low: int) -> ImageSet:
    """Images whose first pixel and label say which they are."""
    numbers = torch.arange(low, low + count)
    return ImageSet(numbers.to(torch.uint8)[:, None, None, None].repeat(1, 1, 2, 2), numbers)


@settings(max_examples=60, deadline=None)
@given(
    own=st.integers(1, 200),
    others=st.integers(1, 200),
    batch_size=st.integers(2, 64),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_every_batch_has_its_share_and_an_epoch_is_one_pass(
    own: int, others: int, batch_size: int, fraction: float, seed: int
) -> None:
    source = TrainingImages(numbered(own + others, 0), own, fraction)
    batches = source.batches(batch_size, (seed, 0, 0))
    count = source.others_in(batch_size)
    assert abs(count - fraction * batch_size) <= 1
    assert {int((batch >= own).sum()) for batch in batches} == {count}
    together = torch.cat(batches)
    mine = together[together < own]
    assert len(mine.unique()) == len(mine)  # no image twice
    assert len(mine) > own - batch_size  # all but a last batch that is not full
    times = torch.bincount(together[together >= own] - own, minlength=others)
    assert times.max() - times.min() <= 1
    assert all(torch.equal(a, b) for a, b in zip(batches, source.batches(batch_size, (seed, 0, 0)), strict=True))


def test_epochs_differ_in_which_others_and_where() -> None:
    source = TrainingImages(numbered(150, 0), 50, 0.5)
    epochs = [torch.cat(source.batches(10, seed)) for seed in ((0, 0, 0), (0, 0, 1), (1, 0, 0))]
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3
    assert len({tuple((epoch >= 50).tolist()) for epoch in epochs}) == 3
    assert len({tuple(epoch[epoch >= 50].unique().tolist()) for epoch in epochs}) == 3


def test_without_others_the_order_is_as_it_was() -> None:
    from proard.data import epoch_batches

    plain = TrainingImages(numbered(50, 0), 50).batches(8, (1, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(plain, epoch_batches(50, 8, (1, 2, 3)), strict=True))


def test_processes_have_the_images_of_one(short: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(short)
    source = training_images(load_data(config.data), config.data.extra, config.data.memory_limit)
    order = source.batches(config.batch_size, (0, 0, 0))
    whole = list(source.images.batches(order, "cpu"))
    monkeypatch.setattr("proard.common.distributed.world_size", lambda: 3)
    parts = []
    for here in range(3):
        monkeypatch.setattr("proard.common.distributed.rank", lambda here=here: here)
        parts.append(list(source.images.batches([batch[share(len(batch))] for batch in order], "cpu")))
    for index, (images, labels) in enumerate(whole):
        assert torch.equal(images, torch.cat([part[index][0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[index][1] for part in parts]))
    assert all((batch[:11] >= source.own).any() for batch in order)  # they are spread over the batch
    one, *_ = source.images.batches([torch.tensor([0, source.own + 7])], "cpu")
    assert one[1].tolist() == [int(source.images.labels[0]), 7]
    none_of_them, *_ = source.images.batches([torch.tensor([3, 2])], "cpu")
    assert none_of_them[0].shape == (2, 1, 8, 8)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def test_training_with_extra_images_goes_on_bit_for_bit(
    short: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    whole = train(short, run="whole", quiet=True)
    assert load_checkpoint(whole / "checkpoint.pt")["position"]["step"] == 2 * (90 // 24)
    update, calls = Trainer._update, []

    def dying(self: Any, images: int) -> None:
        calls.append(images)
        if len(calls) == 5:  # in the second epoch
            raise KeyboardInterrupt
        update(self, images)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_update", dying)
        with pytest.raises(KeyboardInterrupt):
            train(short, run="part", quiet=True)
    assert calls == [32] * 5
    write(label=np.arange(300) % 9)
    with pytest.raises(UserError, match=r"the images of data.extra have changed"):
        train(resume=True, run="part", quiet=True)
    Path("elsewhere").mkdir()
    write("elsewhere/images.npz", np.savez_compressed)
    moved = ["data.extra.file=elsewhere/images.npz", "data.memory_limit=1000"]  # read from the disk from now on
    resumed = train(resume=True, run="part", overrides=moved, quiet=True)
    assert all(map(torch.equal, weights(whole), weights(resumed)))
    with pytest.raises(UserError, match=r"data.extra.fraction differ"):
        train(resume=True, run="part", overrides=["data.extra.fraction=0.5"], quiet=True)
    short["data"]["extra"] = None
    assert not all(map(torch.equal, weights(whole), weights(train(short, run="without", quiet=True))))

    (Path("generated.npz")).unlink()  # students are measured without it
    (student,) = extract(flops="1G", run=whole, quiet=True)
    assert student.card["data"]["extra"] == {"file": str(Path("generated.npz").absolute()), "fraction": 0.25}


def test_folders_and_files_on_the_disk_are_the_same(short: dict[str, Any]) -> None:
    config = parse_config(short)
    assert config.data.extra is not None
    data = load_data(config.data)
    write("packed.npz", np.savez_compressed)
    Path("folder").mkdir()
    write("folder", lambda folder, **arrays: [np.save(f"{folder}/{key}", array) for key, array in arrays.items()])
    found = []
    for file in ("generated.npz", "packed.npz", "folder"):
        extra = config.data.extra.model_copy(update={"file": Path(file)})
        found += [training_images(data, extra, limit) for limit in (1e6, 1000)]
    ((images, labels),) = found[0].images.batches([torch.arange(390)], "cpu")
    for other in found[1:]:
        ((same, numbers),) = other.images.batches([torch.arange(390)], "cpu")
        assert torch.equal(images, same)
        assert torch.equal(labels, numbers)
        assert other.fingerprint == found[0].fingerprint


def test_the_plan_counts_them_and_validation_has_none(short: dict[str, Any]) -> None:
    config = parse_config(short)
    data = load_data(config.data)
    trainer = Trainer(config, data, Run("run"), quiet=True)
    line = plan(trainer)[0]
    assert line.endswith("10 classes; 8 of 32 in a batch are from 300 extra images")
    assert "90 training, 10 validation" in line
    short["data"]["extra"] = None
    plain = load_data(parse_config(short).data)
    assert (plain.fingerprint(), plain.mean) == (data.fingerprint(), data.mean)
    assert not plan(Trainer(parse_config(short), plain, Run("run"), quiet=True))[0].endswith("images")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": np.arange(300) % 11}, ["labels", "from 0 to 10", "10 classes"]),
        ({"label": np.arange(299)}, ["300 images and 299 labels"]),
        ({"image": np.zeros((300, 9, 8), np.uint8)}, ["1x9x8", "1x8x8"]),
        ({"image": np.zeros((300, 8, 8, 3), np.uint8)}, ["3x8x8", "1x8x8"]),
        ({"label": None}, ["has image", "image and label"]),
        ({"image": np.zeros((300, 8, 8))}, []),
        ({"image": np.full((300, 8, 8), 2.0)}, ["from 0 to 1"]),
    ],
)
@pytest.mark.parametrize("memory_limit", [4e9, 1000])
def test_wrong_extra_images_are_one_line_and_leave_nothing(
    changes: dict[str, Any], words: list[str], memory_limit: float, short: dict[str, Any], capsys: Capture
) -> None:
    write(**changes)
    short["data"]["memory_limit"] = memory_limit
    if memory_limit < 1e4 and changes.get("image", np.zeros(1, np.uint8)).dtype != np.uint8:
        words = ["larger than data.memory_limit", "float64", "uint8"]
    if not words:
        return
    Path("short.yaml").write_text(yaml.safe_dump(short))
    assert command("train", "--config", "short.yaml", "--run", "run", "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("proard: data.extra.file: ")
    assert all(word in line for word in words), line
    assert not Path("run").exists()


def test_wrong_options_are_one_line(short: dict[str, Any], capsys: Capture) -> None:
    for change, words in (
        ("data.extra.fraction=1", ["data.extra.fraction", "less than 1"]),
        ("data.extra.frction=0.5", ["unknown key 'data.extra.frction'", "did you mean 'fraction'?"]),
        ("data.extra.file=none.npz", ["data.extra.file", "none.npz", "cannot be read"]),
        ("batch_size=1", ["batch_size", "data.extra needs 2 or more"]),
    ):
        Path("short.yaml").write_text(yaml.safe_dump(short))
        capsys.readouterr()
        assert command("train", "--config", "short.yaml", "--run", "run", "--quiet", "--set", change) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert all(word in line for word in words), line
    assert not Path("run").exists()
