"""Accuracy under one attack as it grows stronger: over its radius and over its steps.

Two sanity checks of Carlini et al. (arXiv 1902.06705): an attack that works takes accuracy to 0 once its radius is
large enough, and more steps find nothing new once there are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from proard.attacks import PGD, Attack, ThreatModel
from proard.attacks.presets import attack_as_dict
from proard.common.terminal import table
from proard.evaluation.accuracy import Accuracy, measure
from proard.evaluation.transfer.curve import scaled

RADII = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)  # in units of the threat model's eps
STEPS = (1, 2, 5, 10, 20, 50, 100)
ATTACK_STEPS = 20  # of the attack over radii
PASSES = 2 + len(RADII) * (ATTACK_STEPS + 1) + sum(steps + 1 for steps in STEPS)  # of an image that withstands all

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Curves:
    """What `measure_curves` found.

    Attributes:
        attack: of the curve over radii, at the threat model's own.
        seed: of the attacks' random starts.
        radii: accuracy by radius, ascending from clean accuracy at 0; an image that is broken at one counts as broken
            at all larger ones, so that it never rises.
        steps: accuracy by the attack's number of steps, likewise, at the threat model's radius.
    """

    attack: Attack
    seed: int
    radii: dict[float, Accuracy]
    steps: dict[int, Accuracy]

    @property
    def findings(self) -> list[str]:
        """In words, whether accuracy falls to 0, and whether the most steps still find something."""
        *_, (radius, last) = self.radii.items()
        *_, (before, fewer), (most, all_) = self.steps.items()
        where = f"at eps {radius:.4g}, {radius / self.attack.threat.eps:.3g} times that of the threat model"
        fall = f"accuracy falls to 0 {where}, as it should"
        if last.correct:
            fall = (
                f"accuracy does not fall to 0: {last} % are left {where}; unless images are that hard to change, this "
                "is a sign of gradient masking (proard evaluate --check looks for others)"
            )
        more = fewer.correct - all_.correct
        found = f"{most} steps break {more} of {all_.total} images more than {before} steps"
        return [fall, f"{found}: an attack needs as many, or more" if more > 0.01 * all_.total else found]

    def as_dict(self) -> dict[str, Any]:
        """Every number, for JSON."""
        return {
            "attack": attack_as_dict(self.attack),
            "seed": self.seed,
            "images": next(iter(self.radii.values())).total,
            "radii": [{"eps": radius, **accuracy.as_dict()} for radius, accuracy in self.radii.items()],
            "steps": [{"steps": steps, **accuracy.as_dict()} for steps, accuracy in self.steps.items()],
            "falls_to_zero": list(self.radii.values())[-1].correct == 0,
            "findings": self.findings,
        }

    def __str__(self) -> str:
        """Two tables, and what they say."""
        threat = self.attack.threat
        title = f"accuracy with 95 % interval; {next(iter(self.radii.values())).total} images, {threat.norm}"
        radii = [
            {
                "eps": f"{radius:.4g}",
                "of the threat": f"{radius / threat.eps:.3g}",
                self.attack.name + " %": a.with_interval,
            }
            for radius, a in self.radii.items()
        ]
        steps = [
            {"steps": str(count), f"% at eps {threat.eps:.4g}": a.with_interval} for count, a in self.steps.items()
        ]
        return "\n".join([title, *table(radii), "", *table(steps)])


def measure_curves(
    network: nn.Module,
    batches: Callable[[], Batches],
    threat: ThreatModel,
    *,
    seed: int = 0,
    spread: bool = False,
    progress: Callable[[float], Any] = lambda _: None,
) -> Curves:
    """Accuracy by the radius of PGD-20, from 0 to four times the threat model's, and by the number of PGD's steps.

    Either is a cascade of attacks, as in `measure`.

    Args:
        network: calibrated; images (N, C, H, W) in [0, 1] to logits.
        batches: gives the pairs of images and labels anew at each call, on the network's device.
        threat: norm, radius and bounds.
        seed: of the attacks' random starts.
        spread: every process of a job measures its share, as in `measure`.
        progress: called with amounts that add up to `PASSES` for each image that this process measures.

    Raises:
        UserError, ValueError, AttackError: as in `measure`.
    """
    attack = PGD(threat, steps=ATTACK_STEPS)
    by_radius = {str(factor * threat.eps): scaled(attack, factor * threat.eps) for factor in RADII}
    by_steps = {str(steps): PGD(threat, steps=steps) for steps in STEPS}
    first, second = (
        measure(network, batches(), attacks, seed=seed, spread=spread, progress=progress)
        for attacks in (by_radius, by_steps)
    )
    radii = {0.0: first.clean, **{float(radius): accuracy for radius, accuracy in first.robust.items()}}
    return Curves(attack, seed, radii, {int(steps): accuracy for steps, accuracy in second.robust.items()})
