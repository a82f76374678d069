"""Weights of classes in the loss, for sets that have more images of some than of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from proard.common.errors import UserError


def class_weights(
    given: str | Sequence[float] | None, labels: torch.Tensor, classes: int, chances: torch.Tensor | None = None
) -> torch.Tensor | None:
    """The weight of each class, float32 (K,), or None.

    Args:
        given: the weights; or ``balanced``, by which every class weighs as much as any other: images / (classes x
            images of the class), so that their mean over the images is 1. A class without images weighs nothing.
        labels: of all training images (N,).
        classes: how many.
        chances: of each image to be in a batch (N,), up to a factor; None: all alike.

    Raises:
        UserError: not one weight per class.
    """
    if given is None:
        return None
    if isinstance(given, str):
        counts = labels.bincount(chances, minlength=classes).float()
        return torch.where(counts > 0, counts.sum() / (classes * counts), 0.0).float()
    if len(given) != classes:
        raise UserError(f"class_weights: must be one number for each of the {classes} classes, got {len(given)}")
    return torch.tensor(given)
