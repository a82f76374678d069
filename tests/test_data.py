"""Splits, orders, augmentation and the known sets."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import shutil
import socket
import struct
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proard.common.errors import UserError
from proard.config import AugmentationConfig, DataConfig
from proard.data import ImageSet, augment, epoch_batches, load_data, sequential_batches
from proard.data.sets import default_root
from proard.data.splits import SMALLEST_STD, split_indices
from proard.data.stratify import stratified_sample


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may reach the network or the real cache."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def error_line(config: DataConfig) -> str:
    with pytest.raises(UserError) as caught:
        load_data(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_set_gets_a_line_with_the_nearest() -> None:
    assert error_line(DataConfig(name="cifar")) == "data.name: unknown data set 'cifar'; did you mean 'cifar10'?"


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_set_with_a_size_of_its_own_takes_no_other(name: str) -> None:
    message = error_line(DataConfig(name=name, image_size=8))
    assert message == f"data.image_size: is for image_folder, and {name} has its own size; remove it"


# ---------------------------------------------------------------------------------------------------------------------
# Splits


def digits(**options: object) -> DataConfig:
    return DataConfig(name="digits", **options)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=8),
    validation=st.floats(0.01, 0.95),
    seed=st.integers(0, 5),
    keep=st.floats(0, 1),
)
def test_splits_are_disjoint_stratified_and_complete(
    sizes: list[int], validation: float, seed: int, keep: float
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    limit = max(2 * len(sizes), round(keep * len(labels)))
    config = digits(validation=validation, limit=limit, split_seed=seed)
    if max(sizes) == 1:
        with pytest.raises(UserError, match="held out"):
            split_indices(labels, len(sizes), config)
        return
    train, held_out = split_indices(labels, len(sizes), config)
    both = np.concatenate([train, held_out])
    assert len(set(both)) == len(both) == min(limit, len(labels))
    kept = np.bincount(labels[both], minlength=len(sizes))
    in_validation = np.bincount(labels[held_out], minlength=len(sizes))
    assert (kept >= 1).all()
    assert (in_validation[kept >= 2] >= 1).all()
    assert (kept - in_validation >= 1).all()
    assert np.array_equal(train, split_indices(labels, len(sizes), config)[0])


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(10, 60), min_size=2, max_size=8), keep=st.floats(0.3, 1), seed=st.integers(0, 5))
def test_samples_keep_each_class_within_one_image_of_its_share(sizes: list[int], keep: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    count = round(keep * len(labels))
    chosen = stratified_sample(labels, count, np.random.default_rng(seed))
    assert len(set(chosen)) == count
    assert (np.abs(np.bincount(labels[chosen], minlength=len(sizes)) - count * np.array(sizes) / len(labels)) < 1).all()

    train, held_out = split_indices(labels, len(sizes), digits(validation=0.2, split_seed=seed))
    exact = 0.2 * np.array(sizes)
    assert (np.abs(np.bincount(labels[held_out], minlength=len(sizes)) - exact) <= 1).all()
    assert len(train) + len(held_out) == len(labels)


def test_a_sample_too_small_for_all_classes_is_still_that_size() -> None:
    labels = np.repeat(np.arange(10), 5)
    assert len(stratified_sample(labels, 3, np.random.default_rng(0))) == 3
    assert len(stratified_sample(labels, 0, np.random.default_rng(0))) == 0


def test_split_seed_changes_the_split_but_not_the_test_images() -> None:
    first, again, other = (load_data(digits(split_seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(pixels(first.train), pixels(again.train))
    assert not torch.equal(pixels(first.validation), pixels(other.validation))
    assert torch.equal(pixels(first.test), pixels(other.test))


def test_digits() -> None:
    splits = load_data(digits())
    assert splits.num_classes == 10
    assert splits.input_shape == (1, 8, 8)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 1797
    assert abs(len(splits.test) - 0.2 * 1797) < 1
    for part in (splits.train, splits.validation, splits.test):
        counts = torch.bincount(part.labels, minlength=10).double()
        assert part.labels.dtype == torch.int64
        assert (counts - len(part) / 10).abs().max() < 0.02 * 1797 / 10 + 2  # the classes are nearly equal
    images = pixels(splits.train)
    assert images.dtype == torch.float32
    assert images.min() == 0
    assert images.max() == 1
    assert torch.allclose((images * 16).round() / 16, images, atol=0.5 / 255 + 1e-6)
    assert splits.mean == pytest.approx(images.double().mean((0, 2, 3)).tolist(), abs=1e-9)
    assert splits.std == pytest.approx(images.double().std((0, 2, 3), correction=0).tolist(), abs=1e-7)


def test_limit_covers_train_and_validation() -> None:
    splits = load_data(digits(limit=200, validation=0.25))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (150, 50, 359)
    assert set(torch.bincount(splits.validation.labels).tolist()) == {5}
    assert len(load_data(digits(limit=10**6)).train) == len(load_data(digits()).train)
    assert "at least 20" in error_line(digits(limit=19))


def test_loading_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    splits = load_data(digits(limit=100))
    pixels(splits.train.subset(20, 0))
    epoch_batches(10, 2, (0, 1))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


# ---------------------------------------------------------------------------------------------------------------------
# Image sets and orders


def pixels(images: ImageSet) -> torch.Tensor:
    return torch.cat([batch for batch, _ in images.batches(sequential_batches(len(images), 64), "cpu")])


def toy(count: int = 40, classes: int = 4) -> ImageSet:
    images = torch.randint(256, (count, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, torch.arange(count) % classes)


def test_batches_follow_the_indices() -> None:
    images = toy()
    order = [torch.tensor([3, 3, 0]), torch.tensor([39])]
    batches = list(images.batches(iter(order), "cpu"))
    assert [len(batch) for batch, _ in batches] == [3, 1]
    everything = pixels(images)
    for indices, (batch, labels) in zip(order, batches, strict=True):
        assert torch.equal(batch, everything[indices])
        assert torch.equal(labels, images.labels[indices])


def test_subset_is_stratified_seeded_and_whole_if_it_covers_the_set() -> None:
    images = toy()
    part = images.subset(12, seed=3)
    assert torch.bincount(part.labels).tolist() == [3, 3, 3, 3]
    assert torch.equal(pixels(part), pixels(images.subset(12, seed=3)))
    assert not torch.equal(pixels(part), pixels(images.subset(12, seed=4)))
    assert images.subset(None, 0) is images
    assert images.subset(40, 0) is images


def test_moving_a_set_keeps_its_batches() -> None:
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        moved = toy().to(device)
        assert moved.labels.device.type == "cpu"
        batch, labels = next(moved.batches([torch.tensor([1, 2])], device))
        assert batch.device.type == labels.device.type == device
        assert torch.equal(batch.cpu(), pixels(toy())[1:3])
        part = moved.subset(8, 0)
        assert torch.equal(next(part.batches([torch.arange(8)], device))[0].cpu(), pixels(toy().subset(8, 0)))
        across, _ = next(toy().batches([torch.tensor([1, 2])], device))
        assert torch.equal(across, batch)


def test_image_sets_check_what_they_are_given() -> None:
    with pytest.raises(ValueError, match="uint8"):
        ImageSet(torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="int64"):
        ImageSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


@settings(max_examples=50, deadline=None)
@given(size=st.integers(0, 200), batch_size=st.integers(1, 64), seed=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_an_epoch_is_complete_and_a_function_of_its_seed(size: int, batch_size: int, seed: tuple[int, int]) -> None:
    batches = epoch_batches(size, batch_size, seed, drop_last=False)
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(size))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    for batch, same in zip(batches, epoch_batches(size, batch_size, seed, drop_last=False), strict=True):
        assert torch.equal(batch, same)

    full = epoch_batches(size, batch_size, seed)
    assert len(full) == (size // batch_size if size >= batch_size else min(size, 1))
    assert all(torch.equal(a, b) for a, b in zip(full, batches, strict=False))

    in_order = sequential_batches(size, batch_size)
    assert [index for batch in in_order for index in batch.tolist()] == list(range(size))


def test_epochs_differ() -> None:
    orders = {tuple(epoch_batches(50, 50, seed)[0].tolist()) for seed in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert len(orders) == 4


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int = 64, channels_last: bool = False) -> torch.Tensor:
    images = torch.rand(count, 3, 9, 7, generator=generator(9)) * 0.9 + 0.05  # neither black nor, almost surely, grey
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


@pytest.mark.parametrize("channels_last", [False, True])
def test_crop_shifts_each_image_by_whole_pixels(channels_last: bool) -> None:
    images, padding = random_images(200, channels_last), 2
    result = augment(images, AugmentationConfig(crop_padding=padding), generator())
    assert result.shape == images.shape
    shifts = []
    for image, changed in zip(images, result, strict=True):
        padded = torch.zeros(3, 9 + 2 * padding, 7 + 2 * padding)
        padded[:, padding:-padding, padding:-padding] = image
        matches = [
            (top, left)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            if torch.equal(padded[:, top : top + 9, left : left + 7], changed)
        ]
        assert len(matches) == 1
        shifts += matches
    assert len(set(shifts)) == (2 * padding + 1) ** 2  # 25 shifts, 200 draws


@pytest.mark.parametrize("channels_last", [False, True])
def test_flip_mirrors_about_half_of_the_images(channels_last: bool) -> None:
    images = random_images(200, channels_last)
    result = augment(images, AugmentationConfig(flip=True), generator())
    mirrored = [torch.equal(changed, image.flip(2)) for image, changed in zip(images, result, strict=True)]
    same = [torch.equal(changed, image) for image, changed in zip(images, result, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 60 < sum(mirrored) < 140


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("side", [1, 4, 5, 30])
def test_cutout_greys_one_square_around_a_pixel_of_the_image(side: int, channels_last: bool) -> None:
    images = random_images(400, channels_last)
    result = augment(images, AugmentationConfig(cutout=side), generator())
    centres = set()
    for image, changed in zip(images, result, strict=True):
        references = {}
        for row in range(9):
            for column in range(7):
                top, left = row - side // 2, column - side // 2
                reference = image.clone()
                reference[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0.5
                references[row, column] = reference
        matches = [centre for centre, reference in references.items() if torch.equal(reference, changed)]
        assert matches
        centres.add(matches[0])
    assert len(centres) > (50 if side < 30 else 0)


def test_everything_off_is_the_identity() -> None:
    images = random_images()
    assert torch.equal(augment(images, AugmentationConfig(), generator()), images)


@pytest.mark.parametrize("channels_last", [False, True])
def test_augmentation_is_a_function_of_the_generator_alone(channels_last: bool) -> None:
    config = AugmentationConfig(crop_padding=3, flip=True, cutout=3)
    images = random_images(channels_last=channels_last)
    before, state = images.clone(), torch.random.get_rng_state()
    results = [augment(images, config, generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(images, before)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(results[0], augment(before.contiguous(), config, generator()))
    assert results[0].min() >= 0
    assert results[0].max() <= 1


def test_draws_do_not_depend_on_the_batch_before() -> None:
    """A generator's state after a batch depends on the batch's size only, so runs stay in step."""
    config = AugmentationConfig(crop_padding=3, flip=True, cutout=3)
    states = []
    for images in (random_images(), torch.zeros(64, 3, 9, 7)):
        source = generator()
        augment(images, config, source)
        states.append(source.get_state())
    assert torch.equal(*states)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_augmentation_on_a_gpu_equals_the_cpu_for_a_cpu_generator() -> None:
    config = AugmentationConfig(crop_padding=3, flip=True, cutout=3)
    images = random_images()
    assert torch.equal(augment(images.cuda(), config, generator()).cpu(), augment(images, config, generator()))
    on_device = augment(images.cuda(), config, torch.Generator("cuda").manual_seed(0))
    assert on_device.device.type == "cuda"


# ---------------------------------------------------------------------------------------------------------------------
# Sets that torchvision reads


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """A small set in Fashion-MNIST's format; its root."""
    folder = tmp_path / "root" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 100), ("t10k", 30)):
        write_idx(folder / f"{part}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path / "root"


def test_present_files_are_read_without_the_network(fashion: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = load_data(DataConfig(name="fashion_mnist", root=fashion, download=True))
    assert splits.input_shape == (1, 28, 28)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (90, 10, 30)
    assert splits.class_names[9] == "Ankle boot"
    assert capsys.readouterr().out == ""


def test_root_from_the_environment(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROARD_DATA", str(fashion))
    assert len(load_data(DataConfig(name="fashion_mnist")).test) == 30
    monkeypatch.delenv("PROARD_DATA")
    assert default_root() == Path.home() / ".cache" / "proard" / "data"
    assert str(default_root() / "FashionMNIST" / "raw") in error_line(DataConfig(name="fashion_mnist"))


def test_archives_put_there_by_hand_are_unpacked(fashion: Path) -> None:
    folder = fashion / "FashionMNIST" / "raw"
    for path in sorted(folder.iterdir()):
        with gzip.open(f"{path}.gz", "wb") as archive:
            archive.write(path.read_bytes())
        path.unlink()
    assert len(load_data(DataConfig(name="fashion_mnist", root=fashion)).test) == 30

    (folder / "t10k-images-idx3-ubyte").unlink()
    broken = folder / "t10k-images-idx3-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:500])
    assert str(broken) in error_line(DataConfig(name="fashion_mnist", root=fashion))
    assert not (folder / "t10k-images-idx3-ubyte").exists()


def test_a_constant_channel_has_a_usable_std(fashion: Path) -> None:
    write_idx(fashion / "FashionMNIST" / "raw" / "train-images-idx3-ubyte", np.full((100, 28, 28), 7))
    splits = load_data(DataConfig(name="fashion_mnist", root=fashion))
    assert splits.std == (SMALLEST_STD,)
    assert splits.mean == pytest.approx((7 / 255,))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("fashion_mnist", "FashionMNIST/raw"),
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("svhn", "."),
    ],
)
def test_missing_files(name: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = error_line(DataConfig(name=name, root=tmp_path))  # type: ignore[arg-type]
    assert all(part in message for part in (name, str(tmp_path / folder), "data.download=true", "data.root"))
    assert "network" not in message

    time_out = socket.getdefaulttimeout()
    message = error_line(DataConfig(name=name, root=tmp_path, download=True))  # type: ignore[arg-type]
    assert all(part in message for part in (name, str(tmp_path), "the network was used", "by hand"))
    assert socket.getdefaulttimeout() == time_out
    assert capsys.readouterr().out == ""


def test_corrupt_files(fashion: Path, tmp_path: Path) -> None:
    raw = fashion / "FashionMNIST" / "raw"
    labels = raw / "train-labels-idx1-ubyte"
    for content in (b"", b"not an idx file", labels.read_bytes()[:-5]):
        labels.write_bytes(content)
        assert str(raw) in error_line(DataConfig(name="fashion_mnist", root=fashion))
    write_idx(labels, np.full(100, 77))
    assert "labels are not from 0 to 9" in error_line(DataConfig(name="fashion_mnist", root=fashion))

    cifar = tmp_path / "cifar-10-batches-py"
    cifar.mkdir()
    for file in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (cifar / file).write_bytes(pickle.dumps({"data": 1}))
    assert str(cifar) in error_line(DataConfig(name="cifar10", root=tmp_path, download=True))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    data = {}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        data[name] = random.integers(0, 256, (20, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data[name], "labels": list(range(10)) * 2}))
    names = [f"class {number}" for number in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    for attribute in ("train_list", "test_list"):
        files = [[name, md5(folder / name)] for name, _ in getattr(datasets.CIFAR10, attribute)]
        monkeypatch.setattr(datasets.CIFAR10, attribute, files)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5(folder / "batches.meta")})

    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    shutil.rmtree(folder)
    splits = load_data(DataConfig(name="cifar10", root=tmp_path))  # from the archive
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
    assert splits.class_names == tuple(names)
    assert splits.input_shape == (3, 32, 32)
    assert torch.equal((pixels(splits.test) * 255).byte(), torch.from_numpy(data["test_batch"]).view(20, 3, 32, 32))
    assert len(splits.train) + len(splits.validation) == 100


