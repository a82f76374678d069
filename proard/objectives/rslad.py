"""RSLAD (Zi et al., arXiv 2108.07969, equations 7 and 8): robust soft labels of the teacher, everywhere and only
those."""

from __future__ import annotations

from dataclasses import dataclass

from proard.attacks.losses import kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("rslad")
@dataclass(frozen=True)
class RSLAD(AdversarialObjective):
    """``a KL(T(x) || S(x')) + (1 - a) KL(T(x) || S(x))`` with ``x' = argmax KL(T(x) || S(x'))``.

    The divergence is summed over classes and averaged over images. The authors' code averages over the classes too, and
    multiplies by 10 on CIFAR-100; ``scale`` restores such a factor (1 / classes, or 10 / classes).

    Attributes:
        adversarial_weight: a in [0, 1]; 5/6 in the paper. With 1 the student never sees the clean images, which saves
            a pass there and back.
        scale: factor on the whole loss, positive.
    """

    adversarial_weight: float = 5 / 6
    scale: float = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_fraction("adversarial_weight")
        self.require_positive("scale")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits; the labels are not used."""
        target = self.taught(teacher, batch.images)
        images = self.attacked(student, batch, lambda logits, _: kl_divergence(target, logits))
        adversarial = student(images)
        loss = self.adversarial_weight * kl_divergence(target, adversarial).mean()
        clean = None
        if self.adversarial_weight < 1:
            clean = student(batch.images)
            loss = loss + (1 - self.adversarial_weight) * kl_divergence(target, clean).mean()
        return Outcome(self.scale * loss, clean, adversarial, images)
