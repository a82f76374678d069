"""IGDM (Lee et al., arXiv 2312.03286): indirect gradient distillation, the form of gradient matching that needs no
second derivative; added to any other objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from proard.attacks.losses import at_least_float32, kl_divergence
from proard.common.errors import UserError
from proard.objectives.base import AdversarialObjective, Model, Objective, Outcome, objectives, required
from proard.objectives.crafting import Batch


@objectives.register("igdm")
@dataclass(frozen=True)
class IGDM(AdversarialObjective):
    """``base + weight progress KL(T(x + d) - T(x - d) || S(x + d) - S(x - d))`` with ``d = x' - x`` of the base.

    For networks that are nearly linear around x, as robust ones are, the difference of the logits is ``2 d . grad``: it
    compares the networks' gradients along the perturbation. The divergence is between the softmax of these differences,
    summed over classes and averaged over images. The weight grows linearly over the phase. ``x - d`` is not clipped: it
    may leave the images' bounds, or the difference would not be symmetric.

    A base without adversarial images, such as ``kd``, gets those of the attack on the labels' cross-entropy.

    Attributes:
        base: what is added to: an objective, its name, or in YAML a mapping of its name and options, as in
            ``{name: adaad, adversarial_weight: 0.9}``; by name it gets the same attack.
        weight: at the end of the phase, at least 0; in the paper about 1 for CIFAR-10 and 10 to 20 for CIFAR-100.
    """

    base: Objective | Mapping[str, Any] | str = "rslad"
    weight: float = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_not_negative("weight")
        object.__setattr__(self, "base", self._built())

    def _built(self) -> Objective:
        if isinstance(self.base, Objective):
            return self.base
        options = {"name": self.base} if isinstance(self.base, str) else dict(self.base)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f"base must have a name, such as {{name: adaad}}, got {self.base!r}")
        try:
            return objectives.build(name, options, where="base", attack=self.attack)
        except UserError as error:  # as a plain error it gets the place of this objective, too
            raise ValueError(str(error)) from error

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of the base and the distance of the output differences, and the base's logits."""
        teacher = required(teacher, self)
        assert isinstance(self.base, Objective)
        base = self.base.outcome(student, teacher, batch)
        images, forward = base.adversarial_images, base.adversarial_logits
        if images is None or forward is None:
            images = self.attacked(student, batch)
            forward = student(images)
        opposite = 2 * batch.images - images
        with torch.no_grad():
            target = at_least_float32(teacher(images)) - at_least_float32(teacher(opposite))
        difference = at_least_float32(forward) - at_least_float32(student(opposite))
        loss = base.loss + self.weight * batch.progress * kl_divergence(target, difference).mean()
        return Outcome(loss, base.clean_logits, forward, images)
