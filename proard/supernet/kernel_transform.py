"""Elastic kernel sizes: a smaller kernel is the centre of the larger one, times a learned matrix."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class KernelTransform(nn.Module):
    """Derives the smaller kernels of one convolution from its largest (Once-for-All, arXiv 1908.09791, section 3.3).

    Each step crops the centre and multiplies it, as a vector, by a matrix that all channels share. The matrices start
    as identities; what is learned is their difference from the identity, so that weight decay pulls towards a plain
    crop.

    Args:
        sizes: odd sides, ascending, such as (3, 5, 7).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(reversed(sizes))
        for larger, smaller in pairwise(self.sizes):
            self.register_parameter(f"from_{larger}_to_{smaller}", nn.Parameter(torch.zeros(smaller**2, smaller**2)))

    def forward(self, kernel: torch.Tensor, size: int) -> torch.Tensor:
        """The kernel (O, I, K, K) of the largest size to (O, I, size, size)."""
        for larger, smaller in pairwise(self.sizes):
            if size >= larger:
                break
            border = (larger - smaller) // 2
            centre = kernel[..., border : border + smaller, border : border + smaller]
            difference = getattr(self, f"from_{larger}_to_{smaller}")
            flat = centre.reshape(*centre.shape[:2], smaller**2)
            kernel = (flat + flat @ difference.t()).view_as(centre)
        return kernel
