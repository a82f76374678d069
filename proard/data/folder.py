"""A folder of images: ``train/`` and ``test/`` (or ``val/``), each with one folder per class."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from proard.common.errors import UserError
from proard.common.paths import path_of
from proard.config import DataConfig
from proard.data.cache import cached, fingerprint_files
from proard.data.decode import UnreadableImage, check_file, decode_files, leave_out, remembered_unreadable
from proard.data.images import ImageFiles, ImageSet, StreamedImageSet


def load_image_folder(
    config: DataConfig, known: tuple[str, ...] | None = None
) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read an image folder, through a cache of decoded images, or as a stream where they would not fit in memory.

    The classes are the sorted folder names of ``train/``. ``test/`` is the test split; without one, ``val/`` is.

    Args:
        config: the section ``data``.
        known: class names, where only test images are wanted: `load_test_folder`.

    Returns:
        Training images (RGB), test images, and class names.

    Raises:
        UserError: a folder is missing, empty or mislabelled, or an image cannot be read.
    """
    if known is not None:
        test_images, names = load_test_folder(config, known)
        return test_images, test_images, names
    root = _root(config)
    if not (root / "train").is_dir():
        problem = "has no folder train/" if root.is_dir() else "no such folder"
        raise UserError(f"data.root {root}: {problem}; it must hold train/ and test/ (or val/)")
    train, tests = root / "train", _test_folders(root)
    test = tests[0]
    classes = _class_folders(train)
    if len(classes) < 2:
        raise UserError(f"data {train}: has a single class folder, '{classes[0]}'; at least two classes are needed")
    if len(tests) > 1:
        print(f"data {root}: left out val/: test/ is tested on, and a part of train/ validates", file=sys.stderr)
    _check_classes(test, classes, f"{train} lacks")
    images = _read_folders(config, root, (train, test), classes)
    return images[train], images[test], tuple(classes)


def load_test_folder(config: DataConfig, class_names: tuple[str, ...]) -> tuple[ImageSet, tuple[str, ...]]:
    """The test split of an image folder alone; nothing of ``train/`` is read but the names of its classes.

    Args:
        config: as of `load_image_folder`.
        class_names: where there is no ``train/``, as on a device that has only test images; empty: names of folders.

    Returns:
        Test images, and the class names.

    Raises:
        UserError: as of `load_image_folder`.
    """
    root = _root(config)
    train, tests = root / "train", _test_folders(root)
    classes = _class_folders(train) if train.is_dir() else list(class_names) or _class_folders(tests[0])
    _check_classes(tests[0], classes, f"{train} lacks" if train.is_dir() else "the student does not know")
    return _read_folders(config, root, tests[:1], classes)[tests[0]], tuple(classes)


def _root(config: DataConfig) -> Path:
    if config.root is None or config.image_size is None:
        raise UserError("data image_folder: needs data.root and data.image_size")
    return path_of(config.root)


def _test_folders(root: Path) -> list[Path]:
    """``test/`` or ``val/``, what is tested on first."""
    if tests := [root / name for name in ("test", "val") if (root / name).is_dir()]:
        return tests
    problem = "has neither test/ nor val/; one of them must hold the test images" if root.is_dir() else "no such folder"
    raise UserError(f"data.root {root}: {problem}")


def _check_classes(test: Path, classes: list[str], lacking: str) -> None:
    if unknown := [name for name in _class_folders(test) if name not in classes]:
        raise UserError(
            f"data {test}: has class folders that {lacking}: {', '.join(unknown)}; rename or remove them "
            f"(classes: {', '.join(classes)})"
        )
    if untested := [name for name in classes if not (test / name).is_dir()]:
        print(f"data {test}: has no images of {', '.join(untested)}; accuracies say nothing of them", file=sys.stderr)


def _read_folders(config: DataConfig, root: Path, folders: Sequence[Path], classes: list[str]) -> dict[Path, ImageSet]:
    """The images of folders that have one folder per class, all in memory or all as streams."""
    size = config.image_size
    assert size is not None
    listings = {folder: _list_images(folder, classes) for folder in folders}
    streamed = sum(len(files) for files, _ in listings.values()) * 3 * size * size > config.memory_limit

    def read() -> dict[Path, ImageSet]:
        return {
            folder: StreamedImageSet(ImageFiles(folder, files, size), torch.tensor(labels), config.workers)
            if streamed
            else _decoded(root, folder, files, labels, classes, size)
            for folder, (files, labels) in listings.items()
        }

    if not streamed and not config.skip_broken:
        with suppress(UnreadableImage):  # all such images are named below
            return read()
    broken = {folder: _broken(root, folder, files) for folder, (files, _) in listings.items()}
    found = [f"{f / listings[f][0][index]} ({problem})" for f in folders for index, problem in broken[f].items()]
    leave_out(f"data {root}", found, config.skip_broken)
    for folder, (files, labels) in listings.items():
        kept = [index for index in range(len(files)) if index not in broken[folder]]
        if not kept:
            raise UserError(f"data {folder}: has no image that can be read; put some there")
        listings[folder] = [files[index] for index in kept], [labels[index] for index in kept]
    return read()


def _broken(root: Path, folder: Path, files: list[str]) -> dict[int, str]:
    fingerprint = fingerprint_files(folder, files, more=[])
    return remembered_unreadable(root, folder.name, fingerprint, len(files), lambda i: check_file(folder / files[i]))


def _decoded(root: Path, folder: Path, files: list[str], labels: list[int], classes: list[str], size: int) -> ImageSet:
    def build() -> dict[str, torch.Tensor]:
        return {"images": torch.from_numpy(decode_files(folder, files, size)), "labels": torch.tensor(labels)}

    if _packaged(root):
        return ImageSet(**build())
    # The class names are part of the fingerprint because a label is a class's place among them.
    fingerprint = fingerprint_files(folder, files, more=[str(size), *classes])
    return ImageSet(**cached(root, f"{folder.name}-{size}.safetensors", fingerprint, build))


def _packaged(root: Path) -> bool:
    """Whether a folder is part of the package: then it is small, and nothing is written there."""
    return Path(__file__).parent.parent in root.resolve().parents


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
            elif os.path.exists(entry.path):
                found.append((name, None if entry.is_file() else "no file"))  # such as a pipe, which is read for ever
            else:
                found.append((name, "a link to nothing"))

    walk(folder, frozenset())
    return sorted(found)
