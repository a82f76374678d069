"""One step: the fast gradient sign method (Goodfellow et al., arXiv 1412.6572) and the fast gradient method."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch

from proard.attacks.attack import Attack, Loss, Model, attacks
from proard.attacks.pgd import PGD, maximise
from proard.attacks.steps import GuardedAttack
from proard.attacks.threat import ThreatModel


@attacks.register("fgsm")
@dataclass(frozen=True)
class FGSM(GuardedAttack):
    """``x + eps sign(d CE(f(x), y) / dx)``, for linf.

    With a uniform start and a step of 1.25 eps it is the one-step training of Wong et al. (arXiv 2001.03994).

    Attributes:
        threat: norm, radius and bounds.
        start: ``clean``, or ``uniform`` in the ball.
        step_size: in units of the norm; default eps.

    Raises:
        ValueError: an option out of range, or another norm.
    """

    _: KW_ONLY
    start: Literal["clean", "uniform"] = "clean"
    step_size: float | None = None

    norms = ("linf",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(lambda start: start in ("clean", "uniform"), "clean or uniform", "start")
        self.require_positive("step_size")

    @property
    def resolved_step_size(self) -> float:
        """The step size in use."""
        return self.threat.eps if self.step_size is None else self.step_size

    @property
    def name(self) -> str:
        """``fgsm`` (``fgm`` for l2); ``rs-fgsm`` with a random start."""
        return ("rs-" if self.start == "uniform" else "") + attacks.name_of(self)

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """The start, and one step from there."""
        loss, size = loss or self.own_loss(labels), self.resolved_step_size
        return maximise(
            model, images, loss, self.threat, steps=1, step_size=size, start=self.start, generator=generator
        )


@attacks.register("fgm")
@dataclass(frozen=True)
class FGM(FGSM):
    """``x + eps g / |g|`` with the gradient ``g`` of the cross-entropy, for l2; options as of `FGSM`."""

    norms = ("l2",)


def fgsm(threat: ThreatModel) -> Attack:
    """One step of size eps from the clean images, in the threat model's norm."""
    if threat.norm == "l1":
        return PGD(threat, steps=1, step_size=threat.eps, start="clean")
    return FGSM(threat) if threat.norm == "linf" else FGM(threat)
