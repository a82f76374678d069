"""Clean and robust accuracy, with intervals; and the `evaluate` command."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from proard.attacks import PGD
from proard.supernet import require_calibrated

Z_95 = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """A number of correctly classified images out of a total."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """In [0, 1]; 0 for no images."""
        return self.correct / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of Wilson (1927), in [0, 1]."""
        if not self.total:
            return 0.0, 1.0
        n, p = self.total, self.value
        centre = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
        half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def as_dict(self) -> dict[str, Any]:
        """Value, images and interval, for JSON."""
        low, high = self.interval
        return {"accuracy": self.value, "correct": self.correct, "images": self.total, "interval_95": [low, high]}

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}"


@dataclass(frozen=True)
class Measurement:
    """Clean accuracy, and robust accuracy per attack (by name): correct on the image and on every perturbed one."""

    clean: Accuracy
    robust: dict[str, Accuracy]


def measure(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    attacks: dict[str, PGD],
    *,
    seed: int = 0,
) -> Measurement:
    """Evaluate a calibrated network in float32 and evaluation mode; its modes are put back.

    Each attack sees only images that are classified correctly without it.

    Args:
        network: images (N, C, H, W) in [0, 1] to logits.
        batches: pairs of images and labels, on the network's device.
        attacks: by the name to report.
        seed: of the attacks' random starts.

    Raises:
        UserError: the network has batch norm that was never calibrated.
    """
    require_calibrated(network)
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    total, clean, robust = 0, 0, dict.fromkeys(attacks, 0)
    generators: dict[str, torch.Generator] = {}
    try:
        for images, labels in batches:
            with torch.no_grad():
                correct = network(images).argmax(1) == labels
            total, clean = total + len(labels), clean + int(correct.sum())
            images, labels = images[correct], labels[correct]
            for name, attack in attacks.items():
                generator = generators.setdefault(name, torch.Generator(images.device).manual_seed(seed))
                adversarial = attack(network, images, labels, generator=generator)
                with torch.no_grad():
                    robust[name] += int((network(adversarial).argmax(1) == labels).sum())
    finally:
        for module, mode in modes:
            module.training = mode
    return Measurement(Accuracy(clean, total), {name: Accuracy(count, total) for name, count in robust.items()})
