"""MI-FGSM (Dong et al., arXiv 1710.06081, algorithm 1): iterated steps along a gradient with momentum."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from proard.attacks.attack import Attack, Loss, Model, attacks
from proard.attacks.losses import cross_entropy
from proard.attacks.steps import buffers_restored, detached_in_float32, per_image, value_and_gradient
from proard.attacks.threat import TINY


@attacks.register("mifgsm")
@dataclass(frozen=True)
class MIFGSM(Attack):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")
        if not self.decay >= 0:
            raise ValueError(f"decay must be at least 0, got {self.decay}")

    @property
    def resolved_step_size(self) -> float:
        """The step size in use."""
        return self.threat.eps / self.steps if self.step_size is None else self.step_size

    @property
    def name(self) -> str:
        """``mifgsm`` for 10 steps, else ``mifgsm20``."""
        return "mifgsm" if self.steps == 10 else f"mifgsm{self.steps}"

    def perturb(
        self,
        model: Model,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        loss: Loss | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Adversarial images, as of `Attack`; the default loss is the cross-entropy of the labels. No randomness."""
        loss = loss or (lambda logits, _: cross_entropy(logits, labels))
        perturbed = images = detached_in_float32(images)
        momentum = torch.zeros_like(images)
        with buffers_restored(model), torch.no_grad():
            for _ in range(self.steps):
                _, _, gradient = value_and_gradient(model, perturbed, loss)
                size = per_image(gradient.flatten(1).abs().sum(1), gradient).clamp_min(TINY)
                momentum = self.decay * momentum + gradient / size
                step = self.resolved_step_size * self.threat.ascent_direction(momentum)
                perturbed = self.threat.project(perturbed + step, images)
        return perturbed