def test_svhn_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision import datasets

    random = np.random.default_rng(0)
    split_list = {}
    for part, count in (("train", 60), ("test", 20)):
        images = random.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, {"X": images, "y": (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)})
        split_list[part] = ["", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)

    splits = load_data(DataConfig(name="svhn", root=tmp_path))
    assert splits.class_names == tuple("0123456789")
    assert splits.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2
    assert torch.equal((pixels(splits.test) * 255).byte(), torch.from_numpy(images.transpose(3, 2, 0, 1).copy()))


# ---------------------------------------------------------------------------------------------------------------------
# The real files, where they are

REAL = Path(os.environ["PROARD_DATA"]) if os.environ.get("PROARD_DATA") else None


@pytest.mark.skipif(
    REAL is None or not (REAL / "FashionMNIST" / "raw").is_dir(),
    reason="set PROARD_DATA to a folder with FashionMNIST/raw",
)
def test_real_fashion_mnist() -> None:
    splits = load_data(DataConfig(name="fashion_mnist", root=REAL))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (54000, 6000, 10000)
    assert set(torch.bincount(splits.validation.labels).tolist()) == {600}
    assert splits.mean == pytest.approx((0.286,), abs=0.002)
    assert splits.std == pytest.approx((0.353,), abs=0.002)


