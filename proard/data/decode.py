"""Image files to arrays of bytes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from proard.common.errors import UserError, reason
from proard.common.progress import Progress
from proard.common.units import how_many
from proard.data.cache import cached

Bytes = NDArray[np.uint8]
NAMED = 10  # broken images that a message names
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


class UnreadableImage(UserError):
    """A file that is no image, or a broken one."""


def decode_image(path: str | Path, size: int) -> Bytes:
    """Read one image as RGB, scale its shorter side to ``size`` and keep the centre square.

    It is turned as its EXIF data say. An image that needs no scaling is not resampled. Transparency is dropped; 16-bit
    grey keeps its upper 8 bits.

    Returns:
        uint8 (3, size, size).

    Raises:
        UnreadableImage: Pillow cannot read the file; names it.
    """
    try:
        return decode(Path(path), size)
    except Exception as error:  # Pillow's decoders raise many types on broken files: SyntaxError, struct.error, ...
        raise UnreadableImage(f"image {path}: cannot be read ({reason(error)}); replace or remove the file") from error


def decode(source: Path | IO[bytes], size: int | None, grey: bool = False) -> Bytes:
    """As `decode_image`, of a file or of its content; without a size the whole image, and grey as uint8 (1, H, W).

    Raises:
        Exception: of any type, where it cannot be read.
    """
    with Image.open(source) as opened:
        turned = opened.getexif().get(ORIENTATION, 1) != 1
        image = _to_rgb(ImageOps.exif_transpose(opened) if turned else opened)
    if grey:
        image = image.convert("L")
    if size is not None:
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        square = (left, top, left + side, top + side)
        # The box lets the filter see beyond the square's edge, as scaling first and cropping afterwards would.
        image = image.crop(square) if side == size else image.resize((size, size), Image.Resampling.BICUBIC, box=square)
    pixels = np.array(image)  # of which PyTorch makes a tensor without a warning
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def decode_files(folder: Path, files: Sequence[str], size: int) -> Bytes:
    """Read many images, with a progress bar if standard error is a terminal.

    Returns:
        uint8 (N, 3, size, size), in the order of ``files``.

    Raises:
        UnreadableImage: as :func:`decode_image`.
    """
    return decode_all(folder, len(files), (3, size, size), lambda index: decode_image(folder / files[index], size))


def decode_all(where: object, count: int, shape: tuple[int, ...], read: Callable[[int], Bytes]) -> Bytes:
    """Call ``read``, which gives an image of the shape (C, H, W), for 0 to ``count`` - 1, with a progress bar likewise.

    Returns:
        uint8 (count, C, H, W).
    """
    pixels = np.empty((count, *shape), dtype=np.uint8)

    def one(index: int) -> None:
        pixels[index] = read(index)

    _for_each(f"reading {where}", count, one)
    return pixels


def check_file(path: Path) -> None:
    """Decode a file as far as it takes to know that it can be read.

    Raises:
        UnreadableImage: it cannot.
    """
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (64, 64))  # of a JPEG all is read, and less of it computed
            _to_rgb(opened)
    except Exception as error:
        raise UnreadableImage(f"image {path}: cannot be read ({reason(error)})") from error


def unreadable(where: object, count: int, read: Callable[[int], object]) -> dict[int, str]:
    """For which of 0 to ``count`` - 1 ``read`` raises `UnreadableImage`, and why, with a progress bar likewise."""
    found: dict[int, str] = {}

    def check(index: int) -> None:
        try:
            read(index)
        except UnreadableImage as error:
            found[index] = reason(error.__cause__)

    _for_each(f"checking {where}", count, check)
    return dict(sorted(found.items()))


def remembered_unreadable(
    root: Path, name: str, fingerprint: str, count: int, read: Callable[[int], object]
) -> dict[int, str]:
    """`unreadable`, looked for once: which they are is kept as `cached` keeps it, where the arguments are explained."""
    where = root / name
    places = cached(
        root,
        f"{name}-broken.safetensors",
        fingerprint,
        lambda: {"broken": torch.tensor(list(unreadable(where, count, read)), dtype=torch.int64)},
    )["broken"].tolist()
    problems = unreadable(where, len(places), lambda index: read(places[index]))
    return {places[index]: problem for index, problem in problems.items()}


def leave_out(where: str, broken: Sequence[str], skip: bool) -> None:
    """Say which images are left out as they cannot be read.

    Raises:
        UserError: there are some, and they are not to be skipped.
    """
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    line = f"{where}: {how_many(len(broken), 'image')} cannot be read: {', '.join(broken[:NAMED])}{more}"
    if broken and not skip:
        raise UserError(f"{line}; replace or remove them, or leave them out with data.skip_broken: true")
    if broken:
        print(f"{line}; left out", file=sys.stderr)


def _for_each(what: str, count: int, work: Callable[[int], None]) -> None:
    """Call with every index from 0, by threads: Pillow lets others run while it decodes."""

    def several(indices: range) -> int:
        for index in indices:
            work(index)
        return len(indices)

    chunks = [range(start, min(start + 64, count)) for start in range(0, count, 64)]
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with Progress(what, count, "images") as progress:
            for done in pool.map(several, chunks):
                progress.advance(done)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, do not decode the rest first


def _to_rgb(image: Image.Image) -> Image.Image:
    # Older Pillow opens a PNG of 16 bits as "I".
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of type '{image.mode}', which has no known range; save it with 8 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about some palettes
    return image.convert("RGB")
