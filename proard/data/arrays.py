"""Images that are arrays already: given from Python, in an ``.npz`` file, or in a folder of ``.npy`` files."""

from __future__ import annotations

import hashlib
import shutil
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proard.common.errors import UserError, reason
from proard.common.files import atomic_path
from proard.common.paths import path_of, user_cache
from proard.config import DataConfig
from proard.data.cache import digest_of, fingerprint_files
from proard.data.decode import Bytes
from proard.data.images import ImageSet, StreamedImageSet

Loaded = tuple[ImageSet, ImageSet, tuple[str, ...]]
"""Training images, test images, and the name of each label."""
Array = NDArray[Any]

GIVE = "(images, labels, test_images, test_labels), and the names of the classes if you like"
KEYS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("X_{}", "y_{}"))  # of a split, in a file with several
PLAIN_KEYS = (("image", "label"), ("images", "labels"), ("x", "y"), ("X", "y"))  # in a file with one
TESTS = ("test", "val", "validation")  # names of the split that is tested on, what is taken first
STEP = 1 << 12  # images that are converted at a time


# ---------------------------------------------------------------------------------------------------------------------
# Given from Python


def given_arrays(data: Sequence[Any] | None) -> Loaded | None:
    """What the argument ``data`` of `train` and others says, as image sets.

    Args:
        data: training images, their labels, test images, their labels, and optionally the name of each label: arrays
            or tensors, of which `image_set` says more. None: nothing is given.

    Raises:
        UserError: they are not what they must be.
    """
    if data is None:
        return None
    _check_entries(data, (4, 5), f"data: give {GIVE}")
    train, test = image_set(data[0], data[1], "data, training"), image_set(data[2], data[3], "data, test")
    return train, test, _class_names(train, test, _given_names(data), "data")


def given_test_images(data: Sequence[Any], class_names: tuple[str, ...]) -> tuple[ImageSet, tuple[str, ...]]:
    """The test images among what is given, and the classes: of two arrays all, of four or five the third and fourth.

    Args:
        data: the arrays; labels whose names are given count by those.
        class_names: what labels count by in the result; empty: by the given names, else as they are.
    """
    _check_entries(data, (2, 4, 5), f"data: give (images, labels) to evaluate on, or {GIVE}")
    given, labels = data if len(data) == 2 else data[2:4]
    images, names = image_set(given, labels, "data, test"), _given_names(data)
    if not class_names:
        most = max(int(numbers.max()) for numbers in (images.labels, labels_of(data[1], "data, training")))
        class_names = names or tuple(map(str, range(max(most, 0) + 1)))
    return renumbered(images, names, class_names, "data, test"), class_names


def _given_names(data: Sequence[Any]) -> tuple[str, ...] | None:
    return names_of(data[4], "data") if len(data) == 5 and data[4] is not None else None


def names_of(names: Any, where: str) -> tuple[str, ...]:
    """Names of the labels as text.

    Raises:
        UserError: it is no list of them, or a name is there twice.
    """
    if not (isinstance(names, (tuple, list)) or (hasattr(names, "__array__") and np.ndim(names) == 1)):
        raise UserError(f"{where}: the names of the classes must be a list of them, got {reason(repr(names)):.60}")
    made = tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names)
    if twice := [name for name, count in Counter(made).items() if count > 1]:
        raise UserError(f"{where}: two classes have the name '{twice[0]}'; give each its own")
    return made


def _check_entries(data: Any, counts: tuple[int, ...], wanted: str) -> None:
    """Refuse what is no sequence of so many entries."""
    if not isinstance(data, (tuple, list)):
        raise UserError(f"{wanted}; got {type(data).__name__}")
    if len(data) not in counts:
        raise UserError(f"{wanted}; got {len(data)} entries")


def in_memory(config: DataConfig, given: Loaded) -> DataConfig:
    """The section ``data`` of a run on given arrays: what they are goes into it as a checksum, unless one is there."""
    values = {name: getattr(config, name) for name in DataConfig.model_fields}
    options = config.options if config.name == "arrays" else {}
    changed = {"name": "arrays", "root": None, "image_size": None, "sha256": digest(given)}
    return DataConfig.model_validate({**values, **changed, **options})


