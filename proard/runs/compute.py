"""What a run's training computed, from its metrics: multiply-adds by phase and purpose, and processor seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from proard.common.terminal import duration
from proard.common.units import short
from proard.runs.run import Run, read_metrics


@dataclass(frozen=True)
class Computed:
    """A whole training, counted as its networks ran.

    Attributes:
        phases: multiply-adds by the name of the phase, then by purpose (``attack``, ``update``, ``teacher``,
            ``validation``).
        processor_seconds: of all processes.
    """

    phases: dict[str, Counter[str]]
    processor_seconds: float

    @property
    def multiply_adds(self) -> float | None:
        """The sum; None where nothing was counted, as in runs of earlier versions."""
        return sum(phase.total() for phase in self.phases.values()) or None

    def __str__(self) -> str:
        """Such as ``1.28T multiply-adds (attack 55 %, update 36 %, teacher 9 %), 4 min of the processor``."""
        if self.multiply_adds is None:
            return "not counted"
        purposes = sum(self.phases.values(), Counter[str]())
        parts = ", ".join(f"{name} {100 * amount / self.multiply_adds:.0f} %" for name, amount in purposes.items())
        time = duration(self.processor_seconds)
        return f"{short(self.multiply_adds)} multiply-adds ({parts}), {time} of the processor"


def computed(run: Run) -> Computed:
    """What the training of a run computed so far.

    Args:
        run: with or without metrics.
    """
    phases: dict[str, Counter[str]] = {}
    rows = read_metrics(run.metrics)
    for row in rows:
        if "phase" in row:
            phases.setdefault(row["phase"], Counter()).update(row.get("compute", {}))
    return Computed(phases, sum(row.get("processor_seconds", 0.0) for row in rows))