@pytest.mark.skipif(
    REAL is None or not (REAL / "cifar10-jpeg" / "train").is_dir(),
    reason="set PROARD_DATA to a folder with cifar10-jpeg",
)
def test_real_cifar10_photographs(tmp_path: Path) -> None:
    assert REAL is not None
    for part, count in (("train", 20), ("test", 5)):
        for source in sorted((REAL / "cifar10-jpeg" / part).iterdir()):
            (tmp_path / part / source.name).mkdir(parents=True)
            for path in sorted(source.iterdir())[:count]:
                shutil.copy(path, tmp_path / part / source.name)
    splits = load_data(DataConfig(name="image_folder", root=tmp_path, image_size=32))
    assert splits.class_names[0] == "airplane"
    assert splits.class_names[-1] == "truck"
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (180, 20, 50)
    assert splits.mean == pytest.approx((0.49, 0.48, 0.45), abs=0.06)


def test_pairs_of_digits_are_those_digits() -> None:
    """Halves are digits of the same split, and labels are their two labels."""
    pairs, single = load_data(DataConfig(name="digit_pairs")), load_data(DataConfig(name="digits"))
    assert pairs.input_shape == (1, 8, 16)
    assert pairs.class_names[7] == "07"
    assert len(pairs.class_names) == 100
    assert (len(pairs.train) + len(pairs.validation), len(pairs.test)) == (5000, 1000)

    def pictures(*parts: ImageSet) -> dict[bytes, set[int]]:
        known: dict[bytes, set[int]] = {}
        for part in parts:
            for image, label in zip(*whole(part), strict=True):
                known.setdefault(image.numpy().tobytes(), set()).add(int(label))
        return known

    for of_pairs, of_digits in (
        ((pairs.train, pairs.validation), (single.train, single.validation)),
        ((pairs.test,), (single.test,)),
    ):
        known = pictures(*of_digits)
        for part in of_pairs:
            for image, label in zip(*whole(part), strict=True):
                left, right = (half.contiguous().numpy().tobytes() for half in image.split(8, dim=2))
                assert int(label) // 10 in known[left]
                assert int(label) % 10 in known[right]


def whole(part: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    return next(part.batches([torch.arange(len(part))], "cpu"))