def digest(loaded: Loaded) -> str:
    """SHA-256 of images in memory, their labels, and the names of the classes."""
    tensors = {f"{name}{index}": part for index, s in enumerate(loaded[:2]) for name, part in s.tensors().items()}
    return hashlib.sha256(repr((digest_of(tensors), loaded[2])).encode()).hexdigest()


def load_arrays(config: DataConfig, sha256: str | None = None, given: Loaded | None = None) -> Loaded:
    """Arrays in memory, given from Python as ``data=(images, labels, test_images, test_labels)``.

    Args:
        config: the section ``data``.
        sha256: of images, labels and class names; written when a run begins, and then checked.
        given: the arrays.
    """
    if given is None:
        raise UserError(
            "data arrays: these images were arrays in memory, and no file has them; give them again in Python, as "
            "train, extract or evaluate(..., data=(images, labels, test_images, test_labels))"
        )
    if sha256 not in (None, digest(given)):
        raise UserError(
            "data arrays: these are not the arrays of the run (another sha256 of images, labels and class names); "
            "give those, or begin a new run without data.sha256"
        )
    return given


# ---------------------------------------------------------------------------------------------------------------------
# Arrays to images


def image_set(images: Any, labels: Any, where: str) -> ImageSet:
    """Arrays as a set in memory.

    Args:
        images: uint8, or float in [0, 1], which is rounded to 8 bits; (N, H, W), (N, H, W, C) or (N, C, H, W), with C
            at most 4. A dimension of at most 4 is taken for the channels, the first before the last.
        labels: whole numbers from 0, (N,) or (N, 1).
        where: what they are, for messages.

    Raises:
        UserError: they are not that.
    """
    pixels = _tensor(images, f"{where} images", "uint8, or floats from 0 to 1")
    numbers = labels_of(labels, where)
    if len(pixels) != len(numbers) or not len(numbers):
        raise UserError(f"{where}: {len(pixels)} images and {len(numbers)} labels; give images, and one label for each")
    pixels = _channels_first(pixels, f"{where} images")
    if pixels.dtype == torch.uint8:
        return ImageSet(pixels.contiguous(), numbers)
    if not pixels.is_floating_point():
        raise UserError(f"{where} images: are {_kind(pixels)}; give uint8, or floats from 0 to 1")
    made = torch.empty(pixels.shape, dtype=torch.uint8)
    furthest = 0.0
    for part, into in zip(pixels.split(STEP), made.split(STEP), strict=True):
        if not ((part >= 0) & (part <= 1)).all():  # not a number, too
            low, high = part.min(), part.max()
            raise UserError(
                f"{where} images: are floats from {low:g} to {high:g}; they must be from 0 to 1, or uint8 from 0 to 255"
            )
        scaled = part.double() * 255
        into.copy_(scaled.round())
        furthest = max(furthest, float((scaled - into).abs().max()))
    if furthest > 0.07:  # more than float16 loses of a multiple of 1/255
        print(f"{where} images: rounded to 8 bits, by up to {furthest / 255:.1g}", file=sys.stderr)
    return ImageSet(made, numbers)


def labels_of(labels: Any, where: str) -> Tensor:
    """Labels as int64 (N,)."""
    made = _tensor(labels, f"{where} labels", "whole numbers, one for each image")
    if made.ndim == 2 and made.shape[1] == 1:  # as MedMNIST and Keras have them
        made = made[:, 0]
    if made.ndim != 1 or made.is_floating_point() or made.is_complex() or made.dtype == torch.bool:
        raise UserError(
            f"{where} labels: are {_kind(made)} {tuple(made.shape)}; give whole numbers, one for each image"
        )
    return made.long()


def check_labels(labels: Tensor, classes: int, where: str) -> None:
    """Refuse labels that are not from 0 to ``classes`` - 1."""
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        must = "they count from 0, and there must be two classes or more"
        must = f"with {classes} classes they must be from 0 to {classes - 1}" if classes > 1 else must
        raise UserError(f"{where} labels: are from {labels.min()} to {labels.max()}; {must}")


