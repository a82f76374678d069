"""A folder of images: ``train/`` and ``test/`` (or ``val/``), each with one folder per class."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from PIL import Image

from proard.common.errors import UserError
from proard.common.paths import path_of
from proard.config import DataConfig
from proard.data.cache import cached, fingerprint_files
from proard.data.decode import decode_files
from proard.data.images import ImageSet, StreamedImageSet


def load_image_folder(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read an image folder, through a cache of decoded images, or as a stream where they would not fit in memory.

    The classes are the sorted folder names of ``train/``. ``test/`` is the test split; without one, ``val/`` is.

    Returns:
        Training images (RGB), test images, and class names.

    Raises:
        UserError: a folder is missing, empty or mislabelled, or an image cannot be read.
    """
    if config.root is None or config.image_size is None:
        raise UserError("data image_folder: needs data.root and data.image_size")
    root, size = path_of(config.root), config.image_size
    if not (root / "train").is_dir():
        problem = "has no folder train/" if root.is_dir() else "no such folder"
        raise UserError(f"data.root {root}: {problem}; it must hold train/ and test/ (or val/)")
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if not tests:
        raise UserError(f"data.root {root}: has neither test/ nor val/; one of them must hold the test images")

    train, test = root / "train", tests[0]
    classes = _class_folders(train)
    if len(classes) < 2:
        raise UserError(f"data {train}: has a single class folder, '{classes[0]}'; at least two classes are needed")
    if unknown := [name for name in _class_folders(test) if name not in classes]:
        raise UserError(
            f"data {test}: has class folders that {train} lacks: {', '.join(unknown)}; rename or remove them "
            f"(training classes: {', '.join(classes)})"
        )
    listings = [_list_images(train, classes), _list_images(test, classes)]
    decoded_bytes = sum(len(files) for files, _ in listings) * 3 * size * size

    def read(folder: Path, files: list[str], labels: list[int]) -> ImageSet:
        if decoded_bytes > config.memory_limit:
            return StreamedImageSet(folder, files, torch.tensor(labels), size, config.workers)
        return _decoded(root, folder, files, labels, classes, size)

    return read(train, *listings[0]), read(test, *listings[1]), tuple(classes)


def _decoded(root: Path, folder: Path, files: list[str], labels: list[int], classes: list[str], size: int) -> ImageSet:
    def build() -> dict[str, torch.Tensor]:
        return {"images": torch.from_numpy(decode_files(folder, files, size)), "labels": torch.tensor(labels)}

    if (
        Path(__file__).parent.parent in root.resolve().parents
    ):  # they come with the package, few and not to be written by
        return ImageSet(**build())
    # The class names are part of the fingerprint because a label is a class's place among them.
    fingerprint = fingerprint_files(folder, files, more=[str(size), *classes])
    return ImageSet(**cached(root, f"{folder.name}-{size}.safetensors", fingerprint, build))


def _class_folders(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"data {folder}: has no class folders; put each class's images in a folder named after it")
    return names


def _list_images(folder: Path, classes: list[str]) -> tuple[list[str], list[int]]:
    """Names relative to ``folder``, sorted, and labels of all images; a class that has no folder here has none.

    What else lies there is said, with the reason.
    """
    Image.init()
    extensions = {extension for extension, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files: list[str] = []
    labels: list[int] = []
    left_out: dict[str, list[str]] = {}  # by reason
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir() or entry.name.startswith("."):
            left_out.setdefault("in no class folder", []).append(entry.name)
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        before = len(files)
        for file, problem in _walk(folder / name):
            if problem is None and os.path.splitext(file)[1].lower() not in extensions:
                problem = "not named like an image"
            if problem is not None:
                left_out.setdefault(problem, []).append(f"{name}/{file}")
                continue
            files.append(f"{name}/{file}")
            labels.append(label)
        if len(files) == before:
            raise UserError(f"data {folder / name}: has no images; put some there, or remove the folder")
    if left_out:
        reasons = (f"{len(names)} {reason}, such as {names[0]}" for reason, names in left_out.items())
        print(f"data {folder}: left out {'; '.join(reasons)}", file=sys.stderr)
    return files, labels


def _walk(folder: Path) -> list[tuple[str, str | None]]:
    """All files below, relative to ``folder``, sorted, and what is wrong with a file or a whole folder, if anything.

    Links are followed, but no folder is read twice on the way down to it.
    """
    found: list[tuple[str, str | None]] = []

    def walk(at: Path, above: frozenset[str]) -> None:
        real = os.path.realpath(at)
        if real in above:
            found.append((os.path.relpath(at, folder), "a link to a folder that it is in"))
            return
        for entry in os.scandir(at):
            name = os.path.relpath(entry.path, folder)
            if entry.name.startswith("."):
                found.append((name, "hidden"))
            elif entry.is_dir():
                walk(Path(entry.path), above | {real})
            else:
                found.append((name, None if os.path.exists(entry.path) else "a link to nothing"))

    walk(folder, frozenset())
    return sorted(found)
