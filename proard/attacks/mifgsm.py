"""MI-FGSM (Dong et al., arXiv 1710.06081, algorithm 1): iterated steps along a gradient with momentum."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.steps import GuardedAttack, per_image, value_and_gradient
from proard.attacks.threat import TINY


@attacks.register("mifgsm")
@dataclass(frozen=True)
class MIFGSM(GuardedAttack):
    """``g <- decay g + grad / |grad|_1``, then ``x <- x + step_size sign(g)`` (l2: ``g / |g|_2``), from the image.

    Attributes:
        threat: norm, radius and bounds.
        steps: at least 1; 10 in the paper.
        step_size: in units of the norm; default eps / steps, as in the paper.
        decay: of the momentum, at least 0; 1 in the paper.

    Raises:
        ValueError: an option out of range.
    """

    _: KW_ONLY
    steps: int = 10
    step_size: float | None = None
    decay: float = 1.0

    norms = ("linf", "l2")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_or_more("steps")
        self.require_positive("step_size")
        self.require_not_negative("decay")

    @property
    def resolved_step_size(self) -> float:
        """The step size in use."""
        return self.threat.eps / self.steps if self.step_size is None else self.step_size

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """Adversarial images after all steps; nothing is random."""
        perturbed, momentum, project = images, torch.zeros_like(images), self.threat.projection(images)
        for _ in range(self.steps):
            _, _, gradient = value_and_gradient(model, perturbed, loss or self.own_loss(labels))
            size = per_image(gradient.flatten(1).abs().sum(1), gradient).clamp_min(TINY)
            momentum = self.decay * momentum + gradient / size
            perturbed = project(perturbed.add(self.threat.ascent_direction(momentum), alpha=self.resolved_step_size))
        return perturbed