def by_names(labels: Tensor, own: Sequence[str], classes: Sequence[str], where: str) -> Tensor:
    """Labels that count by the names ``own``, as they count by ``classes``.

    Raises:
        UserError: an image is of a class that is not among them.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    places = [numbers.get(name, -1) for name in own]
    if unknown := [own[label] for label in labels.unique().tolist() if places[label] < 0]:
        few = [", ".join(names[:5]) + ", ..." * (len(names) > 5) for names in (unknown, classes)]
        raise UserError(f"{where}: has labels that are no classes: {few[0]} (classes: {few[1]})")
    return torch.tensor(places)[labels]


def renumbered(images: ImageSet, own: Sequence[str] | None, classes: Sequence[str], where: str) -> ImageSet:
    """Images whose labels are checked, and count by ``classes`` in the place of their own names, if they have some."""
    check_labels(images.labels, len(classes if own is None else own), where)
    return images if own is None else images.labelled(by_names(images.labels, own, classes, where))


def _class_names(train: ImageSet, test: ImageSet, names: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    """The given names, else the numbers; every class has training images, and there are no further test labels."""
    classes = max(int(train.labels.max()) + 1, 1) if names is None else len(names)
    there = train.labels.unique()
    if classes < 2 or int(there[0]) < 0 or len(there) != classes:
        check_labels(train.labels, classes, f"{where}, training")
        missing = next(index for index, label in enumerate([*there.tolist(), -1]) if index != label)
        has = f"has no training images of label {missing}" if classes > 1 else "has a single class"
        raise UserError(f"{where}: {has}; labels count from 0, and every class needs images, two classes at least")
    check_labels(test.labels, classes, f"{where}, test")
    return tuple(map(str, range(classes))) if names is None else names


def _tensor(values: Any, where: str, right: str) -> Tensor:
    try:
        if not isinstance(values, torch.Tensor):
            values = np.asarray(values)  # of pandas and Pillow, too
        if isinstance(values, np.ndarray):  # PyTorch takes no reversed axes or bytes, and warns of what is read-only
            values = np.require(values, values.dtype.newbyteorder("="), ["C", "W"])
        made = torch.as_tensor(values).detach().cpu().to_dense()
        if not made.ndim:
            raise ValueError(f"a single one: {made}")
        return made
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: are no array of numbers ({reason(error)}); give {right}") from error


def _kind(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _channels_first(images: Tensor, where: str) -> Tensor:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[1] <= 4:
        return images
    if images.ndim == 4 and images.shape[3] <= 4:
        return images.permute(0, 3, 1, 2)
    raise UserError(
        f"{where}: have the shape {tuple(images.shape)}; give (N, H, W), (N, H, W, C) or (N, C, H, W), with at most 4 "
        "channels"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Files of arrays


def load_npz(config: DataConfig, known: tuple[str, ...] | None = None) -> Loaded:
    """Arrays in an ``.npz`` file, or in one for each split: ``train.npz`` and ``test.npz`` in a folder.

    A file with both splits has ``train_images``, ``train_labels``, ``test_images``, ``test_labels``, or ``x_train``,
    ``y_train``, ``x_test``, ``y_test``; one with a single split has ``image`` and ``label``, ``images`` and ``labels``,
    or ``x`` and ``y``. ``val`` is tested on where there is no ``test``. ``class_names`` names the labels of its file.

    Args:
        config: the section ``data``.
        known: names of the labels, where only test images are wanted; empty: those of the file, if it has some.
    """
    if config.root is None or config.image_size is not None:
        raise UserError("data npz: needs data.root, an .npz file, and takes the images as they are: no data.image_size")
    root = path_of(config.root)
    files = {split: ArrayFile(root) for split in ("train", "test")}
    if root.is_dir():
        files = {split: ArrayFile(file) for split in ("train", *TESTS) if (file := root / f"{split}.npz").is_file()}
    tests = [files[split] for split in TESTS if split in files]
    if not tests or ("train" not in files and not known):
        raise UserError(f"data.root {root}: must hold train.npz and test.npz (or val.npz), or be an .npz file itself")
    test, own = tests[0].images(TESTS, config.memory_limit, alone=root.is_dir()), tests[0].class_names()
    named = (files["train"].class_names() if "train" in files else None) or own
    if known is not None and (names := known or named):
        test = renumbered(test, own, names, f"data.root {root}, test")
        return test, test, names
    train = files["train"].images(("train",), config.memory_limit, alone=root.is_dir())
    names = _class_names(train, train, named, f"data.root {root}")
    return train, renumbered(test, own, names, f"data.root {root}, test"), names


@dataclass(frozen=True)
class ArrayFile:
    """An ``.npz`` file, or a folder of ``.npy`` files; no object in it is unpickled."""

    path: Path

    def keys(self) -> list[str]:
        """The names of the arrays."""
        with self._read():
            if self.path.is_dir():
                return sorted(file.stem for file in self.path.glob("*.npy"))
            with zipfile.ZipFile(self.path) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]

    def array(self, key: str, limit: float) -> Array:
        """An array; one of more than ``limit`` bytes stays on the disk, out of a compressed file in a cache."""
        with self._read():
            if self.path.is_dir():
                mapped = np.load(self.path / f"{key}.npy", mmap_mode="r", allow_pickle=False)
                return mapped if mapped.nbytes > limit else np.array(mapped)
            with zipfile.ZipFile(self.path) as archive:
                member = archive.getinfo(f"{key}.npy")
                if member.file_size <= limit:
                    with archive.open(member) as file:
                        return np.lib.format.read_array(file, allow_pickle=False)
                if member.compress_type == zipfile.ZIP_STORED:
                    with open(self.path, "rb") as whole:
                        whole.seek(member.header_offset + 26)
                        whole.seek(sum(struct.unpack("<HH", whole.read(4))), 1)  # the name, and what else is there
                        return _mapped(whole, self.path)
                return np.load(self._unpacked(archive, member), mmap_mode="r", allow_pickle=False)

    def class_names(self) -> tuple[str, ...] | None:
        """What its array ``class_names`` says; None: there is none."""
        if "class_names" not in self.keys():
            return None
        return names_of(self.array("class_names", 1e9), f"data {self.path}, class_names")

    def images(self, splits: Sequence[str], limit: float, alone: bool = True) -> ImageSet:
        """The images and labels of the first of these splits that there is; if it is ``alone``, its keys may be plain.

        Raises:
            UserError: no such keys, or arrays that are no images.
        """
        keys, wanted = self.keys(), [tuple(k.format(split) for k in pair) for split in splits for pair in KEYS]
        pairs = [*wanted, *(PLAIN_KEYS if alone else ())]
        pair = next((pair for pair in pairs if {*pair} <= {*keys}), None)
        if pair is None:
            valid = ", or ".join(" and ".join(pair) for pair in (*pairs[:2], *pairs[-4:-3] * alone))
            raise UserError(f"data {self.path}: has {', '.join(keys) or 'no arrays'}; it must have {valid}")
        images, labels, where = self.array(pair[0], limit), self.array(pair[1], limit), f"data {self.path}, {pair[0]}"
        if not isinstance(images, np.memmap):
            return image_set(images, labels, where)
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise UserError(f"{where}: is larger than data.memory_limit, and {images.dtype}; write it as uint8")
        numbers = labels_of(labels, where)
        if len(numbers) != len(images):
            raise UserError(f"{where}: {len(images)} images and {len(numbers)} labels; give one label for each image")
        return StreamedImageSet(MappedImages(images), numbers, workers=0)  # there is nothing to decode

    @contextmanager
    def _read(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # no such file, no zip file, broken, or with objects: many types
            raise UserError(
                f"data {self.path}: cannot be read ({reason(error)}); give an .npz file that numpy.savez wrote"
            ) from error

    def _unpacked(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Path:
        """A compressed array by itself, in the cache: unpacked once, as long as the file is the same."""
        if (cache := user_cache()) is None:
            raise UserError(f"data {self.path}: is compressed, and there is no home directory to unpack it in")
        name = fingerprint_files(self.path.parent, [self.path.name], [str(self.path.resolve()), member.filename])
        place = cache / "unpacked" / f"{name[:32]}.npy"
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            print(f"data {self.path}: unpacking {member.filename} into {place}", file=sys.stderr)
            with atomic_path(place) as temporary, archive.open(member) as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 22)
        return place


def _mapped(file: IO[bytes], path: Path) -> Array:
    """The array that begins where an open file stands, on the disk."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


@dataclass(frozen=True)
class MappedImages:
    """Reads images of an array (N, H, W), (N, H, W, C) or (N, C, H, W) that is on the disk."""

    array: Array

    def __call__(self, index: int) -> Bytes:
        """uint8 (C, H, W)."""
        return _channels_first(torch.tensor(self.array[index])[None], "images")[0].numpy()
