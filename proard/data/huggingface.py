"""Sets that the package ``datasets`` reads: folders of Parquet files, and what is on the Hugging Face Hub."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from proard.common.errors import UserError, first_line, nearest, reason
from proard.common.paths import path_of
from proard.config import DataConfig
from proard.data.arrays import TESTS, Loaded, by_names, check_labels
from proard.data.cache import fingerprint_files
from proard.data.decode import Bytes, UnreadableImage, decode, decode_all, leave_out, remembered_unreadable
from proard.data.images import ImageSet, StreamedImageSet
from proard.data.stratify import Integers

HUB = "hub:"
HUB_NAME = re.compile(rf"{HUB}(?P<repository>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?", re.ASCII)
TIMEOUT = 20.0  # seconds for an answer of the hub
LOOKED_AT = 1000  # images whose kind says whether a set is grey
GREY = ("1", "L", "LA", "I", "I;16", "I;16B")  # modes of Pillow


def load_huggingface(
    config: DataConfig,
    image: str = "image",
    label: str = "label",
    subset: str | None = None,
    channels: Literal[1, 3] | None = None,
    known: tuple[str, ...] | None = None,
) -> Loaded:
    """A folder of Parquet files, or ``hub:OWNER/NAME``, which is fetched if ``data.download`` is true.

    Classes are those of a ``ClassLabel``, else the sorted values of the label. The splits are ``train``, and ``test``,
    ``val`` or ``validation``, the first that has labels. Images are resized if ``data.image_size`` says so; else they
    must be of one size.

    Args:
        config: the section ``data``.
        image: the column of the images.
        label: the column of the labels.
        subset: which one of a set that has several, which Hugging Face calls its configuration.
        channels: 1 makes all images grey, 3 makes them RGB; default 1 if all are grey, else 3.
        known: names of the labels, where only test images are wanted; empty: the set's own.
    """
    where = f"data.root {config.root}"
    folder, splits = _splits(config, subset)
    tests = [name for name in TESTS if name in splits]
    if not tests or ("train" not in splits and known is None):
        raise UserError(f"{where}: has the splits {', '.join(splits)}; it must have train, and test or validation")
    tested = next((name for name in tests if _has_labels(splits[name], label)), tests[0])
    if tested != tests[0]:
        print(f"{where}: left out {tests[0]}: it has no labels; {tested} is tested on", file=sys.stderr)
    first = "train" if "train" in splits else tested
    used = [tested] if known is not None else ["train", tested]
    looked_at = list(dict.fromkeys((first, *used)))
    for name in looked_at:
        for key, column in (("image", image), ("label", label)):
            if column not in splits[name].column_names:
                there = nearest(column, splits[name].column_names)
                raise UserError(f"{where}: {name} has no column '{column}' (data.{key}){there}")
    names = known or _class_names(splits[first], label, f"{where}, {first}")
    labels = {name: _labels(splits[name], label, names, f"{where}, {name}") for name in used}
    tables = {name: _undecoded(splits[name], image, where) for name in looked_at}
    rows = {name: RowImages(table, f"{where}, {name}", image, config.image_size) for name, table in tables.items()}
    grey = rows[first].grey() if channels is None else channels == 1
    rows = {name: replace(read, grey_images=grey, strict=channels is None) for name, read in rows.items()}
    shape = rows[used[0]].first_shape()
    splits = {name: (replace(rows[name], shape=shape), labels[name]) for name in used}
    made = _image_sets(config, folder, splits, about=repr((image, subset, config.image_size, channels)))
    return made[0], made[-1], names


def _image_sets(
    config: DataConfig, folder: Path, splits: dict[str, tuple[RowImages, torch.Tensor]], about: str
) -> list[ImageSet]:
    """Splits, all in memory or all streamed, without what cannot be read, or a line of all that cannot."""
    images, shape = sum(len(labels) for _, labels in splits.values()), next(iter(splits.values()))[0].shape or ()
    streamed = images * np.prod(shape) > config.memory_limit
    kept = {name: np.arange(len(labels)) for name, (_, labels) in splits.items()}

    def made() -> list[ImageSet]:
        return [
            StreamedImageSet(read, labels[kept[name]], config.workers, kept[name])
            if streamed
            else ImageSet(torch.from_numpy(read.all(kept[name])), labels[kept[name]])
            for name, (read, labels) in splits.items()
        ]

    if not streamed and not config.skip_broken:
        with suppress(UnreadableImage):  # all such images are named below
            return made()
    files = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    files = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    fingerprint = fingerprint_files(folder, list(map(str, files)), [about])
    lines = []
    for name, (read, labels) in splits.items():
        broken = remembered_unreadable(folder, name, fingerprint, len(labels), read)
        lines += [f"{name}: image {index} ({problem})" for index, problem in broken.items()]
        kept[name] = np.setdiff1d(kept[name], list(broken))
    leave_out(f"data.root {config.root}", lines, config.skip_broken)
    return made()


def _splits(config: DataConfig, subset: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder of a set, and its splits by their names."""
    root, where = config.root, f"data.root {config.root}"
    if root is None:
        raise UserError(f"data huggingface: needs data.root, a folder of Parquet files, or {HUB}OWNER/NAME")
    if find_spec("datasets") is None:
        raise UserError("data huggingface: needs the package 'datasets'; pip install 'proard[datasets]'")
    import datasets

    folder = _from_hub(str(root), config.download) if str(root).startswith(HUB) else path_of(root)
    if not folder.is_dir():
        raise UserError(f"{where}: no such folder; a set on the Hugging Face Hub is written {HUB}OWNER/NAME")
    if (folder / "state.json").is_file():  # of `save_to_disk`, too
        raise UserError(f"{where}: is one split alone; save a DatasetDict with train and test")
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").is_file():  # of `save_to_disk`
            return folder, dict(datasets.load_from_disk(str(folder)))
        return folder, dict(datasets.load_dataset(str(folder), subset))
    except Exception as error:  # whatever is wrong with the files: many types
        because = f": {first_line(error.__cause__)}" if error.__cause__ else ""
        raise UserError(f"{where}: cannot be read as a data set ({first_line(error)}{because})") from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def _from_hub(name: str, download: bool) -> Path:
    """The folder of a set on the hub, or on the server ``HF_ENDPOINT``, in the hub's own cache."""
    from huggingface_hub import errors, snapshot_download

    if (match := HUB_NAME.fullmatch(name)) is None:
        raise UserError(f"data.root {name}: give {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    try:
        return Path(
            snapshot_download(
                match["repository"],
                repo_type="dataset",
                revision=match["revision"],
                allow_patterns=["*.parquet", "README.md"],
                local_files_only=not download,
                etag_timeout=TIMEOUT,
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        )
    except errors.LocalEntryNotFoundError as error:
        problem = "cannot be reached" if download else "is not on this machine; set data.download=true to fetch it"
        raise UserError(f"data.root {name}: {problem}, or give a folder of its Parquet files") from error
    except Exception as error:  # no such set, no access, a full disk
        raise UserError(f"data.root {name}: cannot be fetched ({first_line(error)})") from error


def _has_labels(split: Any, label: str) -> bool:
    return label in split.column_names and not all(_is_missing(value) for value in split[label][:])


def _is_missing(value: Any) -> bool:
    """What tables have for a label that is not known."""
    return value is None or value == "" or value != value or (isinstance(value, int | float) and value == -1)


def _values(split: Any, label: str, where: str) -> list[Any]:
    """The column of the labels, all of which are there; where classes are -1 and 1, -1 is one."""
    values = list(split[label][:])
    if not values:
        raise UserError(f"{where}: has no images")
    signs = not hasattr(split.features[label], "names") and 0 not in values and 1 in values
    for value in (value for value in values if _is_missing(value) and not (signs and value == -1)):
        raise UserError(f"{where}: column '{label}' has no label ({value}) for some images; leave those out")
    return values


def _class_names(split: Any, label: str, where: str) -> tuple[str, ...]:
    if (names := getattr(split.features[label], "names", None)) is not None:
        return tuple(names)
    try:
        return tuple(map(str, sorted(set(_values(split, label, where)))))
    except TypeError as error:  # lists
        raise UserError(
            f"{where}: column '{label}' has no labels ({reason(error)}); name another with data.label"
        ) from error


def _labels(split: Any, label: str, names: Sequence[str], where: str) -> torch.Tensor:
    """int64 (N,), by ``names``, whatever they count by in this split."""
    values, own = _values(split, label, where), getattr(split.features[label], "names", None)
    if own is None:
        own = sorted({str(value) for value in values})
        places = {name: place for place, name in enumerate(own)}
        values = [places[str(value)] for value in values]
    numbers = torch.tensor(values)
    check_labels(numbers, len(own), where)
    return by_names(numbers, own, names, where)


def _undecoded(split: Any, image: str, where: str) -> Any:
    """A table of the one column, whose entries are the content of files."""
    import datasets

    try:
        return split.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    except Exception as error:  # of a type that holds no images
        kind = first_line(split.features[image])
        raise UserError(f"{where}: column '{image}' has no images but {kind}; name another with data.image") from error


@dataclass(frozen=True)
class RowImages:
    """Reads images of a table of ``datasets`` by their row.

    Attributes:
        table: with the content of image files.
        where: what it is, for messages.
        column: of the images.
        size: side to which they are resized; None: they stay as they are.
        grey_images: make them grey; else RGB.
        strict: refuse to make an image grey that is not.
        shape: that they must have.
    """

    table: Any
    where: str
    column: str
    size: int | None = None
    grey_images: bool = False
    strict: bool = False
    shape: tuple[int, ...] | None = None

    def __call__(self, index: int) -> Bytes:
        """uint8 (C, H, W).

        Raises:
            UnreadableImage: it cannot be decoded.
            UserError: it is not like the others.
        """
        try:
            colour = self.grey_images and self.strict and not self._is_grey(index)
            pixels = decode(self._file(index), self.size, self.grey_images)
        except Exception as error:  # as in `decode_image`; Pillow's message is an address where it knows no such image
            problem = ValueError("no image") if isinstance(error, UnidentifiedImageError) else error
            raise UnreadableImage(f"{self.where}: image {index} cannot be read ({reason(problem)})") from problem
        if colour:
            raise UserError(
                f"{self.where}: image {index} has colours, and others are grey; set data.channels to 3 or 1"
            )
        if self.shape not in (None, pixels.shape):
            raise UserError(f"{self.where}: image {index} is of another size than the first; set data.image_size")
        return pixels

    def all(self, rows: Integers) -> Bytes:
        """uint8 (N, C, H, W), of these rows."""
        assert self.shape is not None
        return decode_all(self.where, len(rows), self.shape, lambda index: self(int(rows[index])))

    def first_shape(self) -> tuple[int, ...]:
        """Of the first image that can be read."""
        for index in range(len(self.table)):
            with suppress(UnreadableImage):
                return self(index).shape
        raise UserError(f"{self.where}: has no image that can be read")

    def grey(self) -> bool:
        """Whether the images are grey, by those that are looked at and can be read."""
        return all(map(self._is_grey, range(0, len(self.table), -(-len(self.table) // LOOKED_AT))))

    def _is_grey(self, index: int) -> bool:
        try:
            with Image.open(self._file(index)) as opened:
                return opened.mode in GREY
        except Exception:  # `__call__` says so of an image that cannot be read
            return True

    def _file(self, index: int) -> Any:
        entry = self.table[index][self.column] or {}
        if entry.get("bytes") is None and entry.get("path") is None:
            raise ValueError("the cell is empty")
        return io.BytesIO(entry["bytes"]) if entry["bytes"] is not None else entry["path"]
