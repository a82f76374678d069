"""Standard adversarial training (Madry et al., arXiv 1706.06083, equation 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

from proard.attacks.losses import cross_entropy
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("sat")
@dataclass(frozen=True)
class AdversarialTraining(AdversarialObjective):
    """``CE(S(x'), y)`` with ``x' = argmax CE(S(x'), y)``.

    Attributes:
        label_smoothing: in [0, 1]; of the outer loss only.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        self.require_fraction("label_smoothing")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits; the teacher is not used."""
        images = self.attacked(student, batch)
        logits = student(images)
        loss = batch.weighed(cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)).mean()
        return Outcome(loss, adversarial_logits=logits, adversarial_images=images)
