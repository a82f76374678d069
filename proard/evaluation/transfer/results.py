"""What a diagnosis found: numbers with intervals, as JSON and as a table."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from proard.attacks import Attack, ThreatModel
from proard.attacks.presets import attack_as_dict
from proard.common.terminal import table
from proard.evaluation.accuracy import Z_95, Accuracy

QUANTILES = (0.05, 0.5, 0.95)
NOT_A_CERTIFICATE = "not a certificate: local linearity and worst loss are estimated from below"
NETWORK_ROWS = {
    "loss": "cross-entropy",
    "linear_change": "largest linear change",
    "local_linearity": "local linearity measure",
    "bounded": "loss bounded below log 2 %",
    "contradicted": "  of these broken by the attack",
}
TRANSFER_ROWS = {
    "cosine": "input gradients: cosine",
    "gradient_distance": "input gradients: l2 distance",
    "loss_gap": "loss gap",
    "gradient_gap": "largest linear gap",
    "bound": "bound on the loss gap within eps",
    "teacher_worst_loss": "teacher's worst loss within eps",
    "bounded": "sum bounded below log 2 %",
    "contradicted": "  of these broken by the attack",
}


@dataclass(frozen=True)
class Summary:
    """A quantity over images.

    Attributes:
        mean: over the images.
        interval_95: of the mean, from the normal approximation.
        quantiles: over the images: 5 %, 50 % and 95 % of them are below.
    """

    mean: float
    interval_95: tuple[float, float]
    quantiles: tuple[float, float, float]

    @classmethod
    def of(cls, values: torch.Tensor) -> Summary:
        """Of one value per image (N,), N at least 2."""
        values = values.double().cpu()
        mean, half = float(values.mean()), Z_95 * float(values.std()) / len(values) ** 0.5
        low, middle, high = values.quantile(values.new_tensor(QUANTILES)).tolist()
        return cls(mean, (mean - half, mean + half), (low, middle, high))


@dataclass(frozen=True)
class NetworkDiagnostics:
    """Of one network; the formulas are in `proard.evaluation.transfer.Expansion`.

    Attributes:
        loss: cross-entropy on the clean images.
        linear_change: ``eps ||grad L||_dual``: what the gradient alone lets an attack add to the loss.
        local_linearity: the local linearity measure: what it may add beyond that; from below.
        bounded: images whose loss plus both is below log 2; not a certificate.
        contradicted: how many of those the attack broke at eps all the same: the local linearity was underestimated.
        curve: accuracy by radius; 0 is clean accuracy.
    """

    loss: Summary
    linear_change: Summary
    local_linearity: Summary
    bounded: Accuracy
    contradicted: int
    curve: dict[float, Accuracy]


@dataclass(frozen=True)
class TransferDiagnostics:
    """Of a student against its teacher; the formulas are in `proard.evaluation.transfer.bounds`.

    Attributes:
        cosine: between the input gradients of both.
        gradient_distance: l2 norm of their difference.
        loss_gap: ``|L_S - L_T|`` on the clean images.
        gradient_gap: ``eps ||grad L_S - grad L_T||_dual``.
        bound: on the difference of their losses within the radius: both gaps and both local linearities.
        teacher_worst_loss: the teacher's largest loss within the radius; from below.
        bounded: images where these two together are below log 2, so that the student inherits the teacher's
            robustness; not a certificate.
        contradicted: how many of those the attack on the student broke all the same.
    """

    cosine: Summary
    gradient_distance: Summary
    loss_gap: Summary
    gradient_gap: Summary
    bound: Summary
    teacher_worst_loss: Summary
    bounded: Accuracy
    contradicted: int


@dataclass(frozen=True)
class Diagnostics:
    """What `diagnose` measured, and how.

    Attributes:
        threat: norm, radius and bounds.
        attack: of the curves.
        steps: of each ascent to a local linearity or a worst loss.
        restarts: of each ascent.
        seed: of every random start.
        images: how many.
        student: the student alone.
        teacher: the teacher alone, if there is one.
        transfer: the student against the teacher, if there is one.
    """

    threat: ThreatModel
    attack: Attack
    steps: int
    restarts: int
    seed: int
    images: int
    student: NetworkDiagnostics
    teacher: NetworkDiagnostics | None = None
    transfer: TransferDiagnostics | None = None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {**_plain(self), "note": NOT_A_CERTIFICATE}

    def __str__(self) -> str:
        """Tables: means with 95 % intervals."""
        networks = {"student": self.student} | ({"teacher": self.teacher} if self.teacher else {})
        title = f"{self.images} images, {self.threat.norm} eps {self.threat.eps:.4g}; mean with 95 % interval"
        rows = [
            {"": label, **{of: _cell(getattr(each, name)) for of, each in networks.items()}}
            for name, label in NETWORK_ROWS.items()
        ]
        for eps in self.student.curve:
            label = "clean accuracy %" if eps == 0 else f"{self.attack.name} accuracy % at eps {eps:.4g}"
            rows.append({"": label, **{of: _cell(each.curve[eps]) for of, each in networks.items()}})
        lines = [title, *table(rows)]
        if self.transfer is not None:
            head = "student against teacher"
            found = {label: _cell(getattr(self.transfer, name)) for name, label in TRANSFER_ROWS.items()}
            lines += ["", *table([{head: label, "mean": cell} for label, cell in found.items()])]
        return "\n".join([*lines, NOT_A_CERTIFICATE])


def _plain(value: Any) -> Any:
    """Nested dataclasses as JSON; a curve as a list, since JSON's keys are text."""
    if isinstance(value, Accuracy):
        return value.as_dict()
    if isinstance(value, Attack):
        return attack_as_dict(value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return [{"eps": radius, **accuracy.as_dict()} for radius, accuracy in value.items()]
    return list(value) if isinstance(value, tuple) else value


def _cell(value: Summary | Accuracy | int) -> str:
    if isinstance(value, Accuracy):
        low, high = value.interval
        return f"{100 * value.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    if isinstance(value, Summary):
        low, high = value.interval_95
        return f"{value.mean:.3g} ({low:.3g} to {high:.3g})"
    return str(value)
