"""What a run's training computed, from its metrics: multiply-adds by phase and purpose, and processor seconds."""

from __future__ import annotations

from collections import defaultdict
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
        processor_seconds: of all processes; None where a row does not say.
    """

    phases: dict[str, dict[str, float]]
    processor_seconds: float | None

    @property
    def multiply_adds(self) -> float | None:
        """The sum; None where nothing was counted, as in runs of earlier versions."""
        return sum(sum(phase.values()) for phase in self.phases.values()) or None

    def __str__(self) -> str:
        """Such as ``1.28T multiply-adds (attack 55 %, update 36 %, teacher 9 %), 4 min of the processor``."""
        if self.multiply_adds is None or self.processor_seconds is None:
            return "not counted"
        purposes: dict[str, float] = defaultdict(float)
        for phase in self.phases.values():
            for purpose, amount in phase.items():
                purposes[purpose] += amount
        parts = ", ".join(f"{name} {100 * amount / self.multiply_adds:.0f} %" for name, amount in purposes.items())
        time = duration(self.processor_seconds)
        return f"{short(self.multiply_adds)} multiply-adds ({parts}), {time} of the processor"


def computed(run: Run) -> Computed:
    """What the training of a run computed so far.

    Args:
        run: with or without metrics.
    """
    phases: dict[str, dict[str, float]] = {}
    seconds: float | None = 0.0
    for row in read_metrics(run.metrics):
        amounts = phases.setdefault(row["phase"], defaultdict(float))
        for purpose, amount in row.get("compute", {}).items():
            amounts[purpose] += amount
        seconds = None if seconds is None or "processor_seconds" not in row else seconds + row["processor_seconds"]
    return Computed({name: dict(amounts) for name, amounts in phases.items()}, seconds)
