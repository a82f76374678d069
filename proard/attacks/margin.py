"""PGD on the margin loss of Carlini and Wagner (arXiv 1608.04644, objective f6), inside the ball."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from proard.attacks.attack import Attack, attacks
from proard.attacks.losses import margin
from proard.attacks.pgd import PGD


@attacks.register("cw")
@dataclass(frozen=True)
class MarginPGD(PGD):
    """PGD that raises ``max_{k != y} z_k - z_y`` instead of the cross-entropy.

    This is what the literature on robust training calls CW or CW-PGD: an attack within eps. It is not Carlini and
    Wagner's own, which looks for the smallest perturbation that fools and has no eps. Unlike the cross-entropy, the
    margin keeps its gradient where the network is very sure.

    Attributes:
        steps: gradient steps, at least 1; other options as of `PGD`.
    """

    _: KW_ONLY
    steps: int = 100

    name = Attack.name  # PGD's always has the number of steps

    def label_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The margin: logits (N, K) and labels (N,) to (N,)."""
        return margin(logits, labels)
