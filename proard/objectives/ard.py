"""ARD (Goldblum et al., arXiv 1905.09747): adversarially robust distillation. The student under attack learns the
teacher's soft labels of the clean images."""

from __future__ import annotations

from dataclasses import dataclass

from proard.attacks.losses import cross_entropy, kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("ard")
@dataclass(frozen=True)
class ARD(AdversarialObjective):
    """``a t^2 KL(T(x)/t || S(x')/t) + (1 - a) CE(S(x), y)`` with ``x' = argmax CE(S(x'), y)``.

    The divergence is summed over classes and averaged over images. The authors' code averages over the classes too;
    ``scale`` restores that (1 / classes), and with t = 30 the loss is otherwise that many times larger.

    Attributes:
        distillation_weight: a in [0, 1]; 1 in the authors' code, which needs no student on clean images.
        temperature: t, positive; 30 in the authors' code.
        scale: factor on the divergence, positive.
    """

    distillation_weight: float = 1.0
    temperature: float = 30.0
    scale: float = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_fraction("distillation_weight")
        self.require_positive("temperature", "scale")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits."""
        target = self.taught(teacher, batch.images)
        images = self.attacked(student, batch)
        adversarial = student(images)
        soft = self.scale * self.temperature**2 * kl_divergence(target, adversarial, temperature=self.temperature)
        if self.distillation_weight == 1:
            return Outcome(soft.mean(), None, adversarial, images)
        clean = student(batch.images)
        hard = batch.weighed(cross_entropy(clean, batch.labels))
        loss = self.distillation_weight * soft + (1 - self.distillation_weight) * hard
        return Outcome(loss.mean(), clean, adversarial, images)
