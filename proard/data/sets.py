"""Data sets by name: each is a function from `data:` to training images, test images and class names.

Nothing is fetched from the network unless the configuration says ``download: true``, and then only what is missing.
One of your own is registered in the same way, in a module that the configuration's ``imports:`` names.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proard.common.errors import UserError, reason
from proard.common.paths import path_of, user_cache
from proard.common.registry import Registry
from proard.config import DataConfig
from proard.data.arrays import Loaded, load_arrays, load_npz
from proard.data.folder import load_image_folder
from proard.data.huggingface import load_huggingface
from proard.data.images import ImageSet
from proard.data.stratify import stratified_sample

data_sets: Registry[Loaded] = Registry("data set")
"""Functions of the argument ``config``, a `DataConfig`; further arguments are options, which are further keys of it."""

DOWNLOAD_TIME_OUT = 20.0  # seconds without an answer


def default_root() -> Path:
    """Where files are looked for when ``data.root`` is not set: $PROARD_DATA, else ~/.cache/proard/data.

    Raises:
        UserError: neither is known.
    """
    if given := os.environ.get("PROARD_DATA"):
        return path_of(given)
    if (cache := user_cache()) is None:
        raise UserError("data.root: not set, and no home directory is known here; set it, or $PROARD_DATA")
    return cache / "data"


def _require_own_size(config: DataConfig) -> None:
    if config.image_size is not None:
        raise UserError(f"data.image_size: is for image_folder, and {config.name} has its own size; remove it")


@data_sets.register("digits")
def load_digits(config: DataConfig) -> Loaded:
    """The 1797 digits, 8 x 8 grey, that come with scikit-learn; a fixed fifth of each class is the test split."""
    _require_own_size(config)
    train, test = (ImageSet(*part) for part in _digits())
    return train, test, tuple(str(digit) for digit in range(10))


@data_sets.register("digit_pairs")
def load_digit_pairs(config: DataConfig) -> Loaded:
    """Two of those digits side by side, 8 x 16 grey, in 100 classes: hard enough for larger networks to be worth it.

    5000 pairs of training digits, and 1000 pairs of test digits.
    """
    _require_own_size(config)
    parts = []
    for seed, (count, (images, labels)) in enumerate(
        zip((5000, 1000), _digits(), strict=True)
    ):  # seeds, likewise fixed
        left, right = torch.from_numpy(np.random.default_rng(seed).integers(0, len(labels), (2, count)))
        parts.append(ImageSet(torch.cat([images[left], images[right]], 3), 10 * labels[left] + labels[right]))
    return parts[0], parts[1], tuple(f"{pair:02}" for pair in range(100))


def _digits() -> list[tuple[Tensor, Tensor]]:
    """Images and labels for training, and for testing."""
    from sklearn import datasets

    digits = datasets.load_digits()
    labels = digits.target.astype(np.int64)
    images = torch.from_numpy(np.round(digits.images * 255 / 16).astype(np.uint8))[:, None]
    is_test = np.zeros(len(labels), dtype=bool)
    # The seed is part of the set's definition: the test split is the same for every split_seed.
    is_test[stratified_sample(labels, len(labels) // 5, np.random.default_rng(0))] = True
    return [(images[chosen], torch.from_numpy(labels)[chosen]) for chosen in map(torch.from_numpy, (~is_test, is_test))]


@dataclass(frozen=True)
class TorchvisionSet:
    """A set that torchvision reads and fetches.

    Attributes:
        dataset: its class in ``torchvision.datasets``.
        folder: of its files, relative to the root.
        files: their names.
        archives: what they come in, relative to the root; empty if they come as they are.
        splits: arguments that choose the training and the test split.
    """

    dataset: str
    folder: str
    files: tuple[str, ...]
    archives: tuple[str, ...] = ()
    splits: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})

    def load(self, config: DataConfig) -> Loaded:
        """Read the set from its files, which are fetched if they are missing and the configuration allows it.

        Raises:
            UserError: files are missing, cannot be fetched, or are corrupt.
        """
        _require_own_size(config)
        root = default_root() if config.root is None else path_of(config.root)
        folder = root / self.folder
        if self._missing(folder) and not config.download:
            self._unpack(config.name, root)
        missing = self._missing(folder)
        if missing and not config.download:
            raise UserError(
                f"data {config.name}: {folder} has no {missing[0]}; put the set's files there, "
                "or set data.root to where they are, or data.download=true to fetch them"
            )
        try:
            with _fetching():
                train, test = (self._read(root, split, download=bool(missing)) for split in self.splits)
        except Exception as error:  # network, disk, archive and parser errors share no base class
            if missing:
                raise UserError(
                    f"data {config.name}: download failed ({reason(error)}); try again, or put its files "
                    f"({', '.join(self.archives or self.files)}) into {root} by hand"
                ) from error
            raise UserError(
                f"data {config.name}: the files in {folder} are corrupt ({reason(error)}); "
                "remove them, then put good ones there or set data.download=true"
            ) from error
        return train[0], test[0], train[1]

    def _missing(self, folder: Path) -> list[str]:
        return [name for name in self.files if not (folder / name).is_file()]

    def _unpack(self, name: str, root: Path) -> None:
        """Unpack archives that someone put there by hand; aside at first, so that no file is ever half there."""
        from torchvision.datasets.utils import extract_archive

        for archive in (root / part for part in self.archives):
            if not archive.is_file():
                continue
            try:
                with tempfile.TemporaryDirectory(prefix=".tmp-", dir=root) as aside:
                    extract_archive(str(archive), aside)
                    (root / self.folder).mkdir(exist_ok=True)
                    for path in Path(aside).rglob("*"):
                        if path.name in self.files:
                            os.replace(path, root / self.folder / path.name)
            except Exception as error:  # read-only folder, truncated archive, ...
                raise UserError(
                    f"data {name}: {archive} cannot be unpacked ({reason(error)}); "
                    "unpack it by hand, or get a good copy"
                ) from error

    def _read(self, root: Path, split: dict[str, Any], download: bool) -> tuple[ImageSet, tuple[str, ...]]:
        from torchvision import datasets

        source = getattr(datasets, self.dataset)(root, download=download, **split)
        labels = torch.as_tensor(np.asarray(source.targets if hasattr(source, "targets") else source.labels)).long()
        names = tuple(getattr(source, "classes", [str(digit) for digit in range(10)]))
        if not len(labels) or labels.min() < 0 or labels.max() >= len(names):
            raise ValueError(f"labels are not from 0 to {len(names) - 1}")
        return ImageSet(_channels_first(np.asarray(source.data)), labels), names


def _channels_first(images: np.ndarray) -> torch.Tensor:
    """Grey (N, H, W), or colour with the channels in any place, to (N, C, H, W)."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images))


