"""Robust accuracy over a range of radii."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from proard.attacks import Attack, check_result
from proard.attacks.attack import Model
from proard.evaluation.accuracy import Accuracy


def accuracy_curve(
    network: Model,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    attack: Attack,
    radii: Sequence[float],
    *,
    seed: int = 0,
) -> dict[float, Accuracy]:
    """Robust accuracy at each radius, from clean accuracy at radius 0.

    The radii form a cascade, from the smallest: an image that is broken at one radius counts as broken at every larger
    one, since the same perturbation is admissible there, and is not attacked again. So the curve never rises.

    Args:
        network: images (N, ...) in the bounds to logits (N, K), in evaluation mode.
        batches: pairs of images and labels, on the network's device.
        attack: its threat model gives norm and bounds; its step size grows and shrinks with the radius.
        radii: positive, in any order.
        seed: of the attack's random starts, at every radius.

    Returns:
        Accuracies by radius, ascending.

    Raises:
        ValueError: no radius, or one that is not positive.
        AttackError: the attack returned images that are not admissible.
    """
    cascade = Cascade(attack, radii, seed)
    for images, labels in batches:
        cascade.add(network, images, labels)
    return cascade.accuracies()


class Cascade:
    """The curve of a network, one batch at a time; see `accuracy_curve`."""

    def __init__(self, attack: Attack, radii: Sequence[float], seed: int = 0) -> None:
        if not radii:
            raise ValueError("a curve needs at least one radius")
        self.attacks = {float(radius): scaled(attack, float(radius)) for radius in sorted(radii)}
        self.seed = seed
        self.counts = dict.fromkeys([0.0, *self.attacks], 0)
        self.total = 0
        self._generators: dict[float, torch.Generator] = {}

    def add(self, network: Model, images: torch.Tensor, labels: torch.Tensor) -> dict[float, torch.Tensor]:
        """Attack a batch; whether each image is still classified correctly, by radius (N,)."""
        with torch.no_grad():
            right = network(images).argmax(1) == labels
        survived = {0.0: right}
        for radius, attack in self.attacks.items():
            if right.any():
                generator = self._generators.setdefault(radius, torch.Generator(images.device).manual_seed(self.seed))
                left = images[right]
                adversarial = attack.until_fooled(network, left, labels[right], generator)
                check_result(attack, adversarial, left)
                with torch.no_grad():
                    right = right.masked_scatter(right, network(adversarial).argmax(1) == labels[right])
            survived[radius] = right
        self.total += len(labels)
        for radius, alive in survived.items():
            self.counts[radius] += int(alive.sum())
        return survived

    def accuracies(self) -> dict[float, Accuracy]:
        """Of all batches so far, by radius, ascending."""
        return {radius: Accuracy(count, self.total) for radius, count in self.counts.items()}


def scaled(attack: Attack, eps: float) -> Attack:
    """The same attack at another radius, its step size in proportion.

    Raises:
        ValueError: the radius is not positive and finite.
    """
    changed = replace(attack, threat=replace(attack.threat, eps=eps))
    step_size = getattr(attack, "step_size", None)
    if step_size is not None:  # by default it is in proportion already
        changed = replace(changed, step_size=step_size * eps / attack.threat.eps)  # type: ignore[call-arg]
    return changed
