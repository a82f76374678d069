"""Uniform sampling: every decision uniform over its choices, anew for every step (Once-for-All, arXiv 1908.09791)."""

from __future__ import annotations

from proard.samplers.base import Sampler, check_students, samplers
from proard.supernet import Architecture, SearchSpace


@samplers.register("uniform")
class Uniform(Sampler):
    """``students`` random architectures per step.

    Args:
        space: where to draw from.
        seed: of the private generator.
        students: at least 1.
    """

    def __init__(self, space: SearchSpace, seed: int, students: int = 4) -> None:
        super().__init__(space, seed)
        self.students = check_students(students, least=1)

    def draw(self) -> list[Architecture]:
        """Random architectures."""
        return [self.space.sample(self.rng) for _ in range(self.students)]
