"""What every attack is: pure configuration, called with a model, images and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch

from proard.attacks.threat import ThreatModel
from proard.registry import Registry

Model = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits (N, K), images (N, ...)) to one value per image (N,), to be raised."""


@dataclass(frozen=True)
class Attack(ABC):
    """An attack. It holds no model, and leaves the one it is called with as it was: modes, gradients and buffers.

    ``attack(model, images, labels)`` returns adversarial images.

    Attributes:
        threat: norm, radius and bounds.
        seed: of the random draws, when a call passes no generator.

    Raises:
        ValueError: an option out of range, or a norm that the attack does not support.
    """

    threat: ThreatModel
    _: KW_ONLY
    seed: int = 0

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    trains: ClassVar[bool] = True
    """Whether it can be the inner maximisation of an objective: it raises any loss it is given."""

    def __post_init__(self) -> None:
        if self.threat.norm not in self.norms:
            raise ValueError(f"{type(self).__name__} is for norm {' or '.join(self.norms)}, got {self.threat.norm}")

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, such as ``pgd20``: what results are reported under."""

    def __call__(
        self,
        model: Model,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        loss: Loss | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Adversarial images.

        Args:
            model: images (N, ...) in the threat model's bounds to logits (N, K).
            images: float (N, ...); not changed.
            labels: class indices (N,): the true ones, or the targets of a targeted attack.
            loss: what to raise per image, given (logits, perturbed images); default the attack's own.
            generator: of the random draws; default one seeded with ``seed``.

        Returns:
            Perturbed images, same shape, float32 (or float64), detached.

        Raises:
            ValueError: images outside the bounds, or not floating point; a loss that the attack cannot use.
        """
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point in {self.threat.bounds}, got {images.dtype}")
        if images.numel() == 0:
            return images.detach().clone()
        low, high = torch.aminmax(images)
        if low < self.threat.bounds[0] or high > self.threat.bounds[1]:
            raise ValueError(
                f"images must be within {self.threat.bounds}, got {float(low):g} to {float(high):g}; "
                "put normalisation inside the model"
            )
        if loss is not None and not self.trains:
            raise ValueError(
                f"{type(self).__name__} has a loss of its own; an objective needs pgd or another of its kind"
            )
        return self.perturb(model, images, labels, loss=loss, generator=generator)

    @abstractmethod
    def perturb(
        self,
        model: Model,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        loss: Loss | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The same without checking the images, which would wait for the device: for use inside a training loop."""

    def generator(self, images: torch.Tensor, given: torch.Generator | None) -> torch.Generator:
        """The given generator, or one of the attack's own on the images' device."""
        return torch.Generator(images.device).manual_seed(self.seed) if given is None else given


attacks: Registry[Attack] = Registry("attack")
