"""DeepFool (Moosavi-Dezfooli et al., arXiv 1511.04599): steps to the nearest boundary of the linearised network."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.steps import GuardedAttack, input_gradient, per_image
from proard.attacks.threat import TINY, per_image_norm


@attacks.register("deepfool")
@dataclass(frozen=True)
class DeepFool(GuardedAttack):
    """A small perturbation that just fools, brought into the ball of the threat model afterwards.

    Algorithm 2 of the paper for l2, and its linf form (p to infinity, equations 11 and 12 with q = 1). What is farther
    than eps no longer fools once it is projected, so robust accuracy is that of an attack within eps. With a large eps
    the result is the paper's.

    Attributes:
        threat: norm, radius and bounds.
        steps: at most; at least 1. 50 in the paper.
        overshoot: the share by which the perturbation goes beyond the boundary, at least 0; 0.02 in the paper.
        candidates: wrong classes that are looked at, likeliest first, at a gradient per class and step; at most all.

    Raises:
        ValueError: an option out of range.
    """

    _: KW_ONLY
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 9

    trains = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_or_more("steps", "candidates")
        self.require_not_negative("overshoot")

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """The images just beyond the boundary; one that is misclassified already is returned as it is."""
        perturbed, (low, high) = images, self.threat.bounds
        delta = torch.zeros_like(images)  # without the overshoot, which would hide how far the boundary still is
        logits = model(images)
        others = logits.scatter(1, labels[:, None], float("-inf"))
        rivals = others.topk(min(self.candidates, logits.shape[1] - 1), 1).indices  # likeliest first
        active = logits.argmax(1) == labels
        for _ in range(self.steps):
            if not bool(active.any()):
                break
            step = self._nearest_boundary(model, (images + delta).clamp(low, high), labels, rivals)
            delta = torch.where(per_image(active, delta), delta + step, delta)
            perturbed = (images + (1 + self.overshoot) * delta).clamp(low, high)
            active = model(perturbed).argmax(1) == labels
        return self.threat.project(perturbed, images)

    def _nearest_boundary(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, rivals: torch.Tensor
    ) -> torch.Tensor:
        """The shortest step to a boundary of the network linearised at the images: (N, ...)."""
        inputs = images.requires_grad_()
        with torch.enable_grad():
            logits = model(inputs)
        nearest = torch.full((len(inputs),), float("inf"), dtype=inputs.dtype, device=inputs.device)
        best = torch.zeros_like(images)
        for rival in rivals.T:
            with torch.enable_grad():
                gap = (logits.gather(1, labels[:, None]) - logits.gather(1, rival[:, None])).squeeze(1)
                gradient = input_gradient(gap.sum(), inputs, retain_graph=True)
            gap = gap.detach().abs().to(inputs.dtype)
            if self.threat.norm == "linf":
                length = gradient.flatten(1).abs().sum(1)
                step = -per_image(gap / length.clamp_min(TINY), gradient) * gradient.sign()
            else:
                length = per_image_norm(gradient).flatten()
                step = -per_image(gap / length.clamp_min(TINY) ** 2, gradient) * gradient
            distance = gap / length.clamp_min(TINY)
            closer = (distance < nearest) & (length > TINY)
            nearest = torch.where(closer, distance, nearest)
            best = torch.where(per_image(closer, inputs), step, best)
        return best
