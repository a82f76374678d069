"""One training instead of N: what both ways cost, from what was measured, and what that assumes.

The one way is the run: its training, its search if there was one, and an extraction for every budget. The other is a
training for every budget, as `proard baseline` makes them; what nobody measured is not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from proard.common.units import how_many, short
from proard.runs.compute import computed
from proard.runs.energy import WORLD_AVERAGE
from proard.runs.run import Run

STUDENTS = (1, 2, 5, 10, 20, 50)
NOT_COUNTED = (
    "Not counted: making the hardware, cooling and losses of the power supply (PUE), disks and network, and the time "
    "between commands. Counted in: whatever else the machine did at the same time."
)


@dataclass(frozen=True)
class Spent:
    """What some work took: time, energy, and CO2eq where it is known.

    Attributes:
        seconds: of the clock.
        kwh: None where not measured, ``kg_co2eq`` likewise.
        kg_co2eq: CO2eq of that energy.
    """

    seconds: float
    kwh: float | None
    kg_co2eq: float | None

    def __add__(self, other: Spent) -> Spent:
        pairs = [(self.kwh, other.kwh), (self.kg_co2eq, other.kg_co2eq)]
        sums = [None if a is None or b is None else a + b for a, b in pairs]
        return Spent(self.seconds + other.seconds, *sums)

    def times(self, factor: float) -> Spent:
        """What it takes to do the same so many times."""
        energies = [None if value is None else factor * value for value in (self.kwh, self.kg_co2eq)]
        return Spent(factor * self.seconds, *energies)


NOTHING = Spent(0.0, 0.0, 0.0)


def entries(run: Run, *commands: str) -> list[dict[str, Any]]:
    """The entries of some commands in a run's ``energy.json``, in order; none where there is no file.

    Raises:
        ValueError: the file is damaged; also KeyError, TypeError.
    """
    found = json.loads(run.energy.read_text(encoding="utf-8"))["commands"] if run.energy.exists() else []
    return [entry for entry in found if entry["command"] in commands]


def total(found: Iterable[Mapping[str, Any]]) -> Spent:
    """The sum of entries; the energy is unknown if that of one is."""
    return sum((Spent(e["seconds"], e["kwh"], e["kg_co2eq"]) for e in found), NOTHING)


def training_of(run: Run) -> Spent:
    """All that ``train`` did in a run."""
    return total(entries(run, "train"))


@dataclass(frozen=True)
class Savings:
    """What N students cost in both ways: one training and N extractions, or a training for each.

    Attributes:
        once: of the one training: what is spent whatever the number of students.
        extraction: for each student.
        alone: for each student, trained by itself: a mean.
        assumptions: sentences without which the numbers mean nothing.
        trainings: how many trainings alone the one, its teacher included, is worth in multiply-adds; None: not counted.
    """

    once: Spent
    extraction: Spent
    alone: Spent
    assumptions: tuple[str, ...]
    trainings: float | None = None

    def one(self, students: int) -> Spent:
        """What one training and so many extractions take."""
        return self.once + self.extraction.times(students)

    def separate(self, students: int) -> Spent:
        """What so many separate trainings take."""
        return self.alone.times(students)

    @property
    def unit(self) -> str:
        """In what the ways are compared: ``kwh`` if both are measured, else ``seconds``."""
        return "seconds" if None in (self.once.kwh, self.extraction.kwh, self.alone.kwh) else "kwh"

    @property
    def break_even(self) -> float | None:
        """From how many students on the one training is cheaper, by `unit`; None: never."""
        once, each, alone = (getattr(part, self.unit) for part in (self.once, self.extraction, self.alone))
        return once / (alone - each) if alone > each else None

    @property
    def conclusion(self) -> str:
        """The comparison in a sentence: from how many students on the one training is cheaper."""
        by = "energy" if self.unit == "kwh" else "time"
        trainings = (
            "" if self.trainings is None else f" In multiply-adds it is worth {self.trainings:.1f} trainings alone."
        )
        if self.break_even is None:
            cheaper = f"By {by} one training is never cheaper: to extract a student costs as much as to train it alone."
        else:
            cheaper = f"By {by} one training is cheaper from {self.break_even:.1f} students on."
        return cheaper + trainings

    def rows(self) -> list[list[str]]:
        """For a table: students, then seconds, Wh and g CO2eq of the one training, and of one for each."""
        return [[str(n), *_cells(self.one(n)), *_cells(self.separate(n))] for n in STUDENTS]


HEAD = (
    "students",
    *(f"one training, {unit}" for unit in ("s", "Wh", "g CO2eq")),
    *(f"one each, {unit}" for unit in ("s", "Wh", "g CO2eq")),
)


def savings(run: Run, baseline: Mapping[str, Any]) -> Savings | None:
    """What a run saves; None where its own training is not on record.

    Args:
        run: of a supernet.
        baseline: what ``baseline.json`` says.

    Raises:
        KeyError: a damaged file; also TypeError, ValueError, ZeroDivisionError.
    """
    trained, searched, extracted = (entries(run, name) for name in ("train", "search", "extract"))
    if not trained:
        return None
    comparisons = baseline["comparisons"]
    students = sum(entry.get("students", 1) for entry in extracted)
    alone = [Spent(c["seconds_alone"], c["kwh_alone"], c.get("kg_co2eq_alone")) for c in comparisons]
    each = total(extracted).times(1 / students) if extracted else NOTHING
    named = ", ".join(comparison["budget"] for comparison in comparisons)
    search = (
        " and the search" if searched else " (no 'proard search', after which an extraction measures no candidates)"
    )
    assumptions = [
        f"One training is all that 'proard train' did in this run, its teacher included{search}; then "
        + (f"an extraction for each student, the mean of {students}." if extracted else "extractions, none on record."),
        f"A training for each is assumed to cost the mean of the {len(alone)} that 'proard baseline' really made "
        f"({named}). Neither the run's teacher, which they were given, nor measuring and writing the student, which is "
        "part of an extraction, is charged to them.",
        *_shortened(baseline.get("scale_epochs")),
        *_electricity([*trained, *searched, *extracted]),
        *_measured([*trained, *searched, *extracted]),
        *_machines(run, [comparison["budget"] for comparison in comparisons]),
        NOT_COUNTED,
    ]
    mean = sum(alone, NOTHING).times(1 / len(alone))
    spent = [computed(run).multiply_adds, *(c.get("training_multiply_adds_alone") for c in comparisons)]
    counted = [amount for amount in spent if amount is not None]
    trainings = counted[0] / fmean(counted[1:]) if len(counted) == len(spent) else None
    return Savings(total([*trained, *searched]), each, mean, tuple(assumptions), trainings)


def _shortened(factor: float | None) -> list[str]:
    if factor is None or factor == 1:
        return []
    return [
        f"The separate trainings were made {factor:g} times as long as the run's (--scale-epochs): not a fair price."
    ]


def _electricity(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The assumption about electricity: of which country, and how much CO2eq it stands for."""
    sources = dict.fromkeys(
        f"{entry['country'] or f'the world average (energy.country is not set; IEA 2019: {WORLD_AVERAGE:g})'}"
        + (f" ({entry['carbon_intensity_kg_per_kwh']:.3g} kg per kWh, codecarbon's data)" if entry["country"] else "")
        for entry in found
        if entry["carbon_intensity_kg_per_kwh"] is not None
    )
    return [f"CO2eq is the energy times the carbon intensity of the electricity of {' | '.join(sources)}."] * bool(
        sources
    )


