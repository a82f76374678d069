"""`proard baseline`: train the student of a budget alone, to compare with the one that was cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proard.commands.extract import extract
from proard.commands.results import MeasuredStudent
from proard.commands.single_student import alone_config, teacher_of, train_alone
from proard.common.errors import UserError
from proard.common.files import write_json
from proard.export.student_directory import read_card
from proard.runs.checkpoint import load_checkpoint
from proard.runs.compute import computed
from proard.runs.energy import EnergyMeter
from proard.runs.run import Run
from proard.runs.savings import Savings, Spent, savings, training_of
from proard.supernet.budgets import Budget, no_budget


@dataclass(frozen=True)
class Comparison:
    """A student cut from the supernet beside the same one trained alone.

    Attributes:
        budget: what it was asked for.
        extracted: the student that was cut out.
        alone: the one that was trained by itself.
        spent: on training it alone.
        multiply_adds: of that training; None: not counted.
    """

    budget: str
    extracted: MeasuredStudent
    alone: MeasuredStudent
    spent: Spent
    multiply_adds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The accuracies of both, in [0, 1], their difference (extracted minus alone), and what the latter took."""
        cards = {"extracted": self.extracted.card, "alone": self.alone.card}
        values: dict[str, Any] = {
            "budget": self.budget,
            "multiply_adds": cards["alone"]["multiply_adds"],
            "seconds_alone": self.spent.seconds,
            "kwh_alone": self.spent.kwh,
            "kg_co2eq_alone": self.spent.kg_co2eq,
            "training_multiply_adds_alone": self.multiply_adds,
        }
        for accuracy in ("clean_accuracy", "robust_accuracy"):
            values |= {f"{accuracy}_{name}": card[accuracy] for name, card in cards.items()}
            values[f"{accuracy}_difference"] = cards["extracted"][accuracy] - cards["alone"][accuracy]
        return values


@dataclass(frozen=True)
class Baseline:
    """Students of one training beside the same ones trained alone, and what both ways cost.

    Attributes:
        run: that all were cut from.
        comparisons: by budget.
        scale_epochs: by which the trainings alone were shortened; None: they were not.
    """

    run: Run
    comparisons: list[Comparison]
    scale_epochs: float | None = None

    @property
    def savings(self) -> Savings | None:
        """One training instead of N; None where the run's own training is not on record."""
        return savings(self.run, self._table())

    def as_dict(self) -> dict[str, Any]:
        """The content of ``baseline.json``."""
        spent, found = training_of(self.run), self.savings
        return {
            **self._table(),
            "seconds_of_the_run": spent.seconds,
            "kwh_of_the_run": spent.kwh,
            "kg_co2eq_of_the_run": spent.kg_co2eq,
            "training_multiply_adds_of_the_run": computed(self.run).multiply_adds,
            "break_even_budgets": found and found.break_even,
            "break_even_by": found and found.unit,
            "assumptions": list(found.assumptions) if found else [],
        }

    def _table(self) -> dict[str, Any]:
        rows = [comparison.as_dict() for comparison in self.comparisons]
        return {"comparisons": rows, "scale_epochs": self.scale_epochs}


def baseline(
    budgets: Sequence[Budget],
    *,
    run: str | Path | None = None,
    scale_epochs: float | None = None,
    quiet: bool = False,
    data_root: str | Path | None = None,
    data: Sequence[Any] | None = None,
) -> Baseline:
    """Train the student of every budget alone, and compare.

    Each gets what it had in the supernet: the architecture that ``proard extract`` chose (which is called for a budget
    without a student yet), the same images, teacher, objectives, learning rates and epochs; random weights to begin
    with. It is trained in ``RUN/baselines/<budget>``, where an interrupted training goes on when asked again; the
    student is ``RUN/students/<budget>-alone``, the table ``RUN/baseline.json``.

    Args:
        budgets: at least one.
        run: the run directory; default the newest.
        scale_epochs: shortens the trainings, which makes the comparison unfair to them; for a try.
        quiet: plain lines instead of progress bars.
        data_root: where the images are on this machine; default where the run says.
        data: the images, where the run's were arrays in memory; as of `train`.

    Raises:
        UserError: no budget, a run that has not finished, or that has trained one student alone itself.
    """
    directory = Run.find(run, data_root, data)
    config = directory.config()
    if config.mode == "student":
        raise UserError(f"baseline: run {directory.path} trained one student alone already; give a supernet's run")
    if not budgets:
        raise no_budget("baseline")
    state = load_checkpoint(directory.checkpoint)
    if not state["finished"]:
        raise UserError(
            f"baseline: run {directory.path} has not finished; 'proard train --resume --run {directory.path}' first"
        )
    missing = [budget for budget in budgets if not (directory.students / budget.name).exists()]
    if missing:
        extract(missing, run=directory.path, quiet=quiet, data_root=data_root, data=data)
    comparisons = []
    with EnergyMeter(config.energy, directory.energy, "baseline"):
        teacher = teacher_of(directory, config, state)
        for budget in budgets:
            folder = directory.students / budget.name
            place = directory.path / "baselines" / budget.name
            card = read_card(folder)
            alone = alone_config(config, card["architecture"], teacher)
            if scale_epochs is not None:
                alone = alone.scaled(scale_epochs)
            about = {"budget": card["budget"], "selection": {"method": "trained alone"}}
            student = train_alone(
                alone, place, directory.students / f"{budget.name}-alone", quiet, about, (), data_root, data
            )
            extracted = MeasuredStudent(folder, card)
            spent, multiply_adds = training_of(Run(place)), computed(Run(place)).multiply_adds
            comparisons.append(Comparison(budget.name, extracted, student, spent, multiply_adds))
    result = Baseline(directory, comparisons, scale_epochs)
    write_json(directory.path / "baseline.json", result.as_dict())
    return result
