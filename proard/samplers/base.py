"""Samplers choose the students of an optimizer step."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from proard.registry import Registry
from proard.supernet import Architecture, SearchSpace


class Sampler(ABC):
    """Draws architectures from a private generator, whose state is part of a checkpoint.

    Args:
        space: where to draw from: the decisions unlocked in the phase.
        seed: of the private generator.
        students: how many to draw per step.

    Raises:
        ValueError: too few students.
    """

    least_students = 1

    def __init__(self, space: SearchSpace, seed: int, students: int = 4) -> None:
        if students < self.least_students:
            raise ValueError(f"students must be at least {self.least_students}, got {students}")
        self.space = space
        self.students = students
        self.rng = random.Random(seed)

    @abstractmethod
    def draw(self) -> Sequence[Architecture]:
        """Architectures of one step; repetitions are allowed."""

    def sample(self) -> list[Architecture]:
        """Different architectures whose gradients are summed in one optimizer step."""
        return list(dict.fromkeys(self.draw()))

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on with the same sequence."""
        return {"rng": self.rng.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))


samplers: Registry[Sampler] = Registry("sampler")
