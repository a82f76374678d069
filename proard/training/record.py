"""What was sampled in an epoch and how it did, by bins of multiply-adds: what makes a sampler's work visible."""

from __future__ import annotations

from typing import Any

import torch

from proard.distributed import mean_over_ranks
from proard.losses import cross_entropy, kl_divergence
from proard.objectives import Outcome
from proard.samplers import Signals
from proard.supernet import Architecture, SearchSpace
from proard.supernet.bins import CostBins
from proard.teachers import BatchTeacher

BINS = 6
COLUMNS = ("sampled", "divergence", "clean", "clean_students", "robust", "robust_students")


def divergence(
    logits: torch.Tensor, teacher: BatchTeacher | None, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Of a student's logits (N, K) from the teacher's on the clean images; from the labels (N,) without a teacher."""
    values = cross_entropy(logits, labels) if teacher is None else kl_divergence(teacher(images).detach(), logits)
    return values.mean()


def signals(outcome: Outcome, teacher: BatchTeacher | None, images: torch.Tensor, labels: torch.Tensor) -> Signals:
    """What an objective's outcome says about the student, averaged over the ranks; nothing waits for the device."""
    logits = outcome.clean_logits if outcome.adversarial_logits is None else outcome.adversarial_logits
    with torch.no_grad():
        unknown = torch.full((), float("nan"), device=labels.device)
        values = [outcome.loss.detach() if logits is None else divergence(logits, teacher, images, labels)]
        seen = (outcome.clean_logits, outcome.adversarial_logits)
        values += [unknown if known is None else (known.argmax(1) == labels).float().mean() for known in seen]
        return Signals(*mean_over_ranks(torch.stack([value.float() for value in values])).unbind())


class StudentRecord:
    """Sums over an epoch, on the device until they are read.

    Args:
        space: of the phase.
        device: of the sums.
    """

    def __init__(self, space: SearchSpace, device: torch.device) -> None:
        self.bins = CostBins(space, BINS)
        self.largest = space.largest()
        self.sums = torch.zeros(len(self.bins) + 1, len(COLUMNS), dtype=torch.float64, device=device)

    def count(self, architecture: Architecture, signals: Signals) -> None:
        """A student was trained; the largest is counted once more in a row of its own, to compare with."""
        values = torch.stack(
            [torch.as_tensor(v, dtype=torch.float64, device=self.sums.device) for v in (signals.clean, signals.robust)]
        )
        known = ~values.isnan()
        row = torch.ones_like(self.sums[0])
        row[1] = signals.divergence
        row[2::2], row[3::2] = values.nan_to_num(0.0), known.double()
        self.sums[self.bins.index(architecture)] += row
        if architecture == self.largest:
            self.sums[-1] += row

    def rows(self) -> list[dict[str, Any]]:
        """A row per bin: its multiply-adds, how often it was sampled, and means over its students.

        ``robust_gap`` is the divergence from the teacher on adversarial images (see `Signals`) beyond the largest
        student's, or None where either was not trained; accuracies are in [0, 1], None where not measured.
        """
        *bins, largest = [dict(zip(COLUMNS, values, strict=True)) for values in self.sums.tolist()]

        def mean(values: dict[str, float], name: str, count: str) -> float | None:
            return values[name] / values[count] if values[count] else None

        reference = mean(largest, "divergence", "sampled")
        rows = []
        for values, low, high in zip(bins, self.bins.edges, self.bins.edges[1:], strict=False):
            divergence = mean(values, "divergence", "sampled")
            gap = None if divergence is None or reference is None else divergence - reference
            rows.append(
                {
                    "multiply_adds": [low, high],
                    "sampled": int(values["sampled"]),
                    "robust_gap": gap,
                    "clean": mean(values, "clean", "clean_students"),
                    "robust": mean(values, "robust", "robust_students"),
                }
            )
        return rows
