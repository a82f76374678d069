"""The sandwich rule: the largest, the smallest and random students in every step (BigNAS, arXiv 2003.11142).

The default, which needs the fewest epochs: at equal epochs no other was measurably better. At equal compute the sampler
``robustness`` is, with many more and cheaper steps (docs/results/samplers.md).
"""

from __future__ import annotations

from proard.samplers.base import Sampler, samplers
from proard.supernet import Architecture


@samplers.register("sandwich")
class Sandwich(Sampler):
    """The largest, the smallest, and ``students - 2`` random architectures per step."""

    least_students = 2

    def draw(self, step: int) -> list[Architecture]:
        """The largest first."""
        return self.with_random([self.space.largest(), self.space.smallest()], self.students)
