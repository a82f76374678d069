"""Gradients of a network by its input: once for a teacher, and twice for the student that is to match it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from proard.attacks.attack import Model
from proard.attacks.losses import cross_entropy
from proard.attacks.steps import buffers_restored, detached_in_float32, value_and_gradient


def input_gradient(network: Model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The gradient of each image's cross-entropy by that image, detached.

    The loss is summed, so that the gradient of an image does not depend on how many there are. Nothing else changes: no
    parameter's gradient, mode or buffer.

    Args:
        network: images to logits (N, K), called as it is.
        images: float (N, C, H, W); not changed.
        labels: class indices (N,).

    Returns:
        (N, C, H, W) in float32, or float64 where the images are.
    """
    images = detached_in_float32(images)
    with buffers_restored(network):
        _, _, gradient = value_and_gradient(network, images, lambda logits, _: cross_entropy(logits, labels))
    return gradient


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Run networks through operations that have a second derivative, where PyTorch's usual ones have none.

    These are the fused attention kernels and the hard sigmoid; the results are the same up to rounding.
    """
    with sdpa_kernel(SDPBackend.MATH), _WrittenOut():
        yield


class _WrittenOut(TorchFunctionMode):
    """Replaces the hard sigmoid by its formula."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.hardsigmoid:
            return functional.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))