@contextlib.contextmanager
def _fetching() -> Iterator[None]:
    """Network calls give up after a while, and what torchvision prints goes to standard error."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIME_OUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)


_FASHION_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_TORCHVISION_SETS = {
    "fashion_mnist": TorchvisionSet(
        "FashionMNIST",
        "FashionMNIST/raw",
        files=_FASHION_FILES,
        archives=tuple(f"FashionMNIST/raw/{name}.gz" for name in _FASHION_FILES),
    ),
    "cifar10": TorchvisionSet(
        "CIFAR10",
        "cifar-10-batches-py",
        files=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
        archives=("cifar-10-python.tar.gz",),
    ),
    "cifar100": TorchvisionSet(
        "CIFAR100", "cifar-100-python", files=("train", "test", "meta"), archives=("cifar-100-python.tar.gz",)
    ),
    "svhn": TorchvisionSet(
        "SVHN", ".", files=("train_32x32.mat", "test_32x32.mat"), splits=({"split": "train"}, {"split": "test"})
    ),
}
for _name, _set in _TORCHVISION_SETS.items():
    data_sets.register(_name)(_set.load)
data_sets.register("arrays")(load_arrays)
data_sets.register("huggingface")(load_huggingface)
data_sets.register("image_folder")(load_image_folder)
data_sets.register("npz")(load_npz)
