"""The same small images, written in every format that is read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

datasets = pytest.importorskip("datasets")

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]
NAMES = ("dark", "light")


def made(channels: int = 3) -> Arrays:
    """Images (N, H, W, C), in the order of a folder's names."""
    rng = np.random.default_rng(0)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat([0, 1], count)
        lows = 120 * labels[:, None, None, None]
        return (lows + rng.integers(0, 120, (2 * count, 8, 8, channels))).astype(np.uint8), labels

    return *part(24), *part(8), NAMES


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    return file.getvalue()


def as_folder(data: Arrays, root: Path) -> dict[str, Any]:
    for split, images, labels in (("train", *data[:2]), ("test", *data[2:4])):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = root / split / NAMES[label] / f"{index:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(image))
    return {"name": "image_folder", "root": str(root), "image_size": 8}


def as_npz(data: Arrays, root: Path, save: Callable[..., None] = np.savez) -> dict[str, Any]:
    keys = ("train_images", "train_labels", "test_images", "test_labels", "class_names")
    save(root.with_suffix(".npz"), **dict(zip(keys, map(np.array, data), strict=True)))
    return {"name": "npz", "root": str(root.with_suffix(".npz"))}


def as_npz_of_splits(data: Arrays, root: Path) -> dict[str, Any]:
    root.mkdir()
    np.savez(root / "train.npz", image=data[0], label=data[1], class_names=np.array(NAMES))
    np.savez(root / "val.npz", x=data[2], y=data[3][:, None])
    return {"name": "npz", "root": str(root)}


def as_parquet(data: Arrays, root: Path, tests: str = "test") -> dict[str, Any]:
    root.mkdir()
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(NAMES)))
    for split, images, labels in (("train", *data[:2]), (tests, *data[2:4])):
        rows = {"image": [{"bytes": png(image), "path": None} for image in images], "label": labels.tolist()}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}-00000-of-00001.parquet")
    return {"name": "huggingface", "root": str(root)}


def as_plain_parquet(data: Arrays, root: Path) -> dict[str, Any]:
    """As other programs write it, with other names: bytes, and labels that are text."""
    import pyarrow
    from pyarrow import parquet

    root.mkdir()
    for split, images, labels in (("train", *data[:2]), ("validation", *data[2:4])):
        table = {"picture": [png(image) for image in images], "kind": [NAMES[label] for label in labels]}
        parquet.write_table(pyarrow.table(table), root / f"{split}.parquet")
    return {"name": "huggingface", "root": str(root), "image": "picture", "label": "kind"}


FORMATS = (as_folder, as_npz, as_npz_of_splits, as_parquet, as_plain_parquet)
