"""The 15 common corruptions of Hendrycks & Dietterich (arXiv 1903.12261) at 5 severities, for images from 8x8 on.

Written anew from their definitions. The libraries that there are refuse images below 32 pixels or grey ones
(imagecorruptions), or have the strengths of ImageNet-C, far too much for small images, and draw from NumPy's global
state (corrupt-tta). Strengths are those of CIFAR-10-C. What they say in pixels is for 32 of them: it grows with larger
images, and stays in smaller ones, where a smaller blur would change nothing. As published, not every severity moves
pixel values farther than the one before: those of glass_blur, frost and elastic_transform differ in kind. Differences
from the published files, besides other random draws:

- ``frost`` lays a procedural texture over the image, of the photographs' mean brightness, spread and tint, not a crop
  of a photograph: the one corruption whose numbers are comparable only roughly.
- ``zoom_blur`` zooms about the exact centre, ``elastic_transform`` samples once, and values are not rounded to bytes.
- An image has draws of its own, the same ones at each severity: results depend on neither batches nor processes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SMALLEST = 8  # pixels of a side
REFERENCE = 32  # side that strengths in pixels are for
SEVERITIES = (1, 2, 3, 4, 5)
LUMA = np.array([0.299, 0.587, 0.114])
FROST_MEAN, FROST_SPREAD, FROST_TINT = 0.64, 0.1, np.array([0.89, 1.02, 1.09])  # of the photographs' crops

Pixels = NDArray[np.float64]  # (H, W, C), in [0, 1]
Function = Callable[[Pixels, Any, np.random.Generator, float], Pixels]
"""From an image, a strength, random draws, and by how much the image is larger than `REFERENCE`; clipped afterwards."""


@dataclass(frozen=True)
class Corruption:
    """One of `CORRUPTIONS`.

    Attributes:
        category: ``noise``, ``blur``, ``weather`` or ``digital``, as in the paper.
        strengths: what the function takes at each severity.
        function: of one image.
    """

    category: str
    strengths: Sequence[Any]
    function: Function


CORRUPTIONS: dict[str, Corruption] = {}


def corrupt(images: torch.Tensor, name: str, severity: int, *, seed: int = 0, first: int = 0) -> torch.Tensor:
    """Corrupted copies of images.

    Args:
        images: (N, C, H, W), floating point, in [0, 1]; sides of at least 8. Three channels are taken for colours.
        name: of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of the random draws.
        first: the number of the first image; each has draws by the seed and its number.

    Returns:
        Images of the same shape, type and device, in [0, 1].

    Raises:
        ValueError: an unknown corruption or severity, or images of another shape or type.
    """
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        raise ValueError(f"no corruption {name!r} of severity {severity}; there are {', '.join(CORRUPTIONS)}; 1 to 5")
    if images.dim() != 4 or min(images.shape[2:]) < SMALLEST or not images.is_floating_point():
        raise ValueError(
            f"images must be floating point (N, C, H, W) of at least {SMALLEST}x{SMALLEST} pixels, "
            f"got {images.dtype} {tuple(images.shape)}"
        )
    kind, scale = CORRUPTIONS[name], max(1.0, min(images.shape[2:]) / REFERENCE)
    corrupted = np.empty(images.shape)
    for number, image in enumerate(images.detach().permute(0, 2, 3, 1).double().cpu().numpy()):
        rng = np.random.default_rng([seed, first + number])
        changed = kind.function(image, kind.strengths[severity - 1], rng, scale)
        corrupted[number] = np.clip(changed, 0, 1).transpose(2, 0, 1)
    return torch.from_numpy(corrupted).to(images)


def _register(category: str, *strengths: Any) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        CORRUPTIONS[function.__name__.strip("_")] = Corruption(category, strengths, function)
        return function

    return add


# ---------------------------------------------------------------------------------------------------------------------
# Noise


@_register("noise", 0.04, 0.06, 0.08, 0.09, 0.10)
def _gaussian_noise(x: Pixels, deviation: float, rng: np.random.Generator, _: float) -> Pixels:
    return x + deviation * rng.standard_normal(x.shape)


@_register("noise", 500, 250, 100, 75, 50)
def _shot_noise(x: Pixels, photons: float, rng: np.random.Generator, _: float) -> Pixels:
    return rng.poisson(x * photons) / photons


@_register("noise", 0.01, 0.02, 0.03, 0.05, 0.07)
def _impulse_noise(x: Pixels, share: float, rng: np.random.Generator, _: float) -> Pixels:
    draw = rng.random(x.shape)
    return np.where(draw < share / 2, 0.0, np.where(draw > 1 - share / 2, 1.0, x))


# ---------------------------------------------------------------------------------------------------------------------
# Blur


@_register("blur", (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
def _defocus_blur(x: Pixels, strength: tuple[float, float], _: np.random.Generator, scale: float) -> Pixels:
    return ndimage.convolve(x, disk(*strength, scale)[..., None], mode="mirror")


def disk(radius: float, smoothing: float, scale: float = 1) -> Pixels:
    """A kernel (K, K) that sums to 1: the pixels within a radius, smoothed over their neighbours, then enlarged."""
    side = np.arange(-int(radius) - 1, int(radius) + 2)
    inside = (side[:, None] ** 2 + side**2 <= radius**2).astype(float)
    kernel = ndimage.gaussian_filter(inside, smoothing, mode="constant", radius=1)
    reach = int(scale * (len(side) // 2 + 1))  # enlarged, and no new disk: few pixels make up one, with jumps in size
    wider = np.clip(1 - np.abs(np.arange(-reach, reach + 1)[:, None] / scale - side), 0, 1)
    kernel = wider @ kernel @ wider.T
    return kernel / kernel.sum()


@_register("blur", (0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))
def _glass_blur(x: Pixels, strength: tuple[float, int], rng: np.random.Generator, scale: float) -> Pixels:
    """Pixels are copies of near ones (the published code means to exchange them), between two slight blurs."""
    sigma, rounds = strength
    smooth, reach = (scale * sigma, scale * sigma, 0), round(scale)
    x = ndimage.gaussian_filter(x, smooth, mode="nearest")
    rows, columns = (np.arange(reach + 1, side - reach + 1) for side in x.shape[:2])
    for _ in range(rounds):
        down, right = rng.integers(-reach, reach, (2, len(rows), len(columns)))
        x[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = x[rows[:, None] + down, columns + right]
    return ndimage.gaussian_filter(x, smooth, mode="nearest")


@_register("blur", (6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
def _motion_blur(x: Pixels, strength: tuple[float, float], rng: np.random.Generator, scale: float) -> Pixels:
    return moved(x, scale * strength[0], scale * strength[1], rng.uniform(-45, 45))


def moved(x: Pixels, radius: float, sigma: float, angle: float) -> Pixels:
    """The image, smeared to one side over up to twice the radius in pixels; the angle is in degrees."""
    taps = np.arange(min(int(2 * radius), int(4 * sigma)) + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    around, (height, width) = int(taps[-1]), x.shape[:2]
    padded = np.pad(x, ((around, around), (around, around), (0, 0)), mode="edge")
    direction = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
    offsets = np.rint(taps[:, None] * direction).astype(int) + around
    parts = (w * padded[i : i + height, j : j + width] for w, (i, j) in zip(weights, offsets, strict=True))
    return sum(parts, np.zeros(x.shape)) / weights.sum()


@_register("blur", 6, 11, 16, 21, 26)
def _zoom_blur(x: Pixels, zooms: int, _: np.random.Generator, __: float) -> Pixels:
    return (x + sum(zoomed(x, 1 + 0.01 * step) for step in range(zooms))) / (zooms + 1)


def zoomed(x: Pixels, factor: float) -> Pixels:
    """The middle of an image, bilinearly enlarged to its size."""
    rows, columns = (_enlarging(side, factor) for side in x.shape[:2])
    return (rows @ x.transpose(2, 0, 1) @ columns.T).transpose(1, 2, 0)


@lru_cache(maxsize=128)
def _enlarging(side: int, factor: float) -> Pixels:
    """A matrix (side, side) that interpolates a line of pixels."""
    middle = (side - 1) / 2
    at = middle + (np.arange(side) - middle) / factor
    return np.clip(1 - np.abs(at[:, None] - np.arange(side)), 0, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Weather


@_register(
    "weather",
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
def _snow(x: Pixels, strength: tuple[float, ...], rng: np.random.Generator, scale: float) -> Pixels:
    """Falling flakes, brighter than a threshold, over an image that is whitened."""
    mean, deviation, zoom, threshold, radius, sigma, kept = strength
    flakes = zoomed(mean + deviation * rng.standard_normal((*x.shape[:2], 1)), zoom)
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    flakes = moved(flakes, scale * radius, scale * sigma, rng.uniform(-135, -45))
    grey = x @ LUMA if x.shape[2] == 3 else x.mean(2)
    white = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey[..., None] + 0.5)
    return white + flakes + flakes[::-1, ::-1]


@_register("weather", (1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
def _frost(x: Pixels, strength: tuple[float, float], rng: np.random.Generator, _: float) -> Pixels:
    ridges = -np.abs(plasma(x.shape[:2], 1.5, rng) - 0.5)  # bright lines that branch
    texture = FROST_MEAN + FROST_SPREAD * (ridges - ridges.mean()) / ridges.std()
    tint = FROST_TINT if x.shape[2] == 3 else 1.0
    return strength[0] * x + strength[1] * np.clip(texture * tint, 0, 1)


@_register("weather", (0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
def _fog(x: Pixels, strength: tuple[float, float], rng: np.random.Generator, _: float) -> Pixels:
    density, decay = strength
    return (x + density * plasma(x.shape[:2], decay, rng)) * x.max() / (x.max() + density)


def plasma(shape: tuple[int, ...], decay: float, rng: np.random.Generator) -> Pixels:
    """A cloud (H, W, 1) from 0 to 1, by the diamond-square algorithm on a torus.

    Every halving of the grid divides the roughness by ``decay`` squared, as in the published code.
    """
    grid, rough = np.zeros((1, 1)), 1.0

    def between(*corners: Pixels) -> Pixels:
        return sum(corners, np.zeros(grid.shape)) / 4 + rough * rng.uniform(-1, 1, grid.shape)

    while len(grid) < max(shape):
        right, below = np.roll(grid, -1, 1), np.roll(grid, -1, 0)
        centre = between(grid, right, below, np.roll(right, -1, 0))
        fine = np.empty((2 * len(grid), 2 * len(grid)))
        fine[::2, ::2], fine[1::2, 1::2] = grid, centre
        fine[::2, 1::2] = between(grid, right, centre, np.roll(centre, 1, 0))
        fine[1::2, ::2] = between(grid, below, centre, np.roll(centre, 1, 1))
        grid = fine
        rough /= decay**2
    grid = grid[: shape[0], : shape[1], None]
    return (grid - grid.min()) / (grid.max() - grid.min())


@_register("weather", 0.05, 0.1, 0.15, 0.2, 0.3)
def _brightness(x: Pixels, more: float, _: np.random.Generator, __: float) -> Pixels:
    """The value of hue, saturation and value, raised; of a grey image, that is its grey."""
    value = x.max(2, keepdims=True)
    raised = np.minimum(value + more, 1)
    return np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised)


# ---------------------------------------------------------------------------------------------------------------------
# Digital


@_register("digital", 0.75, 0.5, 0.4, 0.3, 0.15)
def _contrast(x: Pixels, kept: float, _: np.random.Generator, __: float) -> Pixels:
    mean = x.mean((0, 1))
    return mean + kept * (x - mean)


@_register("digital", (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
def _elastic_transform(x: Pixels, strength: tuple[float, ...], rng: np.random.Generator, _: float) -> Pixels:
    """An affine map that moves three points at random, after a smooth random one; in shares of the shorter side."""
    height, width, channels = x.shape
    side = min(height, width)
    far, sigma, jolt = (side * share for share in strength)
    corners = np.array([height, width]) // 2 + side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    to = corners + rng.uniform(-jolt, jolt, corners.shape)
    back = np.linalg.solve(np.column_stack([to, np.ones(3)]), corners)  # (3, 2)
    moves = ndimage.gaussian_filter(rng.uniform(-1, 1, (2, height, width)), (0, sigma, sigma), truncate=3)
    seen = np.indices((height, width)) + far * moves
    at = np.tensordot(back[:2].T, seen, 1) + back[2][:, None, None]
    planes = [ndimage.map_coordinates(x[..., channel], at, order=1, mode="mirror") for channel in range(channels)]
    return np.stack(planes, 2)


@_register("digital", 0.95, 0.9, 0.85, 0.75, 0.65)
def _pixelate(x: Pixels, share: float, _: np.random.Generator, __: float) -> Pixels:
    height, width = x.shape[:2]
    small = (int(share * width), int(share * height))
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in x.transpose(2, 0, 1)]
    back = [plane.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX) for plane in planes]
    return np.stack([np.asarray(plane, dtype=np.float64) for plane in back], 2)


@_register("digital", 80, 65, 58, 50, 40)
def _jpeg_compression(x: Pixels, quality: int, _: np.random.Generator, __: float) -> Pixels:
    pixels = np.rint(255 * x).astype(np.uint8)
    if x.shape[2] == 3:
        return _through_jpeg(pixels, quality)
    return np.stack([_through_jpeg(plane, quality) for plane in pixels.transpose(2, 0, 1)], 2)


def _through_jpeg(pixels: NDArray[np.uint8], quality: int) -> Pixels:
    """Bytes (H, W) or (H, W, 3), written and read again."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), dtype=np.float64) / 255
