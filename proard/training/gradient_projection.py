"""How the gradients of a step's students are joined: summed, or with conflicts between largest and others removed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

PROTECTION = 2.0  # the others' gradient grows at most to 1 + this many times itself


class Projection:
    """Keeps the largest student from undoing what the others learn (NASViT, openreview Qaw16njk6L).

    Per tensor, with the largest student's gradient ``a`` and the summed gradient of the others ``b``, the step is
    ``a + (1 + c) b`` with ``c = -<a, b> / |b|^2``, clamped to [0, 2]: where the two agree that is their sum; where they
    conflict, ``a``'s part against ``b`` is cancelled.

    Args:
        parameters: of the supernet; their gradients are present.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.largest: list[torch.Tensor] | None = None

    def largest_done(self) -> None:
        """The gradients so far are the largest student's: put them aside."""
        self.largest = [gradient.clone() for gradient in self.gradients]
        torch._foreach_zero_(self.gradients)

    def join(self) -> None:
        """Make the gradients those of the step."""
        if self.largest is None:
            return
        for others, largest in zip(self.gradients, self.largest, strict=True):
            square = others.square().sum()
            conflict = (-(largest * others).sum() / square.clamp_min(torch.finfo(square.dtype).tiny)).clamp(
                0, PROTECTION
            )
            others.mul_(1 + conflict).add_(largest)
        self.largest = None
