"""MART (Wang et al., ICLR 2020, "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", section
3): adversarial training that looks harder at images which are misclassified without an attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from proard.attacks.losses import at_least_float32, cross_entropy, kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("mart")
@dataclass(frozen=True)
class MART(AdversarialObjective):
    """``BCE(S(x'), y) + lambda KL(S(x) || S(x')) (1 - p_y(S(x)))`` with ``x' = argmax CE(S(x'), y)``.

    BCE is the boosted cross-entropy ``-log p_y - log(1 - max_{k != y} p_k)``, computed from logits and so without the
    constants that keep log 0 away in public code. Gradients flow into every part, as in the authors' code.

    Attributes:
        regularization: lambda, at least 0; 5 in the authors' code for ResNet-18, 6 for a wide one.
    """

    regularization: float = 5.0

    def __post_init__(self) -> None:
        self.require_not_negative("regularization")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits; the teacher is not used."""
        images = self.attacked(student, batch)
        clean, adversarial = student(batch.images), student(images)
        doubt = 1 - (-cross_entropy(clean, batch.labels)).exp()
        loss = batch.weighed(boosted_cross_entropy(adversarial, batch.labels))
        loss = loss + self.regularization * kl_divergence(clean, adversarial) * doubt
        return Outcome(loss.mean(), clean, adversarial, images)


def boosted_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``-log p_y - log(1 - max_{k != y} p_k)`` per image: logits (N, K) and labels (N,) to (N,)."""
    logits = at_least_float32(logits)
    rival = logits.scatter(1, labels[:, None], float("-inf")).argmax(1, keepdim=True)
    # log(1 - p_k) is the log of what all other classes hold: no cancellation where p_k is near 1.
    without_rival = logits.scatter(1, rival, float("-inf")).logsumexp(1) - logits.logsumexp(1)
    return cross_entropy(logits, labels) - without_rival
