"""What every written file is worth: it is run on test images, clean and attacked.

A float file computes what the student computes, so adversarial images of the student are attacks on it. An int8 file is
another function, whose rounding hides gradients (arXiv 1909.12741): a gradient attack on it finds little, which says
nothing. So three attacks that mean something are made, and an image counts as robust only if the file is right about it
before and after all three:

- ``transfer``: the adversarial images of the float student;
- ``straight_through``: projected gradient descent on a copy in which rounding has the gradient of the identity;
- ``square``: Square Attack on the file itself, which uses no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proard.attacks import PGD, Attack, Square, check_result
from proard.attacks.presets import attack_as_dict
from proard.evaluation.accuracy import Accuracy, evaluation_mode
from proard.export.formats.base import Format, Source

IMAGES = 256
SQUARE_QUERIES = 200
STEPS = 20  # of projected gradient descent, if the evaluation's own attack is another one


@dataclass(frozen=True)
class FormatChecks:
    """What is needed to quantise a student and to measure the files.

    Attributes:
        calibration: validation images (N, C, H, W), for ranges of activations and for comparison with the student.
        batches: test images and labels on which every file is measured, on the student's device; read once.
        attack: of the evaluation; makes the student's adversarial images. None to measure nothing.
        seed: of the attacks.
        square_queries: of Square Attack on int8 files; 5000 in AutoAttack.
        static_batch: the one batch size of ONNX and ExecuTorch files; None for any (ExecuTorch: 1).
    """

    calibration: torch.Tensor | None = None
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()
    attack: Attack | None = None
    seed: int = 0
    square_queries: int = SQUARE_QUERIES
    static_batch: int | None = None

    def __post_init__(self) -> None:
        if self.square_queries < 2:
            raise ValueError(f"square_queries must be at least 2, got {self.square_queries}")
        if self.static_batch is not None and self.static_batch < 1:
            raise ValueError(f"static_batch must be at least 1, got {self.static_batch}")


@dataclass(frozen=True)
class _Attacked:
    """Test images, and what they became by the attack on the student."""

    images: torch.Tensor
    adversarial: torch.Tensor
    labels: torch.Tensor
    logits: torch.Tensor


def evaluate_formats(
    folder: Path,
    formats: Sequence[Format],
    student: nn.Module,
    source: Source,
    checks: FormatChecks,
    progress: Callable[[], Any] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Measure the written files on test images; the student's adversarial images are made once for all of them.

    Args:
        folder: where the files are.
        formats: to be measured.
        student: the float network, on the device of the test images.
        source: what the files were written from.
        checks: test images, attack, seed.
        progress: called after each file.

    Returns:
        By the format's name: ``agreement`` with the student, ``clean`` and ``robust``, for the card.

    Raises:
        AttackError: an attack returned images that are not admissible.
    """
    if checks.attack is None or not checks.batches or not formats:
        return {}
    attacked = _attack_student(student, checks, checks.attack)
    results = {}
    for entry in formats:
        results[entry.name] = _evaluate(entry, folder / entry.file, source, checks, attacked)
        progress()
    return results


def _attack_student(student: nn.Module, checks: FormatChecks, attack: Attack) -> list[_Attacked]:
    """Also of images that the student has wrong: an int8 file may have them right."""
    with evaluation_mode(student):
        parts = []
        generator: torch.Generator | None = None
        for images, labels in checks.batches:
            generator = generator or torch.Generator(images.device).manual_seed(checks.seed)
            adversarial = _run(attack, student, images, labels, generator)
            with torch.no_grad():
                parts.append(_Attacked(images, adversarial, labels, student(images)))
    return parts


def _evaluate(
    entry: Format, path: Path, source: Source, checks: FormatChecks, attacked: Sequence[_Attacked]
) -> dict[str, Any]:
    runner = entry.load(path)
    assert checks.attack is not None
    right: dict[str, list[torch.Tensor]] = {}
    differences, equal = [], []
    attacks: dict[str, tuple[Attack, nn.Module]] = {}
    if (surrogate := entry.surrogate(source)) is not None:
        threat = checks.attack.threat
        pgd = checks.attack if isinstance(checks.attack, PGD) else PGD(threat, steps=STEPS)
        attacks = {
            "straight_through": (pgd, surrogate),
            "square": (Square(threat, queries=checks.square_queries), runner),
        }
    generators: dict[str, torch.Generator] = {}
    for part in attacked:
        logits = {"clean": runner(part.images), "transfer": runner(part.adversarial)}
        for name, (attack, network) in attacks.items():
            generator = generators.setdefault(name, torch.Generator(part.images.device).manual_seed(checks.seed))
            logits[name] = runner(_run(attack, network, part.images, part.labels, generator))
        for name, values in logits.items():
            right.setdefault(name, []).append(values.argmax(1) == part.labels)
        differences.append((logits["clean"] - part.logits).abs().max())
        equal.append(logits["clean"].argmax(1) == part.logits.argmax(1))
    correct = {name: torch.cat(values) for name, values in right.items()}
    used = {"transfer": checks.attack, **{name: attack for name, (attack, _) in attacks.items()}}
    return {
        "seed": checks.seed,
        "agreement": {
            "images": len(correct["clean"]),
            "max_logit_difference": float(torch.stack(differences).max()),
            "equal_predictions": Accuracy.of(torch.cat(equal)).value,
        },
        "clean": Accuracy.of(correct["clean"]).as_dict(),
        "robust": {**combine(correct), "attacks": {name: attack_as_dict(attack) for name, attack in used.items()}},
    }


def combine(correct: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Accuracy after each attack, and that under all of them: per image the lowest counts.

    Args:
        correct: bool (N,) of the same images, under ``clean`` and under the name of each attack.

    Returns:
        For each attack an accuracy on images that were right before and after it, and ``lowest``.
    """
    clean = correct["clean"]
    after = {name: clean & values for name, values in correct.items() if name != "clean"}
    lowest = torch.stack([clean, *after.values()]).all(0)
    return {name: Accuracy.of(values).as_dict() for name, values in {**after, "lowest": lowest}.items()}


def _run(
    attack: Attack, network: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    adversarial = attack(network, images, labels, generator=generator)
    check_result(attack, adversarial, images)
    return adversarial
