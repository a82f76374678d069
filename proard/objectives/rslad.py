"""RSLAD (Zi et al., arXiv 2108.07969, equations 7 and 8): robust soft labels of the teacher, everywhere and only
those."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from proard.attacks.losses import cross_entropy, kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("rslad")
@dataclass(frozen=True)
class RSLAD(AdversarialObjective):
    """``a D(S(x')) + (1 - a) D(S(x))`` with ``x' = argmax D(S(x'))`` and ``D(S) = KL(T(x) || S)``, as in the paper.

    Where ``label_weight`` w is given, ``D(S) = (1 - w) KL(T(x) || S) + w CE(S, y)``: the target is part label. On
    images that are hard for a small network that is worth several points of robust accuracy
    (docs/results/samplers.md); the paper uses no labels.

    The divergence is summed over classes and averaged over images. The authors' code averages over the classes too, and
    multiplies by 10 on CIFAR-100; ``scale`` restores such a factor (1 / classes, or 10 / classes).

    Attributes:
        adversarial_weight: a in [0, 1]; 5/6 in the paper. With 1 the student never sees the clean images, which saves
            a pass there and back.
        label_weight: w in [0, 1].
        scale: factor on the whole loss, positive.
    """

    adversarial_weight: float = 5 / 6
    label_weight: float = 0.0
    scale: float = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_fraction("adversarial_weight", "label_weight")
        self.require_positive("scale")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits."""
        target = self.taught(teacher, batch.images)

        def distance(logits: torch.Tensor, _: torch.Tensor | None = None) -> torch.Tensor:
            soft = kl_divergence(target, logits)
            if self.label_weight == 0:
                return soft
            hard = batch.weighed(cross_entropy(logits, batch.labels))
            return (1 - self.label_weight) * soft + self.label_weight * hard

        images = self.attacked(student, batch, distance)
        adversarial = student(images)
        loss = self.adversarial_weight * distance(adversarial).mean()
        clean = None
        if self.adversarial_weight < 1:
            clean = student(batch.images)
            loss = loss + (1 - self.adversarial_weight) * distance(clean).mean()
        return Outcome(self.scale * loss, clean, adversarial, images)
