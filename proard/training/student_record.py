"""What was sampled in an epoch and how it did, by bins of multiply-adds: what makes a sampler's work visible."""

from __future__ import annotations

from typing import Any

import torch

from proard.attacks.losses import cross_entropy, kl_divergence
from proard.common.distributed import mean_over_ranks
from proard.objectives import Outcome
from proard.samplers import Signals
from proard.supernet import Architecture, SearchSpace
from proard.supernet.cost_bins import CostBins
from proard.training.teachers import BatchTeacher

BINS = 6
COLUMNS = ("loss", "divergence", "clean", "robust")


def signals(outcome: Outcome, teacher: BatchTeacher | None, images: torch.Tensor, labels: torch.Tensor) -> Signals:
    """What an objective's outcome says about the student, averaged over the ranks; nothing waits for the device.

    Its divergence is from the teacher on the clean images, or from the labels where there is no teacher.
    """
    logits = outcome.clean_logits if outcome.adversarial_logits is None else outcome.adversarial_logits
    with torch.no_grad():
        if logits is None:
            divergence = outcome.loss.detach()
        elif teacher is None:
            divergence = cross_entropy(logits, labels).mean()
        else:
            divergence = kl_divergence(teacher(images).detach(), logits).mean()
        unknown = torch.full((), float("nan"), device=labels.device)
        seen = (outcome.clean_logits, outcome.adversarial_logits)
        right = [unknown if known is None else (known.argmax(1) == labels).float().mean() for known in seen]
        return Signals(*mean_over_ranks(torch.stack([value.float() for value in (divergence, *right)])).unbind())


class StudentRecord:
    """Sums over an epoch, on the device until they are read; then on all ranks together.

    Args:
        space: of the phase.
        device: of the sums.
    """

    def __init__(self, space: SearchSpace, device: torch.device) -> None:
        self.bins = CostBins(space, BINS)
        self.largest = space.largest()
        # A row per bin, and one more for the largest student, to compare with; columns in pairs: a sum and its count.
        self.sums = torch.zeros(len(self.bins) + 1, 2 * len(COLUMNS), dtype=torch.float64, device=device)

    def count(self, architecture: Architecture, loss: torch.Tensor, signals: Signals) -> None:
        """A student was trained."""
        found = (loss, signals.divergence, signals.clean, signals.robust)
        values = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=self.sums.device) for v in found])
        row = torch.stack(
            [values.nan_to_num(0.0, float("inf"), float("-inf")), (~values.isnan()).double()], 1
        ).flatten()
        row[:2] = torch.stack([values[0], torch.ones_like(values[0])])  # a loss that is NaN must be seen
        self.sums[self.bins.index(architecture)] += row
        if architecture == self.largest:
            self.sums[-1] += row

    def means(self) -> dict[str, float | None]:
        """Over all students so far: the loss, clean and robust training accuracy in [0, 1]; None: not measured."""
        totals = _means(mean_over_ranks(self.sums)[:-1].sum(0).tolist())
        return {name: totals[name] for name in ("loss", "clean", "robust")}

    def rows(self) -> list[dict[str, Any]]:
        """A row per bin: its multiply-adds, how often it was sampled, and means over its students.

        ``robust_gap`` is the divergence from the teacher on adversarial images (see `Signals`) beyond the largest
        student's, or None where either was not trained; accuracies are in [0, 1], None where not measured.
        """
        *bins, largest = mean_over_ranks(self.sums).tolist()
        reference = _means(largest)["divergence"]
        rows = []
        for sums, low, high in zip(bins, self.bins.edges, self.bins.edges[1:], strict=False):
            found = _means(sums)
            known = found["divergence"] is not None and reference is not None
            rows.append(
                {
                    "multiply_adds": [low, high],
                    "sampled": int(sums[1]),
                    "robust_gap": found["divergence"] - reference if known else None,
                    "clean": found["clean"],
                    "robust": found["robust"],
                }
            )
        return rows


def _means(sums: list[float]) -> dict[str, Any]:
    """By column; None without a count."""
    pairs = zip(sums[::2], sums[1::2], strict=True)
    return {name: total / count if count else None for name, (total, count) in zip(COLUMNS, pairs, strict=True)}
