"""All diagnostics of a student, and of the teacher it learned from, over a set of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from proard.attacks import PGD, Attack, ThreatModel
from proard.common.errors import UserError
from proard.evaluation.accuracy import Accuracy, evaluation_mode
from proard.evaluation.transfer.bounds import ROBUST_LOSS, transfer_bound, worst_loss
from proard.evaluation.transfer.curve import Cascade
from proard.evaluation.transfer.expansion import Ascent, Expansion, align, expand
from proard.evaluation.transfer.results import Diagnostics, NetworkDiagnostics, Summary, TransferDiagnostics
from proard.supernet import require_calibrated

RADII = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the curve, in units of eps
PASSES = 10 * 10 + 20 * len(RADII)  # about how often an image goes through the student, with the default options


def diagnose(
    student: nn.Module,
    teacher: nn.Module | None,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    threat: ThreatModel,
    *,
    attack: Attack | None = None,
    radii: Sequence[float] | None = None,
    steps: int = 10,
    restarts: int = 10,
    seed: int = 0,
) -> Diagnostics:
    """Measure when and why robustness transfers, in float32 and evaluation mode; modes are put back.

    An image costs ``steps * restarts`` gradients for each local linearity and worst loss, and those of the attack for
    each radius that it is still right at.

    Args:
        student: calibrated, images (N, C, H, W) in [0, 1] to logits (N, K).
        teacher: likewise, with the same classes, or None.
        batches: pairs of images and labels, on the networks' device.
        threat: norm, radius and bounds.
        attack: of the curves; default PGD-20 from a uniform start.
        radii: of the curves, to which eps is added; default 0.25 to 2 times eps.
        steps: of each ascent to a local linearity or a worst loss.
        restarts: of each ascent.
        seed: of every random start.

    Raises:
        UserError: fewer than two images, a student with batch norm that was never calibrated, or a teacher with another
            number of classes.
        ValueError: an attack for another threat model, or an option out of range.
    """
    require_calibrated(student)
    attack = PGD(threat, steps=20) if attack is None else attack
    if attack.threat != threat:
        raise ValueError(f"the attack is for {attack.threat}, the diagnosis for {threat}")
    radii = [factor * threat.eps for factor in RADII] if radii is None else [*radii, threat.eps]
    networks = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    curves = {name: Cascade(attack, radii, seed) for name in networks}
    measured: dict[str, list[dict[str, torch.Tensor]]] = {"student": [], "teacher": [], "transfer": []}
    generators: dict[str, torch.Generator] = {}

    def search(name: str, device: torch.device) -> Ascent:
        # A generator for each search: the student's numbers do not depend on whether there is a teacher.
        generator = generators.setdefault(name, torch.Generator(device).manual_seed(seed))
        return {"steps": steps, "restarts": restarts, "generator": generator}

    with ExitStack() as modes:
        for network in networks.values():
            modes.enter_context(evaluation_mode(network))
        for images, labels in batches:
            if teacher is not None and not measured["transfer"]:
                _check_classes(student, teacher, images)
            expansions, robust = {}, {}
            for name, network in networks.items():
                expansions[name] = expand(network, images, labels, threat, **search(name, images.device))
                robust[name] = curves[name].add(network, images, labels)[threat.eps]
                measured[name].append(_of_network(expansions[name], robust[name]))
            if teacher is not None:
                worst = worst_loss(teacher, images, labels, threat, **search("worst", images.device))
                measured["transfer"].append(_of_transfer(**expansions, worst=worst, robust=robust["student"]))
    images_seen = curves["student"].total
    if images_seen < 2:
        raise UserError(f"diagnose needs at least 2 images, got {images_seen}")
    alone = {
        name: NetworkDiagnostics(**_summarised(measured[name]), curve=curve.accuracies())
        for name, curve in curves.items()
    }
    transfer = None if teacher is None else TransferDiagnostics(**_summarised(measured["transfer"]))
    return Diagnostics(threat, attack, steps, restarts, seed, images_seen, **alone, transfer=transfer)


def _of_network(expansion: Expansion, robust: torch.Tensor) -> dict[str, torch.Tensor]:
    """The fields of `NetworkDiagnostics`, per image."""
    bounded = expansion.worst_loss < ROBUST_LOSS
    return {
        "loss": expansion.loss,
        "linear_change": expansion.linear_change,
        "local_linearity": expansion.local_linearity,
        "bounded": bounded,
        "contradicted": bounded & ~robust,
    }


def _of_transfer(
    student: Expansion, teacher: Expansion, worst: torch.Tensor, robust: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The fields of `TransferDiagnostics`, per image."""
    alignment, bound = align(student.gradient, teacher.gradient), transfer_bound(student, teacher)
    bounded = worst + bound.total < ROBUST_LOSS
    return {
        "cosine": alignment.cosine,
        "gradient_distance": alignment.distance,
        "loss_gap": bound.loss_gap,
        "gradient_gap": bound.gradient_gap,
        "bound": bound.total,
        "teacher_worst_loss": worst,
        "bounded": bounded,
        "contradicted": bounded & ~robust,
    }


def _summarised(batches: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Values per image of every batch to one number, or one summary, per field."""
    values = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    bounded, contradicted = values.pop("bounded"), values.pop("contradicted")
    return {
        **{name: Summary.of(value) for name, value in values.items()},
        "bounded": Accuracy.of(bounded),
        "contradicted": int(contradicted.sum()),
    }


def _check_classes(student: nn.Module, teacher: nn.Module, images: torch.Tensor) -> None:
    with torch.no_grad():
        numbers = [network(images[:1]).shape[1] for network in (student, teacher)]
    if numbers[0] != numbers[1]:
        raise UserError(
            f"the student tells {numbers[0]} classes apart, the teacher {numbers[1]}; they must be the same"
        )
