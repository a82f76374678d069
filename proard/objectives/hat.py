"""HAT (Rade and Moosavi-Dezfooli, ICLR 2022, "Reducing Excessive Margin to Achieve a Better Accuracy vs. Robustness
Trade-off"): helper-based adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from proard.attacks.losses import cross_entropy, kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives, required
from proard.objectives.crafting import Batch


@objectives.register("hat")
@dataclass(frozen=True)
class HAT(AdversarialObjective):
    """``CE(S(x), y) + beta KL(S(x) || S(x')) + gamma CE(S(x + h (x' - x)), argmax H(x'))``, x' as for TRADES.

    Robust training pushes the decision boundary further along adversarial directions than it must. The helper examples,
    beyond x' on the same line, pull it back: they carry the label that a helper network H, trained **without**
    robustness, gives to x'. They are not clipped, so they may leave the images' bounds by (h - 1) eps.

    The helper is passed as the teacher: it is to be a network trained with ``ce``, such as the largest student of a
    first phase with that objective; a robust one would confirm what the student says and help nothing.

    Attributes:
        beta: weight of robustness, at least 0; 2.5 in the paper's CIFAR-10 results.
        gamma: weight of the helper examples, at least 0; 0.5 likewise.
        extrapolation: h, how far the helper examples lie along the perturbation, positive; 2 in the paper.
    """

    beta: float = 2.5
    gamma: float = 0.5
    extrapolation: float = 2.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_not_negative("beta", "gamma")
        self.require_positive("extrapolation")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits; the teacher is the helper."""
        helper = required(teacher, self)
        clean = student(batch.images)
        target = clean.detach()
        images = self.attacked(student, batch, lambda logits, _: kl_divergence(target, logits))
        adversarial = student(images)
        with torch.no_grad():
            helper_labels = helper(images).argmax(1)
        beyond = student(batch.images + self.extrapolation * (images - batch.images))
        loss = batch.weighed(cross_entropy(clean, batch.labels)) + self.beta * kl_divergence(clean, adversarial)
        loss = loss + self.gamma * cross_entropy(beyond, helper_labels)
        return Outcome(loss.mean(), clean, adversarial, images)
