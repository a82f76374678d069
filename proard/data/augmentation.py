"""Random changes of training images: drawn per image, done per batch, on the device that holds the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as transforms

from proard.config import AugmentationConfig


def augment(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Crop, mirror and cut out, each drawn independently for every image.

    Args:
        images: float (B, C, H, W) in [0, 1]; not changed.
        config: what is on; with everything off the images themselves are returned.
        generator: source of all draws, which are made on its device and depend on nothing else but the batch's shape.

    Returns:
        A tensor of the same shape, type and device, in [0, 1].
    """
    if config.crop_padding:
        images = _random_crop(images, config.crop_padding, generator)
    if config.crop_shift:
        images = _crop_shift(images, config.crop_shift, generator)
    if config.flip:
        mirrored = _draw(2, images, generator).bool()
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if config.color_shape:
        images = _color_shape(images, generator)
    if config.cutout:
        images = _cut_out(images, config.cutout, generator)
    if config.erase:
        images = _erase(images, config.erase, generator)
    return images


def _random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by -padding ... +padding pixels along each axis; what comes in from outside is black."""
    top, left = (_draw(2 * padding + 1, images, generator) for _ in range(2))
    height, width = images.shape[2:]
    # Every possible crop as a view that copies nothing, (B, C, 2p+1, 2p+1, H, W); then one of them per image.
    crops = functional.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(len(images), device=images.device), :, top, left]


def _crop_shift(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Crop each image by 0 ... most rows and columns together, anywhere, and put it down anywhere on black.

    CropShift (Li and Spratling, arXiv 2301.09879), with draws as in the authors' code: how many lines, how many of
    them are columns, where the crop is taken, and where it is put.
    """
    lines = _draw(most + 1, images, generator)
    columns = _draw(lines + 1, images, generator)
    taken = []
    for size, cut in zip(images.shape[2:], (lines - columns, columns), strict=True):
        origin, target = (_draw(cut + 1, images, generator)[:, None] for _ in range(2))
        place = torch.arange(size, device=images.device) - target  # of every pixel within the crop
        inside = (place >= 0) & (place < size - cut[:, None])
        taken.append(((place + origin).clamp(0, size - 1), inside))
    (rows, row_inside), (columns, column_inside) = taken
    which = torch.arange(len(images), device=images.device)[:, None, None]
    cropped = images[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where(row_inside[:, None, :, None] & column_inside[:, None, None, :], cropped, 0.0)


# Smallest and largest strength of each change, IDBH's for CIFAR-10.
_CHANGES: dict[str, tuple[float, float]] = {
    "adjust_saturation": (0.1, 1.9),
    "adjust_brightness": (0.5, 1.9),
    "adjust_contrast": (0.5, 1.9),
    "adjust_sharpness": (0.1, 1.9),
    "autocontrast": (0, 0),
    "equalize": (0, 0),
    "shear": (0.05, 0.15),
    "rotate": (1, 11),
}


def _color_shape(images: Tensor, generator: torch.Generator) -> Tensor:
    """One of eight changes for each image, all as likely, of a uniform strength (arXiv 2301.09879)."""
    which = _draw(len(_CHANGES), images, generator).tolist()
    strengths = _uniform(images, generator).tolist()
    signs = (_draw(2, images, generator) * 2 - 1).tolist()
    along = _draw(2, images, generator).tolist()
    changed = []
    for image, index, strength, sign, axis in zip(images, which, strengths, signs, along, strict=True):
        name, (low, high) = list(_CHANGES.items())[index]
        by = low + strength * (high - low)
        if name == "shear":
            degrees = [0.0, 0.0]
            degrees[axis] = sign * math.degrees(math.atan(by))
            image = transforms.affine(image, 0, [0, 0], 1, degrees, interpolation=transforms.InterpolationMode.BILINEAR)
        elif name == "rotate":
            image = transforms.rotate(image, sign * by, interpolation=transforms.InterpolationMode.BILINEAR)
        elif name == "equalize":
            image = transforms.equalize((image * 255).round().to(torch.uint8)).to(image.dtype) / 255
        elif name == "autocontrast":
            image = transforms.autocontrast(image)
        else:
            image = getattr(transforms, name)(image, by)
        changed.append(image)
    return torch.empty_like(images).copy_(torch.stack(changed).clamp(0, 1))  # in the layout of the images


def _erase(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Black rectangles of 2 to 33 % of the area and sides at 0.3 to 3.3, within the image, in a share of images."""
    height, width = images.shape[2:]
    chosen = _uniform(images, generator) < share
    area = (0.02 + _uniform(images, generator) * 0.31) * height * width
    ratio = torch.exp(math.log(0.3) + _uniform(images, generator) * (math.log(3.3) - math.log(0.3)))
    inside = []
    for size, side in ((height, (area * ratio).sqrt()), (width, (area / ratio).sqrt())):
        side = side.round().clamp(1, size)
        first = (_uniform(images, generator) * (size - side + 1)).floor()[:, None]
        place = torch.arange(size, device=images.device)
        inside.append((place >= first) & (place < first + side[:, None]))
    rows, columns = inside
    return torch.where(chosen[:, None, None, None] & rows[:, None, :, None] & columns[:, None, None, :], 0.0, images)


def _uniform(images: Tensor, generator: torch.Generator) -> Tensor:
    """One number in [0, 1) per image, float32 (B,), on the images' device."""
    return torch.rand(len(images), generator=generator, device=generator.device).to(images.device, non_blocking=True)


def _cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Grey a square whose centre is uniform over the image; at a border only a part of it shows (arXiv 1708.04552)."""
    inside = []
    for size in images.shape[2:]:
        first = _draw(size, images, generator)[:, None] - side // 2
        place = torch.arange(size, device=images.device)
        inside.append((place >= first) & (place < first + side))
    rows, columns = inside
    # Not masked_fill, which would lose the channels-last layout.
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], 0.5, images)


def _draw(high: int | Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """One integer in [0, high) per image, int64 (B,), on the images' device; ``high`` may differ by image (B,)."""
    below = high if isinstance(high, int) else 2**40  # whose remainder is as good as even
    drawn = torch.randint(below, (len(images),), generator=generator, device=generator.device)
    drawn = drawn.to(images.device, non_blocking=True)
    return drawn if isinstance(high, int) else drawn % high
