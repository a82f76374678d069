"""The three splits of a set.

Validation images are carved from the training images; everything that is chosen or tuned is chosen on them. The test
split is the set's own, complete.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from proard.common.errors import UserError, reason
from proard.common.paths import path_of
from proard.common.registry import import_modules
from proard.config import DataConfig
from proard.data.arrays import TESTS, Loaded, check_labels, names_of
from proard.data.batches import sequential_batches
from proard.data.images import ImageSet, StreamedImageSet
from proard.data.sets import data_sets
from proard.data.stratify import Integers, class_quotas, draw_per_class

SMALLEST_STD = 1e-3  # of a channel that hardly varies: normalisation divides by it
LOW_STD = 0.01  # of a whole set of images
COMPARED = 32  # images of each split that a fingerprint looks at
STREAMED_SAMPLE = 4096  # images from which a streamed set's mean and std are measured


@dataclass(frozen=True)
class DataSplits:
    """Images to train on, to choose by, and to report on.

    Attributes:
        train: training images, without those held out.
        validation: held out of the training images, stratified.
        test: the set's own test split.
        class_names: the name of each label.
        input_shape: (C, H, W) of an image.
        mean: of each channel over the training images, which are in [0, 1].
        std: likewise, at least ``SMALLEST_STD``.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return len(self.class_names)

    def fingerprint(self) -> str:
        """A digest of classes, labels and some pixels of all but the test images: what they are, wherever they lie."""
        digest = hashlib.sha256(repr((self.class_names, self.input_shape)).encode())
        for images in (self.train, self.validation):
            digest_images(digest, images)
        return digest.hexdigest()


def digest_images(digest: Any, images: ImageSet) -> None:
    """Add all labels, and the pixels of some images, to a ``hashlib`` digest."""
    digest.update(images.labels.numpy().tobytes())
    for batch, _ in images.batches([_spread(images)], "cpu"):
        digest.update((255 * batch).round().byte().numpy().tobytes())


