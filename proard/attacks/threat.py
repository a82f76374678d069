"""Threat models: what an adversary may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

TINY = 1e-12


@dataclass(frozen=True)
class ThreatModel:
    """Perturbations of norm at most ``eps`` that leave the image within ``bounds``.

    Attributes:
        norm: ``linf`` (largest change of a pixel value) or ``l2`` (Euclidean, over the whole image).
        eps: radius, positive, in units of images in [0, 1].
        bounds: least and greatest pixel value.

    Raises:
        ValueError: an unknown norm, a radius that is not positive and finite, or empty bounds.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 8 / 255
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"norm must be linf or l2, got {self.norm!r}")
        if not 0 < self.eps < float("inf"):
            raise ValueError(f"eps must be positive and finite, got {self.eps}")
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds must be (least, greatest), got {self.bounds}")

    def project(self, perturbed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The admissible images nearest to ``perturbed`` around ``images``; both (N, ...), same shape out.

        For l2, the scaled perturbation is clipped to the bounds, which only shortens it.
        """
        if self.norm == "linf":
            perturbed = torch.minimum(torch.maximum(perturbed, images - self.eps), images + self.eps)
        else:
            delta = perturbed - images
            perturbed = images + delta * (self.eps / per_image_norm(delta).clamp_min(TINY)).clamp_max(1.0)
        return perturbed.clamp(*self.bounds)

    def ascent_direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """The step of unit size that raises a linear function with this gradient most; (N, ...) to the same shape."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / per_image_norm(gradient).clamp_min(TINY)

    def random_start(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Images with a perturbation drawn uniformly from the ball, within the bounds."""
        delta = torch.empty(images.shape, dtype=images.dtype, device=generator.device)
        if self.norm == "linf":
            delta.uniform_(-self.eps, self.eps, generator=generator)
        else:
            delta.normal_(generator=generator)
            volume = torch.empty_like(delta.view(len(images), -1)[:, 0]).uniform_(0, 1, generator=generator)
            radius = self.eps * volume ** (1 / images[0].numel())  # uniform in volume, not in radius
            delta *= radius.view(-1, *[1] * (images.dim() - 1)) / per_image_norm(delta).clamp_min(TINY)
        return self.project(images + delta.to(images.device), images)


def per_image_norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm over everything but the first dimension, which is kept: (N, ...) to (N, 1, ...)."""
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
