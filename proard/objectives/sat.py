"""Standard adversarial training (Madry et al., arXiv 1706.06083, equation 2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from proard.attacks.attack import Loss
from proard.attacks.losses import at_least_float32, cross_entropy, kl_divergence
from proard.objectives.base import AdversarialObjective, Model, Outcome, objectives
from proard.objectives.crafting import Batch


@objectives.register("sat")
@dataclass(frozen=True)
class AdversarialTraining(AdversarialObjective):
    """``CE(S(x'), y)`` with ``x' = argmax CE(S(x'), y)``.

    Where ``averaged_weight`` is given, ``D(S(x'))`` with ``x' = argmax D(S(x'))``: the target is part label, part
    answer of the averaged network A at the same architecture (ADR, Wu et al., arXiv 2305.12118, equations 3 to 5).
    ``D(S) = w KL(p || S) + (1 - w) CE(S, y)`` with ``p = softmax(A(x) / t)``. The weight w of an image is the given one
    less ``max p - p_y``, and at least 0: so the label has the largest part of every target, also where A is wrong.
    Weight and temperature t go over the phase from their first value to their second, along half a cosine. Here A
    normalises by the batch, as students do.

    Attributes:
        label_smoothing: in [0, 1]; of the label in the outer loss, and in D.
        averaged_weight: first and last value in [0, 1], such as [0.7, 0.95] in the paper; needs ``ema_decay``. Default:
            labels alone.
        temperature: first and last value of t, positive; by default as in the paper on CIFAR-10.
    """

    label_smoothing: float = 0.0
    averaged_weight: tuple[float, float] | None = None
    temperature: tuple[float, float] = (2.5, 2.0)

    def __post_init__(self) -> None:
        self.require_fraction("label_smoothing", "averaged_weight")
        self.require_positive("temperature")

    @property
    def needs_average(self) -> bool:
        """Whether part of the target is the averaged network's."""
        return self.averaged_weight is not None

    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss of a batch, and the student's logits; the teacher is not used, unless it is the averaged network."""
        distance = None if self.averaged_weight is None else self._mixed(self.averaged_weight, teacher, batch)
        images = self.attacked(student, batch, distance)
        logits = student(images)
        if distance is None:
            loss = batch.weighed(cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing))
        else:
            loss = distance(logits, images)
        return Outcome(loss.mean(), adversarial_logits=logits, adversarial_images=images)

    def _mixed(self, weights: tuple[float, float], averaged: Model | None, batch: Batch) -> Loss:
        """D, of logits (N, K)."""
        answers = at_least_float32(self.taught(averaged, batch.images)) / annealed(self.temperature, batch.progress)
        p = answers.softmax(1)
        wrong = p.amax(1) - p.gather(1, batch.labels[:, None]).squeeze(1)
        weight = (annealed(weights, batch.progress) - wrong).clamp(min=0)

        def distance(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            hard = cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
            return weight * kl_divergence(answers, logits) + (1 - weight) * batch.weighed(hard)

        return distance


def annealed(ends: tuple[float, float], progress: float | torch.Tensor) -> torch.Tensor:
    """From the first number to the second along half a cosine, as ``progress`` (a number or 0-d) goes from 0 to 1."""
    turn = torch.as_tensor(progress, dtype=torch.float64) * math.pi
    return ends[1] + (ends[0] - ends[1]) * (1 + turn.cos()) / 2
