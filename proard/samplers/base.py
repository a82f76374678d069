"""Samplers choose the students of an optimizer step."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from proard.common.errors import UserError, located
from proard.common.registry import Registry
from proard.supernet import Architecture, SearchSpace

TRIES = 20  # draws per wanted student before a step does with fewer: a space may have fewer


@dataclass(frozen=True)
class Signals:
    """What a step found out about one student, averaged over its images; numbers, or tensors on the device.

    Attributes:
        divergence: of the student on adversarial images from the teacher on clean ones, ``KL(T(x) || S(x'))``; on clean
            images where the objective has no attack, from the labels where there is no teacher. At least 0.
        clean: accuracy in [0, 1] on the clean images, NaN where the objective did not look at them.
        robust: accuracy in [0, 1] on the adversarial images, likewise.
    """

    divergence: float | torch.Tensor
    clean: float | torch.Tensor
    robust: float | torch.Tensor


class Sampler(ABC):
    """Draws architectures from a private generator, whose state is part of a checkpoint.

    Every rank of a distributed run makes the same sampler and gives it the same signals: so all draw the same students.

    Args:
        space: where to draw from: the decisions unlocked in the phase.
        seed: of the private generator.
        students: how many to draw per step.
        steps_per_epoch: optimizer steps.
        steps: of the whole phase.

    Raises:
        ValueError: too few students.
    """

    least_students = 1

    def __init__(
        self, space: SearchSpace, seed: int, students: int = 4, steps_per_epoch: int = 1, steps: int = 1
    ) -> None:
        if students < self.least_students:
            raise ValueError(f"students must be at least {self.least_students}, got {students}")
        self.space = space
        self.students = students
        self.steps_per_epoch = steps_per_epoch
        self.steps = steps
        self.rng = random.Random(seed)
        self.size = space.size

    @abstractmethod
    def draw(self, step: int) -> Sequence[Architecture]:
        """Architectures of one step; repetitions are allowed."""

    def sample(self, step: int) -> list[Architecture]:
        """Different architectures whose gradients are summed in one optimizer step.

        Args:
            step: of the phase, from 0; a sampler sees every step once, in order.

        Raises:
            UserError: `draw` returned no architectures, or such as are not of the space.
        """
        drawn = self.draw(step)
        if not drawn or not isinstance(drawn, (list, tuple)) or not all(isinstance(a, Architecture) for a in drawn):
            some = f"{drawn!r:.60}"
            raise UserError(f"sampler {type(self).__name__}: draw must return a list of architectures, got {some}")
        with located(f"sampler {type(self).__name__}"):
            return list(dict.fromkeys(map(self.space.canonical, drawn)))

    def update(self, architecture: Architecture, signals: Signals) -> None:  # noqa: B027 (nothing, unless it learns)
        """Learn how a student that has just been trained did."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on with the same sequence."""
        return {"rng": self.rng.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))

    def with_random(self, students: Iterable[Architecture], count: int) -> list[Architecture]:
        """Different random architectures after the given ones, ``count`` in all where the space has as many."""
        drawn = dict.fromkeys(students)
        for _ in range(TRIES * count):
            if len(drawn) >= min(count, self.size):
                break
            drawn.setdefault(self.space.sample(self.rng))
        return list(drawn)


samplers: Registry[Sampler] = Registry("sampler")