def _measured(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The assumption about energy: how each figure was measured or estimated."""
    ways = " | ".join(dict.fromkeys(str(entry["how_measured"]) for entry in found))
    if all(entry["kwh"] is None for entry in found):
        return [f"Energy is unknown, so only times are compared: {ways}."]
    return [f"Energy, by codecarbon for the whole machine: {ways}."]


def _machines(run: Run, budgets: Iterable[str]) -> list[str]:
    """A warning, where the trainings were on different ones."""
    seen = dict.fromkeys(map(_machine, (run.path, *(run.path / "baselines" / budget for budget in budgets))))
    seen.pop("", None)
    return [f"Not of one machine, so times cannot be compared: {' | '.join(seen)}."] * (len(seen) > 1)


def _machine(path: Path) -> str:
    try:
        environment = json.loads(Run(path).environment.read_text(encoding="utf-8"))
        threads = how_many(environment["threads"], "thread")
        return str(environment["cuda_device"] or f"{environment['processor']}, {threads}")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def compared(comparison: Mapping[str, Any]) -> dict[str, str]:
    """A table's row: a student that was cut out beside the same one trained alone, clean / robust, by column.

    Args:
        comparison: an entry of ``baseline.json``.
    """
    pairs = {
        name: f"{100 * comparison[f'clean_accuracy_{name}']:.1f} / {100 * comparison[f'robust_accuracy_{name}']:.1f}"
        for name in ("extracted", "alone")
    }
    return {
        "budget": comparison["budget"],
        "multiply-adds": short(comparison["multiply_adds"]),
        **{f"{name} %": pair for name, pair in pairs.items()},
        "difference": f"{100 * comparison['robust_accuracy_difference']:+.1f}",
        "alone s": f"{comparison['seconds_alone']:.0f}",
        "alone Wh": thousandths(comparison["kwh_alone"]),
    }


def _cells(spent: Spent) -> list[str]:
    return [f"{spent.seconds:.0f}", *(thousandths(value) for value in (spent.kwh, spent.kg_co2eq))]


def thousandths(value: float | None) -> str:
    """Kilowatt hours in Wh, or kilograms in g."""
    return "not measured" if value is None else f"{1000 * value:.3g}"
