"""AdaAD and AdaIAD (Huang et al., CVPR 2023, "Boosting Accuracy and Robustness of Student Models via Adaptive
Adversarial Distillation"): the attack looks for where student and teacher disagree, with the teacher inside it."""

from __future__ import annotations

from dataclasses import dataclass

from proard.attacks.attack import Loss
from proard.attacks.losses import kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives, required
from proard.objectives.crafting import Batch
from proard.objectives.iad import IAD


@objectives.register("adaad")
@dataclass(frozen=True)
class AdaAD(AdversarialObjective):
    """``a KL(T(x') || S(x')) + (1 - a) KL(T(x) || S(x))`` with ``x' = argmax KL(T(x') || S(x'))``.

    No labels. Every step of the attack differentiates the teacher too, which makes it several times as expensive as
    RSLAD where the teacher is larger than the student.

    The divergence is summed over classes and averaged over images. The authors' code averages over the classes too on
    CIFAR-10, and not on CIFAR-100; ``scale`` restores that (1 / classes). It also attacks with 16/255 and steps of
    4/255 by default; here the attack says so.

    Attributes:
        adversarial_weight: a in [0, 1]; 1 in the authors' code, which needs no student on clean images.
        scale: factor on the whole loss, positive.
    """

    adversarial_weight: float = 1.0
    scale: float = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_fraction("adversarial_weight")
        self.require_positive("scale")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and its logits; the labels are not used."""
        teacher = required(teacher, self)
        images = self.attacked(student, batch, disagreement(teacher))
        adversarial = student(images)
        target = self.taught(teacher, images)
        loss = kl_divergence(target, adversarial).mean()
        if self.adversarial_weight == 1:
            return Outcome(self.scale * loss, None, adversarial, images)
        clean_target = self.taught(teacher, batch.images)
        clean = student(batch.images)
        loss = self.adversarial_weight * loss
        loss = loss + (1 - self.adversarial_weight) * kl_divergence(clean_target, clean).mean()
        return Outcome(self.scale * loss, clean, adversarial, images)


@objectives.register("adaiad")
@dataclass(frozen=True)
class AdaIAD(IAD):
    """`IAD` with the attack of `AdaAD`, and the teacher's logits of x' as the target.

    ``a [t^2 KL(T(x')/t || S(x')/t) + (1 - trust) KL(S(x) || S(x'))] + (1 - a) CE(S(x), y)`` with
    ``x' = argmax KL(T(x') || S(x'))`` and trust ``p_y(T(x'))^beta``. See `IAD` for the options.
    """

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and its logits, with the teacher's answers at the attacked images."""
        teacher = required(teacher, self)
        images = self.attacked(student, batch, disagreement(teacher))
        target = self.taught(teacher, images)
        return self.distil(student, batch, images, target, target if self.introspective(batch) else None)


def disagreement(teacher: Model) -> Loss:
    """``KL(T(x') || S(x'))`` per image, for an attack on the student that differentiates the teacher too."""
    return lambda logits, images: kl_divergence(teacher(images), logits)
