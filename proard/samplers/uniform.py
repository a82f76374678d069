"""Uniform sampling: every decision uniform over its choices, anew for every step (Once-for-All, arXiv 1908.09791)."""

from __future__ import annotations

from proard.samplers.base import Sampler, samplers
from proard.supernet import Architecture


@samplers.register("uniform")
class Uniform(Sampler):
    """``students`` random architectures per step."""

    def draw(self) -> list[Architecture]:
        """Random architectures."""
        return [self.space.sample(self.rng) for _ in range(self.students)]
