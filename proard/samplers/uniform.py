"""Uniform sampling: every decision uniform over its choices, anew for every step (Once-for-All, arXiv 1908.09791) or,
as a baseline, for every epoch."""

from __future__ import annotations

from typing import Any

from proard.samplers.base import Sampler, samplers
from proard.supernet import Architecture, SearchSpace


@samplers.register("uniform")
class Uniform(Sampler):
    """``students`` random architectures per step."""

    def draw(self, step: int) -> list[Architecture]:
        """Random architectures."""
        return self.with_random([], self.students)


@samplers.register("epoch-uniform")
class EpochUniform(Uniform):
    """The same ``students`` random architectures for a whole epoch, one by default.

    What the code published with ProARD (arXiv 2506.07666) does: for comparison, not for use.
    """

    def __init__(
        self, space: SearchSpace, seed: int, students: int = 1, steps_per_epoch: int = 1, steps: int = 1
    ) -> None:
        super().__init__(space, seed, students, steps_per_epoch, steps)
        self.epoch: int | None = None
        self.current: list[Architecture] = []

    def draw(self, step: int) -> list[Architecture]:
        """Those of the epoch."""
        epoch = step // self.steps_per_epoch
        if epoch != self.epoch:
            self.epoch, self.current = epoch, super().draw(step)
        return self.current

    def state_dict(self) -> dict[str, Any]:
        """See `Sampler`."""
        current = [architecture.to_json() for architecture in self.current]
        return {**super().state_dict(), "epoch": self.epoch, "current": current}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Sampler`."""
        super().load_state_dict(state)
        self.epoch = state["epoch"]
        self.current = [Architecture.from_json(text) for text in state["current"]]
