"""Sets that the package ``datasets`` reads: folders of Parquet files, and what is on the Hugging Face Hub."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from proard.common.errors import UserError, first_line, nearest, reason
from proard.common.paths import path_of
from proard.config import DataConfig
from proard.data.arrays import TESTS, Loaded, check_labels
from proard.data.decode import Bytes, decode, decode_all
from proard.data.images import ImageSet, StreamedImageSet

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
    ``val`` or ``validation``. Images are resized if ``data.image_size`` says so; else they must be of one size.

    Args:
        config: the section ``data``.
        image: the column of the images.
        label: the column of the labels.
        subset: which one of a set that has several, which Hugging Face calls its configuration.
        channels: 1 makes all images grey, 3 makes them RGB; default 1 if all are grey, else 3.
        known: names of the labels, where only test images are wanted.
    """
    where = f"data.root {config.root}"
    splits = _splits(config, subset)
    tested = next((name for name in TESTS if name in splits), None)
    if tested is None or ("train" not in splits and known is None):
        raise UserError(f"{where}: has the splits {', '.join(splits)}; it must have train, and test or validation")
    used = [tested] if known is not None else ["train", tested]
    for name in used:
        for key, column in (("image", image), ("label", label)):
            if column not in splits[name].column_names:
                there = nearest(column, splits[name].column_names)
                raise UserError(f"{where}: {name} has no column '{column}' (data.{key}){there}")
    names = _class_names(splits[used[0]], label, known, where)
    labels = {name: _labels(splits[name], label, names, f"{where}, {name}") for name in used}
    rows = {name: RowImages(_undecoded(splits[name], image, where), f"{where}, {name}", image) for name in used}
    grey = rows[used[0]].grey() if channels is None else channels == 1
    look = replace(rows[used[0]], size=config.image_size, grey_images=grey, strict=channels is None)
    shape = look(0).shape
    streamed = sum(map(len, labels.values())) * np.prod(shape) > config.memory_limit

    def images(name: str) -> ImageSet:
        read = replace(look, table=rows[name].table, where=rows[name].where, shape=shape)
        if streamed:
            return StreamedImageSet(read, labels[name], config.workers)
        return ImageSet(torch.from_numpy(decode_all(f"{where}, {name}", len(labels[name]), shape, read)), labels[name])

    made = [images(name) for name in used]
    return made[0], made[-1], names


def _splits(config: DataConfig, subset: str | None) -> dict[str, Any]:
    """The splits of a set by their names."""
    root, where = config.root, f"data.root {config.root}"
    if root is None:
        raise UserError(f"data huggingface: needs data.root, a folder of Parquet files, or {HUB}OWNER/NAME")
    if find_spec("datasets") is None:
        raise UserError("data huggingface: needs the package 'datasets'; pip install 'proard[datasets]'")
    import datasets

    folder = _from_hub(str(root), config.download) if str(root).startswith(HUB) else path_of(root)
    if not folder.is_dir():
        raise UserError(f"{where}: no such folder; a set on the Hugging Face Hub is written {HUB}OWNER/NAME")
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").is_file():  # of `save_to_disk`
            return dict(datasets.load_from_disk(str(folder)))
        return dict(datasets.load_dataset(str(folder), subset))
    except Exception as error:  # whatever is wrong with the files: many types
        raise UserError(f"{where}: cannot be read as a data set ({first_line(error)})") from error
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


def _class_names(split: Any, label: str, known: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    if (names := getattr(split.features[label], "names", None)) is not None:
        return tuple(names)
    try:
        found = sorted(set(split[label][:]))
    except TypeError as error:  # lists, or missing ones among others
        raise UserError(
            f"{where}: column '{label}' has no labels ({reason(error)}); name another with data.label"
        ) from error
    if any(value != value for value in found):  # NaN, which a table has for what is missing
        raise UserError(f"{where}: column '{label}' has no label (nan) for some images; leave those out")
    return known or tuple(map(str, found))


def _labels(split: Any, label: str, names: Sequence[str], where: str) -> torch.Tensor:
    """int64 (N,)."""
    values = split[label][:]
    if not values:
        raise UserError(f"{where}: has no images")
    if not hasattr(split.features[label], "names"):
        numbers = {name: number for number, name in enumerate(names)}
        values = [numbers.get(str(value), str(value)) for value in values]
        if unknown := sorted({value for value in values if isinstance(value, str)}):
            raise UserError(f"{where}: has labels that are no classes: {', '.join(unknown[:5])}")
    labels = torch.tensor([-1 if value is None else value for value in values])
    check_labels(labels, len(names), where)
    return labels


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
        """uint8 (C, H, W)."""
        try:
            colour = self.grey_images and self.strict and not self._is_grey(index)
            pixels = decode(self._file(index), self.size, self.grey_images)
        except Exception as error:  # as in `decode_image`
            raise UserError(f"{self.where}: image {index} cannot be read ({reason(error)})") from error
        if colour:
            raise UserError(
                f"{self.where}: image {index} has colours, and others are grey; set data.channels to 3 or 1"
            )
        if self.shape not in (None, pixels.shape):
            raise UserError(f"{self.where}: image {index} is of another size than the first; set data.image_size")
        return pixels

    def grey(self) -> bool:
        """Whether the images are grey, by those that are looked at."""
        try:
            return all(map(self._is_grey, range(0, len(self.table), -(-len(self.table) // LOOKED_AT))))
        except Exception as error:
            raise UserError(f"{self.where}: has images that cannot be read ({reason(error)})") from error

    def _is_grey(self, index: int) -> bool:
        with Image.open(self._file(index)) as opened:
            return opened.mode in GREY

    def _file(self, index: int) -> Any:
        entry = self.table[index][self.column]
        return io.BytesIO(entry["bytes"]) if entry["bytes"] is not None else entry["path"]
