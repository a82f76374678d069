"""Knowledge distillation (Hinton et al., arXiv 1503.02531, section 2): soft labels on clean images. It passes accuracy
on, but not robustness: the baseline of every robust distillation."""

from __future__ import annotations

from dataclasses import dataclass

from proard.attacks.losses import cross_entropy, kl_divergence
from proard.objectives.base import Model, Objective, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("kd")
@dataclass(frozen=True)
class KD(Objective):
    """``a t^2 KL(T(x)/t || S(x)/t) + (1 - a) CE(S(x), y)``.

    The divergence is summed over classes and averaged over images.

    Attributes:
        distillation_weight: a in [0, 1]; the paper leaves it open but for a large one.
        temperature: t, positive; the paper tries 1 to 20.
        scale: factor on the divergence, positive; 1 / classes where code averaged over the classes.
    """

    distillation_weight: float = 0.9
    temperature: float = 4.0
    scale: float = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_fraction("distillation_weight")
        self.require_positive("temperature", "scale")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's clean logits: nothing is attacked."""
        target = self.taught(teacher, batch.images)
        logits = student(batch.images)
        soft = self.scale * self.temperature**2 * kl_divergence(target, logits, temperature=self.temperature)
        hard = batch.weighed(cross_entropy(logits, batch.labels))
        loss = self.distillation_weight * soft + (1 - self.distillation_weight) * hard
        return Outcome(loss.mean(), clean_logits=logits)
