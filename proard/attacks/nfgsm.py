"""N-FGSM (de Jorge et al., arXiv 2202.01181): one-step training that does not collapse."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.steps import GuardedAttack, detached_in_float32, value_and_gradient


@attacks.register("nfgsm")
@dataclass(frozen=True)
class NFGSM(GuardedAttack):
    """Noise from [-k eps, k eps], then one step of size eps along the gradient's sign at the noisy image.

    The paper trains on the sum of both, which may be (k + 1) eps away: the noise is an augmentation, and clipping to
    eps around the image undoes what prevents the collapse. So `perturb`, which objectives call, does not clip unless
    ``clip`` is set; a call of the attack itself, as in every evaluation, always stays within eps. Pixel values stay
    within the bounds in both.

    Attributes:
        threat: norm, radius and bounds.
        noise: k, at least 0; 2 in the paper.
        step_size: default eps, as in the paper.
        clip: keep what is trained on within eps of the image, too.

    Raises:
        ValueError: an option out of range, or a norm other than linf.
    """

    _: KW_ONLY
    noise: float = 2.0
    step_size: float | None = None
    clip: bool = False

    norms = ("linf",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_not_negative("noise")
        self.require_positive("step_size")

    @property
    def resolved_step_size(self) -> float:
        """The step size in use."""
        return self.threat.eps if self.step_size is None else self.step_size

    @property
    def reach(self) -> float:
        """Noise and step together, unless they are clipped."""
        return self.threat.eps if self.clip else self.noise * self.threat.eps + self.resolved_step_size

    def __call__(self, model: Model, images: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        """Adversarial images, as of `Attack`; always within eps."""
        return self.threat.project(super().__call__(model, images, labels, **options), detached_in_float32(images))

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """Noisy images after one step; within eps only with ``clip``."""
        noise = torch.empty(images.shape, dtype=images.dtype, device=generator.device)
        noise.uniform_(-self.noise * self.threat.eps, self.noise * self.threat.eps, generator=generator)
        noisy = images + noise.to(images.device)
        loss = loss or self.own_loss(labels)
        _, _, gradient = value_and_gradient(model, noisy.clamp(*self.threat.bounds), loss)
        perturbed = noisy + self.resolved_step_size * gradient.sign()
        return self.threat.project(perturbed, images) if self.clip else perturbed.clamp(*self.threat.bounds)
