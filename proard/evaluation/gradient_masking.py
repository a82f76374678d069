"""Sanity checks that warn of gradient masking: robust accuracy that only means that the attack could not see.

After Athalye et al. (arXiv 1802.00420, section 3.1), Carlini et al. (arXiv 1902.06705) and the checks of AutoAttack.
Each finding is explained in docs/guides/gradient_masking.md. No finding is no proof of robustness.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from proard.attacks import PGD, Attack, MarginPGD, Square, ThreatModel, check_result, fgsm
from proard.attacks.losses import cross_entropy
from proard.attacks.steps import NoGradient, value_and_gradient
from proard.common.errors import UserError
from proard.evaluation.accuracy import evaluation_mode
from proard.supernet import require_calibrated

GUIDE = "docs/guides/gradient_masking.md"
TOLERANCE = 0.02  # share of the images by which attacks of equal strength may differ
STEPS, STARTS = 40, 3  # of the white-box attacks; with one start, Square Attack wins now and then on honest networks
PASSES = 1000 + (3 * STARTS - 1) * STEPS  # about how often an image goes through the network
MEANINGS = {
    "softmax outputs": "attacks expect logits; on probabilities their gradients vanish",
    "random outputs": "an attack aims at one draw and is judged by another",
    "zero gradients": "attacks that follow the gradient cannot move these images",
    "one step beats many": "the gradient misleads attacks beyond the first step",
    "black box beats white box": "following the gradient should do better than trying at random",
    "unbounded attack fails": "with any image allowed, an attack that works reaches 0 %",
}


@dataclass(frozen=True)
class Finding:
    """A sign that robust accuracy may be overstated.

    Attributes:
        check: which one, a key of `MEANINGS`.
        measured: what was seen, with numbers.
    """

    check: str
    measured: str

    @property
    def pointer(self) -> str:
        """Where the check is explained."""
        return f"{GUIDE}#{self.check.replace(' ', '-')}"

    def __str__(self) -> str:
        return f"{self.check}: {self.measured}; {MEANINGS[self.check]} ({self.pointer})"


def check_masking(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    threat: ThreatModel,
    *,
    limit: int = 100,
    queries: int = 1000,
    seed: int = 0,
) -> list[Finding]:
    """Look for signs of gradient masking, on images that the network classifies correctly.

    Args:
        network: calibrated; images (N, C, H, W) in the threat model's bounds to logits. Its modes are put back.
        batches: pairs of images and labels, on the network's device.
        threat: norm and radius at which attacks are compared.
        limit: correctly classified images to use, at most; about 50 or more make the comparisons meaningful.
        queries: of the black-box attack, per image: most of the cost.
        seed: of the attacks.

    Returns:
        What was found, most basic first; empty if there is no sign.

    Raises:
        UserError: no image is classified correctly, or the network was never calibrated.
    """
    require_calibrated(network)
    with evaluation_mode(network):
        images, labels = _classified(network, batches, limit)
        findings = [_softmax(network, images), _randomness(network, images), _zero_gradients(network, images, labels)]
        findings += _attacks(network, images, labels, threat, queries, seed)
    return [finding for finding in findings if finding is not None]


def _classified(
    network: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], limit: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images that are classified correctly, in one batch."""
    chosen: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.no_grad():
        for images, labels in batches:
            right = network(images).argmax(1) == labels
            chosen.append((images[right], labels[right]))
            if sum(len(labels) for _, labels in chosen) >= limit:
                break
    if not any(len(labels) for _, labels in chosen):
        raise UserError("gradient masking: no image is classified correctly, so there is nothing to check")
    images, labels = (torch.cat(parts)[:limit] for parts in zip(*chosen, strict=True))
    return images, labels


def _softmax(network: nn.Module, images: torch.Tensor) -> Finding | None:
    with torch.no_grad():
        outputs = network(images).float()
    if outputs.amin() < -1e-6 or (outputs.sum(1) - 1).abs().amax() > 1e-4:
        return None
    return Finding("softmax outputs", "the outputs of every image are at least 0 and sum to 1")


def _randomness(network: nn.Module, images: torch.Tensor) -> Finding | None:
    with torch.no_grad():
        first, second = (network(images).float() for _ in range(2))
    difference = float((first - second).abs().amax() / first.abs().amax().clamp_min(1e-12))
    if difference <= 1e-4:  # a GPU's sums may differ in the last digits
        return None
    return Finding("random outputs", f"two passes over the same images differ by {difference:.2g} of the largest logit")


def _zero_gradients(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Finding | None:
    try:
        _, _, gradient = value_and_gradient(network, images, lambda logits, _: cross_entropy(logits, labels))
    except NoGradient:
        return Finding("zero gradients", "no gradient reaches the images at all: a part is not differentiable")
    zero = int((gradient.flatten(1) == 0).all(1).sum())
    if zero <= TOLERANCE * len(images):
        return None
    return Finding("zero gradients", f"the loss's gradient is exactly zero for {zero} of {len(images)} images")


def _attacks(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, threat: ThreatModel, queries: int, seed: int
) -> Iterator[Finding]:
    """Compare attacks of which one should be the stronger, each on all images."""
    count, margin_of_error = len(images), TOLERANCE * len(images)

    def broken(attack: Attack) -> torch.Tensor:
        """Which of the images it fools."""
        try:
            adversarial = attack(network, images, labels)
        except NoGradient:
            return torch.zeros_like(labels, dtype=torch.bool)
        check_result(attack, adversarial, images)
        with torch.no_grad():
            return network(adversarial).argmax(1) != labels

    pgd = broken(PGD(threat, steps=STEPS, restarts=STARTS, seed=seed))
    one, many = int(broken(fgsm(threat)).sum()), int(pgd.sum())
    if one - many > margin_of_error:
        yield Finding("one step beats many", f"one step breaks {one} of {count} images, {STEPS} steps break {many}")

    black = int(broken(Square(threat, queries=queries, seed=seed)).sum())
    white = int((pgd | broken(MarginPGD(threat, steps=STEPS, restarts=STARTS, seed=seed))).sum())
    if black - white > margin_of_error:
        measured = f"Square Attack breaks {black} of {count} images with {queries} queries, gradients break {white}"
        yield Finding("black box beats white box", measured)

    size = threat.size(torch.full_like(images[:1], threat.bounds[1] - threat.bounds[0]))
    everything = replace(threat, eps=float(size))
    left = count - int((broken(PGD(everything, steps=STEPS, seed=seed)) | pgd).sum())
    if left > 0:
        measured = f"with eps {everything.eps:g}, the whole range, {left} of {count} images withstand {STEPS} steps"
        yield Finding("unbounded attack fails", measured)
