"""IAD (Zhu et al., arXiv 2106.04928): introspective adversarial distillation. Where the teacher is unsure of the
student's adversarial image, the student listens to itself as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from proard.attacks.losses import cross_entropy, kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("iad")
@dataclass(frozen=True)
class IAD(AdversarialObjective):
    """``a [t^2 KL(T(x)/t || S(x')/t) + (1 - trust) KL(S(x) || S(x'))] + (1 - a) CE(S(x), y)``.

    ``x' = argmax CE(S(x'), y)``, and the trust in the teacher is the probability ``p_y(T(x'))^beta`` that it gives to
    the label of the student's adversarial image. Until ``begin`` the teacher is trusted fully: that is ARD. Divergences
    are summed over classes and averaged over images; gradients flow into both sides of the student's own, but not into
    the trust.

    The paper describes the teacher as partially trusted, while the authors' code adds the student's term and leaves the
    teacher's whole, which is the default here; ``weigh_teacher`` multiplies the teacher's term by the trust.

    Attributes:
        distillation_weight: a in [0, 1].
        temperature: t of the teacher's term, positive.
        beta: exponent of the trust, at least 0; 0.1 in the authors' code.
        begin: the progress in [0, 1] from which the student listens to itself; epoch 60 of 200 in the authors' code.
        weigh_teacher: whether the teacher's term is multiplied by the trust.
        scale: factor on both divergences, positive.
    """

    distillation_weight: float = 1.0
    temperature: float = 1.0
    beta: float = 0.1
    begin: float = 0.3
    weigh_teacher: bool = False
    scale: float = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_fraction("distillation_weight", "begin")
        self.require_positive("temperature", "scale")
        self.require_not_negative("beta")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits, clean ones where they were needed."""
        target = self.taught(teacher, batch.images)
        images = self.attacked(student, batch)
        judged = self.taught(teacher, images) if self.introspective(batch) else None
        return self.distil(student, batch, images, target, judged)

    def introspective(self, batch: Batch) -> bool:
        """Whether the student listens to itself yet."""
        return batch.progress >= self.begin

    def distil(
        self,
        student: Model,
        batch: Batch,
        images: torch.Tensor,
        target: torch.Tensor,
        judged: torch.Tensor | None,
    ) -> Outcome:
        """The outer loss of a batch whose adversarial images and targets are known.

        Args:
            student: the network to train.
            batch: what to learn from.
            images: the student's adversarial images.
            target: the teacher's logits to learn (N, K).
            judged: the teacher's logits on the adversarial images (N, K), or None to trust it fully.
        """
        adversarial = student(images)
        clean = student(batch.images) if judged is not None or self.distillation_weight < 1 else None
        loss = self.temperature**2 * kl_divergence(target, adversarial, temperature=self.temperature)
        if judged is not None and clean is not None:
            trust = (-self.beta * cross_entropy(judged, batch.labels)).exp()
            loss = loss * trust if self.weigh_teacher else loss
            loss = loss + (1 - trust) * kl_divergence(clean, adversarial)
        loss = self.distillation_weight * self.scale * loss
        if clean is not None:
            loss = loss + (1 - self.distillation_weight) * batch.weighed(cross_entropy(clean, batch.labels))
        return Outcome(loss.mean(), clean, adversarial, images)
