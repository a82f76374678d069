"""Where the adversarial images of a step's students come from.

Crafting them is most of a step's work. Each student may make its own; or one student makes them for all; or the others
begin where it ended, and take a step or two of their own. What each choice costs and gives is measured in
docs/results/samplers_equal_epochs.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from proard.attacks import PGD, Attack
from proard.attacks.attack import Loss, Model
from proard.common.options import Options
from proard.common.registry import Registry

Source = Literal["largest", "smallest", "drawn", "previous"]


@dataclass(frozen=True)
class Crafting(Options, ABC):
    """How students of a step share adversarial images; holds no state.

    Attributes:
        source: the student that makes them: ``largest``, ``smallest``, ``drawn`` (a random one of the step), or
            ``previous``: from the most expensive to the least, each goes on from the one before it.
    """

    source: Source = "largest"

    def order(self, costs: Sequence[float]) -> list[int]:
        """In which order the students of a step train.

        Args:
            costs: multiply-adds of each, in the order in which they were sampled.

        Returns:
            Their indices: the source first; for ``previous``, from the most to the least expensive; for ``drawn``, the
            one sampled last, which in every sampler is a random one.
        """
        indices = list(range(len(costs)))
        if self.source == "previous":
            return sorted(indices, key=lambda index: -costs[index])
        if self.source == "drawn":
            first = indices[-1]
        else:
            first = (max if self.source == "largest" else min)(indices, key=lambda index: costs[index])
        return [first, *(index for index in indices if index != first)]

    @abstractmethod
    def images(self, attack: Attack, student: Model, batch: Batch, loss: Loss | None) -> torch.Tensor:
        """Adversarial images for a student.

        Args:
            attack: of the objective.
            student: images to logits.
            batch: clean images, labels, and the images that the source crafted in this step, unless this is the source.
            loss: what the objective raises; None for the attack's own.

        Returns:
            (N, C, H, W), detached.
        """


craftings: Registry[Crafting] = Registry("crafting")


@craftings.register("own")
@dataclass(frozen=True)
class Own(Crafting):
    """Every student is attacked by itself.

    Attributes:
        steps: attack steps of every student but the source; default as many as the source.
    """

    steps: int | None = None

    def __post_init__(self) -> None:
        self.require_one_or_more("steps")

    def images(self, attack: Attack, student: Model, batch: Batch, loss: Loss | None) -> torch.Tensor:
        """The attack's images for this student, in `steps` steps if it is not the source."""
        if batch.crafted is not None and self.steps is not None:
            attack = shortened(attack, self.steps)
        return attack.perturb(student, batch.images, batch.labels, loss=loss, generator=batch.generator)


@craftings.register("shared")
@dataclass(frozen=True)
class Shared(Crafting):
    """The source's images, for all."""

    def __post_init__(self) -> None:
        if self.source == "previous":
            raise ValueError("source previous would be the largest's images for all; use source: largest")

    def images(self, attack: Attack, student: Model, batch: Batch, loss: Loss | None) -> torch.Tensor:
        """The source's images; the attack's own for the source itself."""
        if batch.crafted is not None:
            return batch.crafted
        return attack.perturb(student, batch.images, batch.labels, loss=loss, generator=batch.generator)


@craftings.register("refined")
@dataclass(frozen=True)
class Refined(Crafting):
    """The source's images, and from there some attack steps on the student itself.

    Attributes:
        steps: how many.
        step_size: in units of eps; default the attack's own step.
    """

    steps: int = 2
    step_size: float | None = None

    def __post_init__(self) -> None:
        self.require_one_or_more("steps")
        self.require_positive("step_size")

    def images(self, attack: Attack, student: Model, batch: Batch, loss: Loss | None) -> torch.Tensor:
        """The source's images after some more steps on this student; the attack's own for the source itself."""
        if batch.crafted is None:
            return attack.perturb(student, batch.images, batch.labels, loss=loss, generator=batch.generator)
        attack = _plain(attack)
        size = attack.resolved_step_size if self.step_size is None else self.step_size * attack.threat.eps
        return replace(attack, steps=self.steps, step_size=size, restarts=1).perturb(
            student, batch.images, batch.labels, loss=loss, generator=batch.generator, start=batch.crafted
        )


def shortened(attack: Attack, steps: int) -> Attack:
    """The same attack with fewer, larger steps, which can cross the ball as before."""
    attack = _plain(attack)
    size = min(attack.resolved_step_size * attack.steps / steps, 1.25 * attack.threat.eps)
    return replace(attack, steps=steps, step_size=size)


def check_attack(crafting: Crafting, attack: Attack) -> None:
    """Refuse an attack that cannot be shortened or continued.

    Raises:
        ValueError: the crafting changes the attack's steps, and the attack is not PGD.
    """
    if isinstance(crafting, Refined) or (isinstance(crafting, Own) and crafting.steps is not None):
        _plain(attack)


def _plain(attack: Attack) -> PGD:
    if not isinstance(attack, PGD):
        raise ValueError(f"the steps of attack {attack.name} cannot be changed for some students; use pgd")
    return attack


@dataclass(frozen=True)
class Batch:
    """What a student learns from in one step.

    Attributes:
        images: float (N, C, H, W) in [0, 1].
        labels: class indices (N,).
        generator: of the attack's random starts; None lets the attack use its own seed.
        progress: in [0, 1]: how much of the phase is done, for objectives that change with it.
        crafting: how the students of a step share adversarial images.
        crafted: those of another student of the step (N, C, H, W), if there are any.
        class_weights: of the label's part of the loss (K,), at least 0; None weighs all classes alike.
        uses: ``class_weights``, once an objective asked for them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    generator: torch.Generator | None = None
    progress: float = 1.0
    crafting: Crafting = Own()
    crafted: torch.Tensor | None = None
    class_weights: torch.Tensor | None = None
    uses: set[str] = field(default_factory=set, compare=False)

    def weighed(self, losses: torch.Tensor) -> torch.Tensor:
        """What an objective learns from the labels, per image (N,), times the weight of each image's class."""
        self.uses.add("class_weights")
        return losses if self.class_weights is None else losses * self.class_weights[self.labels]
