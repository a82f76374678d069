"""Random changes of training images: drawn per image, done per batch, on the device that holds the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

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
    if config.flip:
        mirrored = _draw(2, images, generator).bool()
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if config.cutout:
        images = _cut_out(images, config.cutout, generator)
    return images


def _random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by -padding ... +padding pixels along each axis; what comes in from outside is black."""
    top, left = (_draw(2 * padding + 1, images, generator) for _ in range(2))
    height, width = images.shape[2:]
    # Every possible crop as a view that copies nothing, (B, C, 2p+1, 2p+1, H, W); then one of them per image.
    crops = functional.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(len(images), device=images.device), :, top, left]


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


def _draw(high: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """One integer in [0, high) per image, int64 (B,), on the images' device."""
    drawn = torch.randint(high, (len(images),), generator=generator, device=generator.device)
    return drawn.to(images.device, non_blocking=True)
