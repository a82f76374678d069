"""Cross-entropy on clean images: training without robustness, the baseline."""

from __future__ import annotations

from dataclasses import dataclass

from proard.attacks.losses import cross_entropy
from proard.objectives.base import Model, Objective, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("ce")
@dataclass(frozen=True)
class CrossEntropy(Objective):
    """``CE(S(x), y)``.

    Attributes:
        label_smoothing: in [0, 1].
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        self.require_fraction("label_smoothing")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits; the teacher is not used."""
        logits = student(batch.images)
        loss = cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        return Outcome(batch.weighed(loss).mean(), clean_logits=logits)
