"""DeepFool (Moosavi-Dezfooli et al., arXiv 1511.04599): steps to the nearest boundary of the linearised network."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.steps import GuardedAttack, input_gradient, per_image
from proard.attacks.threat import TINY, ThreatModel


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

    norms = ("linf", "l2")
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
            at = (images + delta).clamp(low, high)
            _, gap, gradient, length = nearest_boundary(model, at, labels, rivals, self.threat)
            towards = self.threat.ascent_direction(-gradient)
            step = per_image(gap.abs() / length.clamp_min(TINY), towards) * towards
            delta = torch.where(per_image(active, delta), delta + step, delta)
            perturbed = (images + (1 + self.overshoot) * delta).clamp(low, high)
            active = model(perturbed).argmax(1) == labels
        return self.threat.project(perturbed, images)


def nearest_boundary(
    model: Model, images: torch.Tensor, labels: torch.Tensor, rivals: torch.Tensor, threat: ThreatModel
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the boundaries to rival classes of a network linearised at the images, the nearest to each image.

    Args:
        model: images (N, ...) to logits (N, K).
        images: where it is linearised (N, ...).
        labels: the classes on the one side (N,).
        rivals: those on the other side (N, R); a backward pass for each of the R.
        threat: its norm is that of distances.

    Returns:
        Logits (N, K); the logit of the label less that of the rival (N,), its gradient (N, ...), and the gradient's
        dual norm (N,). All 0 where no gradient shows the way.
    """
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(inputs)
    nearest = torch.full((len(inputs),), float("inf"), dtype=inputs.dtype, device=inputs.device)
    best_gap, best_length, best = torch.zeros_like(nearest), torch.zeros_like(nearest), torch.zeros_like(images)
    for index, rival in enumerate(rivals.T):
        with torch.enable_grad():
            gap = (logits.gather(1, labels[:, None]) - logits.gather(1, rival[:, None])).squeeze(1)
            gradient = input_gradient(gap.sum(), inputs, retain_graph=index + 1 < rivals.shape[1])
        gap = gap.detach().to(inputs.dtype)
        length = threat.dual_size(gradient)
        distance = gap.abs() / length.clamp_min(TINY)
        closer = (distance < nearest) & (length > TINY)
        nearest, best_gap = torch.where(closer, distance, nearest), torch.where(closer, gap, best_gap)
        best_length = torch.where(closer, length, best_length)
        best = torch.where(per_image(closer, best), gradient, best)
    return logits.detach(), best_gap, best, best_length
