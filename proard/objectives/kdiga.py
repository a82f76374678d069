"""KDIGA (Shao et al., arXiv 2110.12072): knowledge distillation with input-gradient alignment. Robustness passes from a
teacher to a student, of whatever architecture, when the student also matches how the teacher's loss reacts to the
image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from proard.attacks.losses import cross_entropy, kl_divergence
from proard.attacks.steps import detached_in_float32
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives, required
from proard.objectives.crafting import Batch
from proard.objectives.differentiation import input_gradient, twice_differentiable

Images = Literal["clean", "adversarial"]


@objectives.register("kdiga")
@dataclass(frozen=True)
class KDIGA(AdversarialObjective):
    """``(1 - a) CE(S(x), y) + a t^2 KL(T(x)/t || S(u)/t) + lambda || grad CE(S(v), y) - grad CE(T(v), y) ||_2``.

    The gradients are by the images v. With ``x' = argmax CE(S(x'), y)``, the paper's variants are

    ======================  ===============  ============
    variant                 ``distil`` (u)   ``align`` (v)
    ======================  ===============  ============
    KDIGA                   clean            clean
    KDIGA-ARD_C             adversarial      clean
    KDIGA-ARD_A             adversarial      adversarial
    ======================  ===============  ============

    so the first needs no attack at all. The norm is that of each image's own gradient, averaged over the images, and 0
    at a perfect match, with gradient 0. Training through it needs a second derivative, for which attention and the hard
    sigmoid leave their fused kernels; public code that detached the student's gradient aligned nothing. The divergence
    is summed over classes and averaged over images.

    Attributes:
        distillation_weight: a in [0, 1].
        temperature: t, positive.
        alignment_weight: lambda, at least 0. Public code takes one norm over the whole batch, of the mean loss, and
            divides by the N images again: its weight w corresponds to about ``w / N^1.5`` here (1000 at 128 images to
            0.7).
        distil: the images on which the student learns the teacher's soft labels of the clean ones.
        align: the images at which the gradients are compared.
        scale: factor on the divergence, positive; 1 / classes where code averaged over the classes.
    """

    distillation_weight: float = 0.5
    temperature: float = 1.0
    alignment_weight: float = 1.0
    distil: Images = "clean"
    align: Images = "clean"
    scale: float = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_fraction("distillation_weight")
        self.require_positive("temperature", "scale")
        self.require_not_negative("alignment_weight")
        self.require(lambda images: images in get_args(Images), "clean or adversarial", "distil", "align")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch with the distance of the input gradients, and the student's logits."""
        teacher = required(teacher, self)
        target = self.taught(teacher, batch.images)
        images: dict[Images, torch.Tensor] = {"clean": batch.images}
        if "adversarial" in (self.distil, self.align):
            images["adversarial"] = self.attacked(student, batch)
        goal = teacher_gradient(teacher, images[self.align], batch.labels) if self.alignment_weight > 0 else None
        # One forward pass at the aligned images serves the alignment and the losses.
        aligned = detached_in_float32(images[self.align]).requires_grad_()
        with twice_differentiable():
            logits: dict[Images, torch.Tensor] = {self.align: student(aligned)}
        if self.distil not in logits:
            logits[self.distil] = student(images[self.distil])

        soft = kl_divergence(target, logits[self.distil], temperature=self.temperature)
        loss = self.distillation_weight * self.scale * self.temperature**2 * soft
        if self.distillation_weight < 1:
            if "clean" not in logits:
                logits["clean"] = student(batch.images)
            hard = batch.weighed(cross_entropy(logits["clean"], batch.labels))
            loss = loss + (1 - self.distillation_weight) * hard
        if goal is not None:
            aligned_loss = cross_entropy(logits[self.align], batch.labels).sum()
            (gradient,) = torch.autograd.grad(aligned_loss, aligned, create_graph=True)
            # The derivative of this norm at 0 is 0, where that of the square root of a sum would be infinite.
            distance = torch.linalg.vector_norm((gradient - goal).flatten(1), dim=1)
            loss = loss + self.alignment_weight * distance
        return Outcome(loss.mean(), logits.get("clean"), logits.get("adversarial"), images.get("adversarial"))


def teacher_gradient(teacher: Model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The teacher's input gradient, from its memory where it has one (such as a `BatchTeacher`)."""
    remembered = getattr(teacher, "input_gradient", None)
    return input_gradient(teacher, images, labels) if remembered is None else remembered(images, labels)
