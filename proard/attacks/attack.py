"""What every attack is: pure configuration, called with a model, images and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch

from proard.attacks.given import Model as Model
from proard.attacks.given import usable_images, usable_labels, usable_model
from proard.attacks.losses import cross_entropy
from proard.attacks.threat import ThreatModel
from proard.common.errors import Stopped
from proard.common.options import Options
from proard.common.registry import Registry

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits (N, K), images (N, ...)) to one value per image (N,), to be raised."""
COUNTS = ("steps", "queries")  # what a number behind a name sets: pgd20, square1000; pgd20x5 has five restarts


@dataclass(frozen=True)
class Attack(Options, ABC):
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

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    trains: ClassVar[bool] = True
    """Whether it can be the inner maximisation of an objective: it raises any loss it is given."""

    def __post_init__(self) -> None:
        if self.threat.norm not in self.norms:
            name, norms = type(self).__name__, " or ".join(self.norms)
            raise ValueError(f"{name} is for norm {norms}, got {self.threat.norm}; pgd is for all")

    @property
    def name(self) -> str:
        """What results are reported under: the registered name, and behind it what is not the default of it.

        That is the number of steps or queries, and restarts, as in ``apgd-ce50``, ``square1000`` or ``cw100x5``.
        """
        restarts = getattr(self, "restarts", 1)
        counts = {option: getattr(self, option) for option in COUNTS if hasattr(self, option)}
        default = all(count == getattr(type(self), option, None) for option, count in counts.items())
        numbers = "" if default and restarts == 1 else "".join(map(str, counts.values()))
        return attacks.name_of(self) + numbers + (f"x{restarts}" if restarts > 1 else "")

    @property
    def passes(self) -> int:
        """About how many forward passes it takes for an image that withstands it: for progress bars and estimates."""
        option = {name: getattr(self, name, 1) for name in ("steps", "restarts", "targets", "draws")}
        count = int(getattr(self, "queries", option["steps"])) * option["restarts"]
        return count * option["targets"] * option["draws"] + 1

    def __call__(
        self,
        model: Model,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        loss: Loss | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Find adversarial images.

        Args:
            model: images (N, ...) in the threat model's bounds to logits (N, K).
            images: float (N, ...); not changed.
            labels: class indices (N,): the true ones, or the targets of a targeted attack.
            loss: what to raise per image, given (logits, perturbed images); default the attack's own.
            generator: of the random draws; default one seeded with ``seed``.

        Returns:
            Perturbed images, same shape, float32 (or float64), detached.

        Raises:
            ValueError: images outside the bounds, not finite, or not floating point; labels that are no classes of the
                model; a model that does not return logits; a loss that the attack cannot use.
        """
        with torch.inference_mode(False):
            model, images, labels = self.usable(model, images, labels)
            if images.numel() == 0:
                return images.detach().clone()
            return returned(self, self.perturb(model, images, labels, loss=loss, generator=generator), images)

    def until_fooled(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """What evaluation calls: ``attack(model, images, labels)``, that may end at any image which fools the model.

        An attack that goes through several images can stop at the first one that is misclassified: it then breaks no
        image less than its end would, in less time.
        """
        return self(model, images, labels, generator=generator)

    def usable(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[Model, torch.Tensor, torch.Tensor]:
        """The three of a call as `perturb` takes them, or one ValueError (`proard.attacks.given`)."""
        images = usable_images(images, self.threat.bounds)
        labels = usable_labels(labels, images)
        return usable_model(model, labels), images, labels

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

    @property
    def reach(self) -> float:
        """How far from an image `perturb` may go, in the threat's norm; a call of the attack stays within eps."""
        return self.threat.eps

    def label_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What is raised when the caller names no loss, the cross-entropy: logits (N, K) and labels (N,) to (N,)."""
        return cross_entropy(logits, labels)

    def own_loss(self, labels: torch.Tensor) -> Loss:
        """`label_loss` of these labels, as a loss."""
        return lambda logits, _: self.label_loss(logits, labels)

    def generator(self, images: torch.Tensor, given: torch.Generator | None) -> torch.Generator:
        """The given generator, or one of the attack's own on the images' device."""
        return torch.Generator(images.device).manual_seed(self.seed) if given is None else given


attacks: Registry[Attack] = Registry("attack")


class AttackError(Stopped):
    """An attack returned something that is no admissible perturbation."""

    alone = True


def returned(attack: Attack, adversarial: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """What `perturb` returned, detached and as precise as the images (float32 or more); nothing waits for the device.

    Raises:
        AttackError: no tensor of floating point numbers, or another shape than that of the images.
    """
    if not isinstance(adversarial, torch.Tensor):
        raise AttackError(f"attack {attack.name} returned {type(adversarial).__name__} in the place of images")
    if adversarial.shape != images.shape:
        wrong = f"of shape {tuple(adversarial.shape)} for {tuple(images.shape)}"
        raise AttackError(f"attack {attack.name} returned images {wrong}")
    if not adversarial.is_floating_point():
        raise AttackError(f"attack {attack.name} returned images of {adversarial.dtype}; they must be floating point")
    adversarial = adversarial.detach() if adversarial.requires_grad else adversarial
    return adversarial.to(torch.promote_types(images.dtype, torch.float32))


def check_result(
    attack: Attack, adversarial: torch.Tensor, images: torch.Tensor, farthest: float | None = None
) -> None:
    """Refuse what an attack must not return: a result that would be counted as robustness, or as the lack of it.

    Args:
        attack: for its threat model and name.
        adversarial: what it returned.
        images: what it was given, same shape.
        farthest: that they may be away from there; default eps.

    Raises:
        AttackError: as of `returned`; values that are not finite, outside the bounds, or farther away.
    """
    threat = attack.threat
    farthest = threat.eps if farthest is None else farthest
    adversarial = returned(attack, adversarial, images)
    if images.numel() == 0:
        return
    low, high = threat.bounds
    delta = adversarial - images
    distance = threat.size(delta).amax()
    least, greatest, away = torch.stack([adversarial.amin(), adversarial.amax(), distance]).tolist()
    tiny = torch.finfo(torch.float32).eps * max(abs(low), abs(high))  # rounding of float32 pixel values
    tiny *= images[0].numel() / 2 if threat.norm == "l1" else 8
    if not torch.isfinite(adversarial).all():
        wrong = "that are not finite; look for infinite or NaN weights, or gradients, of the network"
    elif least < low or greatest > high:
        wrong = f"with values {least:g} to {greatest:g}, outside of {low:g} to {high:g}"
    elif away > farthest * (1 + 1e-5) + tiny:
        what = "eps" if farthest == threat.eps else "its reach of"
        wrong = f"at {threat.norm} distance {away:.7g}, more than {what} {farthest:.7g}"
    else:
        return
    raise AttackError(f"attack {attack.name} returned images {wrong}")
