"""RSLAD (Zi et al., arXiv 2108.07969, equations 7 and 8): robust soft labels of the teacher, everywhere and only
those."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from proard.attacks.losses import at_least_float32, cross_entropy, kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("rslad")
@dataclass(frozen=True)
class RSLAD(AdversarialObjective):
    """``a D(S(x')) + (1 - a) D(S(x))`` with ``x' = argmax D(S(x'))`` and ``D(S) = KL(T(x) || S)``, as in the paper.

    Where ``label_weight`` w is given, ``D(S) = (1 - w) KL(T(x) || S) + w CE(S, y)``: the target is part label. On
    images that are hard for a small network that is worth several points of robust accuracy
    (docs/results/samplers.md); the paper uses no labels.

    Where ``entropy_weight`` c is given, images count by how far the teacher is unsure where the student is attacked, as
    in SAAD (Lee and Chung, arXiv 2512.10275). With the entropy ``h = H(T(x'))`` and its least and greatest value in the
    batch (in each process's part of it), ``D(S(x'))`` is multiplied by ``c (h - min h)`` and ``D(S(x))`` by
    ``1 - (h - min h) / (max h - min h)``. These are the weights of the authors' code, in which other terms differ. They
    gained over this objective without them, though not over ``adversarial_weight: 1`` (docs/results/samplers.md), with
    the supernet's own teacher; one from elsewhere, which they are for, was not tried.

    The divergence is summed over classes and averaged over images. The authors' code averages over the classes too, and
    multiplies by 10 on CIFAR-100; ``scale`` restores such a factor (1 / classes, or 10 / classes).

    Attributes:
        adversarial_weight: a in [0, 1]; 5/6 in the paper. With 1 the student never sees the clean images, which saves
            a pass there and back.
        label_weight: w in [0, 1].
        entropy_weight: c, at least 0; 0 is off, 5 in the authors' code. The teacher answers on x' as well.
        scale: factor on the whole loss, positive.
    """

    adversarial_weight: float = 5 / 6
    label_weight: float = 0.0
    entropy_weight: float = 0.0
    scale: float = 1.0

    needs_teacher = True

    def __post_init__(self) -> None:
        self.require_fraction("adversarial_weight", "label_weight")
        self.require_not_negative("entropy_weight")
        self.require_positive("scale")

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits."""
        target = self.taught(teacher, batch.images)

        def distance(logits: torch.Tensor, _: torch.Tensor | None = None) -> torch.Tensor:
            soft = kl_divergence(target, logits)
            if self.label_weight == 0:
                return soft
            hard = batch.weighed(cross_entropy(logits, batch.labels))
            return (1 - self.label_weight) * soft + self.label_weight * hard

        images = self.attacked(student, batch, distance)
        adversarial = student(images)
        above = self._entropy_above_the_least(teacher, images) if self.entropy_weight else None
        apart = distance(adversarial)
        loss = self.adversarial_weight * (apart if above is None else self.entropy_weight * above * apart).mean()
        clean = None
        if self.adversarial_weight < 1:
            clean = student(batch.images)
            apart = distance(clean)
            if above is not None:
                apart = (1 - above / (above.amax() + 1e-8)) * apart
            loss = loss + (1 - self.adversarial_weight) * apart.mean()
        return Outcome(self.scale * loss, clean, adversarial, images)

    def _entropy_above_the_least(self, teacher: Model | None, images: torch.Tensor) -> torch.Tensor:
        """Of the teacher's answers, above the least of the batch (N,)."""
        likely = at_least_float32(self.taught(teacher, images)).log_softmax(1)
        entropy = -(likely.exp() * likely).sum(1)
        return entropy - entropy.amin()