def _spread(images: ImageSet) -> torch.Tensor:
    """Indices of some images, from the first on."""
    return torch.arange(0, len(images), max(1, len(images) // COMPARED))


def load_data(config: DataConfig, imports: Iterable[str] = (), given: Loaded | None = None) -> DataSplits:
    """The set of images that a configuration names, read and split.

    Args:
        config: the section ``data`` of a configuration.
        imports: modules to import first, which may register the set.
        given: the images of the set ``arrays``.

    Raises:
        UserError: an unknown set, files that are missing or corrupt, or a limit that is too small; one line that says
            where and what to do.
    """
    import_modules(imports)
    if config.extra is not None and config.root is not None:
        root, file = (path_of(path).resolve() for path in (config.root, config.extra.file))
        if file == root or (file.parent == root and file.stem in ("train", *TESTS)):
            raise UserError("data.extra.file: is of the set itself, whose validation images would train; give another")
    images, test, class_names = _loaded(config, given=given)
    present = set(images.labels.tolist())
    if missing := [name for label, name in enumerate(class_names) if label not in present]:
        print(f"data {config.name}: has no training images of {', '.join(missing)}", file=sys.stderr)
    train_indices, validation_indices = split_indices(images.labels.numpy(), len(class_names), config)
    train = images.select(torch.from_numpy(train_indices))
    sample = train.subset(STREAMED_SAMPLE, config.split_seed) if isinstance(train, StreamedImageSet) else train
    validation = images.select(torch.from_numpy(validation_indices))
    shape, mean, std = _measure(sample)
    if problem := _implausible(sample, mean, std):
        print(f"data {config.name}: training images {problem}; are they what they should be?", file=sys.stderr)
    return DataSplits(train, validation, test, class_names, shape, mean, std)


def _implausible(images: ImageSet, mean: tuple[float, ...], std: tuple[float, ...]) -> str | None:
    """What is odd about images that can hardly be told apart, if they are such."""
    ((some, _),) = images.batches([_spread(images)], "cpu")
    if len(some) > 1 and torch.equal(some, some[:1].expand_as(some)):
        return "are all alike"
    if max(std) < LOW_STD:
        value = f"{mean[0]:.3f} in the mean, with a standard deviation of {max(std):.3f}"
        return f"have hardly any contrast ({value}; white is 1, or 255 in files and in uint8)"
    return None


def _loaded(config: DataConfig, **fixed: Any) -> Loaded:
    """The set by its name, with its options; of the fixed arguments it gets those that it takes."""
    where = f"data {config.name}"
    try:
        loaded = data_sets.build(config.name, config.options, where="data.name", config=config, **fixed)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({reason(error)})") from error
    return _checked(loaded, where)


def _checked(loaded: Any, where: str) -> Loaded:
    """What a set gave, which may be one of the user's own, if it is what a set must give."""
    match loaded:
        case (ImageSet() as train, ImageSet() as test, (list() | tuple()) as names):
            names = names_of(names, where)
        case _:
            raise UserError(f"{where}: must give training images and test images, as ImageSet, and names of the labels")
    if len(names) < 2:
        raise UserError(f"{where}: names {'one class' if names else 'no class'}; two or more are needed")
    for images, split in ((train, "training"), (test, "test")):
        if not len(images):
            raise UserError(f"{where}: has no {split} images")
        check_labels(images.labels, len(names), f"{where}, {split}")
    shapes = ["x".join(map(str, _shape(images))) for images in (train, test)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{where}: training images are {shapes[0]}, test images {shapes[1]}; they must be of one size")
    return train, test, names


def _shape(images: ImageSet) -> tuple[int, int, int]:
    """(C, H, W), of the first image."""
    ((image, _),) = images.batches([torch.zeros(1, dtype=torch.int64)], "cpu")
    return (image.shape[1], image.shape[2], image.shape[3])


@dataclass(frozen=True)
class TestSplit:
    """Images to report on; attributes as of `DataSplits`."""

    test: ImageSet
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]


def load_test_split(config: DataConfig, class_names: tuple[str, ...]) -> TestSplit:
    """The test split that a configuration names; of files of one's own nothing else is decoded, or has to be there.

    Args:
        config: as of `load_data`.
        class_names: by which labels count in files that do not name them; empty: those of the set, of whose training
            images nothing else is read where they name their classes.

    Raises:
        UserError: as of `load_data`.
    """
    _, test, class_names = _loaded(config, known=class_names)
    return tested_on(test, class_names)


def tested_on(test: ImageSet, class_names: tuple[str, ...]) -> TestSplit:
    """Test images with what is said of them."""
    return TestSplit(test, class_names, _shape(test))


def split_indices(labels: Integers, classes: int, config: DataConfig) -> tuple[Integers, Integers]:
    """Which of a set's training images train and which validate.

    Args:
        labels: int64 (N,).
        classes: number of classes.
        config: ``limit``, ``validation`` and ``split_seed`` are used.

    Returns:
        Two disjoint lists of indices in random order, together ``limit`` or N images. Every class with at least two
        images is in both.

    Raises:
        UserError: too few images to split.
    """
    chosen = np.arange(len(labels))
    if config.limit is not None and config.limit < len(labels):
        if config.limit < 2 * classes:
            raise UserError(
                f"data.limit {config.limit}: too few for {classes} classes, which need one training and one validation "
                f"image each; set it to at least {2 * classes}"
            )
        sizes = np.bincount(labels, minlength=classes)
        quotas = class_quotas(sizes, config.limit, np.minimum(sizes, 2), sizes)
        chosen = np.sort(draw_per_class(labels, quotas, np.random.default_rng((config.split_seed, 0))))
    kept = labels[chosen]
    sizes = np.bincount(kept, minlength=classes)
    most = np.maximum(sizes - 1, 0)  # each class keeps an image to train on, and gives one if it has two
    quotas = class_quotas(sizes, round(config.validation * len(kept)), np.minimum(most, 1), most)
    if not quotas.any():
        raise UserError(f"data {config.name}: no class has two training images, so none can be held out for validation")
    generator = np.random.default_rng((config.split_seed, 1))
    held_out = draw_per_class(kept, quotas, generator)
    rest = np.setdiff1d(np.arange(len(kept)), held_out)
    return chosen[generator.permutation(rest)], chosen[held_out]


def _measure(images: ImageSet) -> tuple[tuple[int, int, int], tuple[float, ...], tuple[float, ...]]:
    """Shape of the images, and mean and standard deviation of each channel."""
    total = squares = torch.zeros((), dtype=torch.float64)
    pixels = 0
    for batch, _ in images.batches(sequential_batches(len(images), 512), "cpu"):
        total = total + batch.sum((0, 2, 3), dtype=torch.float64)
        squares = squares + batch.square().sum((0, 2, 3), dtype=torch.float64)
        pixels += batch[:, 0].numel()
        _, channels, height, width = batch.shape
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp_min(0).sqrt().clamp_min(SMALLEST_STD)
    return (channels, height, width), tuple(mean.tolist()), tuple(std.tolist())
