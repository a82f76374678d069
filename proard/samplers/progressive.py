"""Progressive unlocking inside a phase: width, then depth, then the rest (ProARD, arXiv 2506.07666), over any sampler.

The phases of a configuration unlock decisions too, each with an optimizer and a learning rate of its own; this sampler
unlocks them within one.
"""

from __future__ import annotations

from typing import Any

from proard.config.values import Component
from proard.samplers.base import Sampler, Signals, samplers
from proard.supernet import Architecture, SearchSpace


@samplers.register("progressive")
class Progressive(Sampler):
    """Another sampler over a space that grows in stages of equal length.

    Args:
        space: the whole space of the phase.
        seed: of the private generators.
        students: how many to draw per step.
        over: the sampler of every stage.
        order: kinds of decisions unlocked by each stage; default one kind after the other, in the space's order.
        steps_per_epoch: optimizer steps.
        steps: of the whole phase.

    Raises:
        ValueError: an order that leaves out or repeats a kind that varies.
        UserError: a mistake in ``over``.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        students: int = 4,
        over: Component = Component(name="sandwich"),  # noqa: B008
        order: tuple[tuple[str, ...], ...] | None = None,
        steps_per_epoch: int = 1,
        steps: int = 1,
    ) -> None:
        super().__init__(space, seed, students, steps_per_epoch, steps)
        varying = [kind for kind in space.kinds if any(d.kind == kind and len(d.choices) > 1 for d in space.decisions)]
        order = tuple((kind,) for kind in varying) if order is None else order
        if sorted(kind for kinds in order for kind in kinds) != sorted(varying):
            raise ValueError(f"order must name each of {', '.join(varying)} once, got {[list(k) for k in order]}")
        ends = range(1, len(order) + 1) if order else [0]
        unlocked = [tuple(kind for kinds in order[:end] for kind in kinds) for end in ends]
        self.stages: list[Sampler] = [
            samplers.build(
                over.name,
                {"students": students, **over.options},
                where="over",
                space=space.unlocked(kinds),
                seed=seed * 100 + stage,
                steps_per_epoch=steps_per_epoch,
                steps=max(1, steps // len(unlocked)),
            )
            for stage, kinds in enumerate(unlocked)
        ]
        self.stage = 0

    @property
    def current(self) -> Sampler:
        """The sampler of the stage."""
        return self.stages[self.stage]

    def draw(self, step: int) -> list[Architecture]:
        """Those of the stage that the step is in."""
        self.stage = min(step * len(self.stages) // self.steps, len(self.stages) - 1)
        first = -(-self.stage * self.steps // len(self.stages))  # the first step of the stage, rounded up
        return self.current.sample(step - first)

    def alternatives(self, architecture: Architecture) -> list[Architecture]:
        """See `Sampler`."""
        return self.current.alternatives(architecture)

    def choose(self, candidates: Any, divergences: Any) -> Architecture:
        """See `Sampler`."""
        return self.current.choose(candidates, divergences)

    def update(self, architecture: Architecture, signals: Signals) -> None:
        """See `Sampler`."""
        self.current.update(architecture, signals)

    def state_dict(self) -> dict[str, Any]:
        """See `Sampler`."""
        return {"stage": self.stage, "stages": [sampler.state_dict() for sampler in self.stages]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Sampler`."""
        self.stage = state["stage"]
        for sampler, sampler_state in zip(self.stages, state["stages"], strict=True):
            sampler.load_state_dict(sampler_state)
