"""The sandwich rule: the largest, the smallest and random students in every step (BigNAS, arXiv 2003.11142)."""

from __future__ import annotations

from proard.samplers.base import Sampler, samplers
from proard.supernet import Architecture


@samplers.register("sandwich")
class Sandwich(Sampler):
    """The largest, the smallest, and ``students - 2`` random architectures per step."""

    least_students = 2

    def draw(self) -> list[Architecture]:
        """The largest first."""
        random_students = [self.space.sample(self.rng) for _ in range(self.students - 2)]
        return [self.space.largest(), self.space.smallest(), *random_students]
