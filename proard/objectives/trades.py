"""TRADES (Zhang et al., arXiv 1901.08573, equation 5): the teacher-free objective, and the one that trains teachers."""

from __future__ import annotations

from dataclasses import dataclass

from proard.attacks.losses import cross_entropy, kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("trades")
@dataclass(frozen=True)
class TRADES(AdversarialObjective):
    """``CE(S(x), y) + beta KL(S(x) || S(x'))`` with ``x' = argmax KL(S(x) || S(x'))``.

    Gradients flow into both arguments of the outer divergence, as in the paper; the attack's target is detached.

    Attributes:
        beta: weight of robustness, at least 0; 6 in the paper's headline results.
        label_smoothing: in [0, 1]; of the cross-entropy.
    """

    beta: float = 6.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        self.require_not_negative("beta")
        self.require_fraction("label_smoothing")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits; the teacher is not used."""
        clean = student(batch.images)
        target = clean.detach()
        images = self.attacked(student, batch, lambda logits, _: kl_divergence(target, logits))
        adversarial = student(images)
        natural = cross_entropy(clean, batch.labels, label_smoothing=self.label_smoothing)
        natural = batch.weighed(natural).mean()
        return Outcome(natural + self.beta * kl_divergence(clean, adversarial).mean(), clean, adversarial, images)
