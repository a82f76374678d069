"""One student of a run trained by itself: to compare with (`baseline`), or to go on from what was cut out (`finetune`).

"One training instead of N" is a claim about cost and accuracy. `baseline` measures both sides of it on the machine at
hand: the same architecture, images, objective, teacher and epochs, in a network of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proard.budgets import Budget
from proard.config import Config, PhaseConfig, StudentConfig, SupernetConfig, TeacherConfig
from proard.energy import EnergyMeter
from proard.errors import UserError
from proard.export import read_card
from proard.extraction import Extracted, Extractor, extract
from proard.files import write_json
from proard.run import Run
from proard.savings import Savings, Spent, savings, training_of
from proard.teachers import restore_largest
from proard.training import train
from proard.training.checkpoint import load_checkpoint

OWN_TO_SUPERNETS = ("classifiers", "batch_norms", "weights")  # options of a network with many students


@dataclass(frozen=True)
class Comparison:
    """A student cut from the supernet beside the same one trained alone.

    Attributes:
        budget: what it was asked for.
        extracted: the student directory of the one, and ``alone`` of the other.
        alone: see above.
        spent: on training it alone.
    """

    budget: str
    extracted: Path
    alone: Path
    spent: Spent

    def as_dict(self) -> dict[str, Any]:
        """With the accuracies of both, in [0, 1], and the difference extracted minus alone."""
        cards = {"extracted": read_card(self.extracted), "alone": read_card(self.alone)}
        values: dict[str, Any] = {
            "budget": self.budget,
            "multiply_adds": cards["alone"]["multiply_adds"],
            "seconds_alone": self.spent.seconds,
            "kwh_alone": self.spent.kwh,
            "kg_co2eq_alone": self.spent.kg_co2eq,
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
        """For ``baseline.json``."""
        spent, found = training_of(self.run), self.savings
        return {
            **self._table(),
            "seconds_of_the_run": spent.seconds,
            "kwh_of_the_run": spent.kwh,
            "kg_co2eq_of_the_run": spent.kg_co2eq,
            "break_even_budgets": found and found.break_even,
            "break_even_by": found and found.unit,
            "assumptions": list(found.assumptions) if found else [],
        }

    def _table(self) -> dict[str, Any]:
        rows = [comparison.as_dict() for comparison in self.comparisons]
        return {"comparisons": rows, "scale_epochs": self.scale_epochs}


def baseline(
    budgets: Sequence[Budget], *, run: str | Path | None = None, scale_epochs: float | None = None, quiet: bool = False
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

    Raises:
        UserError: no budget, a run that has not finished, or that has trained one student alone itself.
    """
    directory = Run.find(run)
    config = directory.config()
    if config.mode == "student":
        raise UserError(f"baseline: run {directory.path} trained one student alone already; give a supernet's run")
    if not budgets:
        raise UserError("baseline needs a budget, such as --flops 100M (or --params, --memory, --size)")
    state = load_checkpoint(directory.checkpoint)
    if not state["finished"]:
        raise UserError(
            f"baseline: run {directory.path} has not finished; 'proard train --resume --run {directory.path}' first"
        )
    missing = [budget for budget in budgets if not (directory.students / budget.name).exists()]
    if missing:
        extract(missing, run=directory.path, quiet=quiet)
    comparisons = []
    with EnergyMeter(config.energy, directory.energy, "baseline"):
        teacher = teacher_of(directory, config, state)
        for budget in budgets:
            extracted = directory.students / budget.name
            place = directory.path / "baselines" / budget.name
            card = read_card(extracted)
            alone = alone_config(config, card["architecture"], teacher)
            if scale_epochs is not None:
                alone = alone.scaled(scale_epochs)
            about = {"budget": card["budget"], "selection": {"method": "trained alone"}}
            student = train_alone(alone, place, directory.students / f"{budget.name}-alone", quiet, about)
            comparisons.append(Comparison(budget.name, extracted, student.path, training_of(Run(place))))
    result = Baseline(directory, comparisons, scale_epochs)
    write_json(directory.path / "baseline.json", result.as_dict())
    return result


def finetune(
    student: str | Path,
    epochs: int,
    *,
    run: str | Path | None = None,
    learning_rate_factor: float = 0.1,
    formats: Sequence[str] = (),
    quiet: bool = False,
) -> Extracted:
    """Go on training an extracted student by itself, and put the result in its place.

    Args:
        student: its directory; replaced only when the new one is complete.
        epochs: how many, at least 1.
        run: that it was cut from; default the newest.
        learning_rate_factor: of the run's last phase's learning rate, in (0, 1].
        formats: beside those that are always written.
        quiet: plain lines instead of a progress bar.

    Raises:
        UserError: fewer than one epoch, or a student of another run.
    """
    require_epochs(epochs)
    directory, folder = Run.find(run), Path(student)
    config = directory.config()
    card = read_card(folder)
    state = load_checkpoint(directory.checkpoint)
    alone = alone_config(config, card["architecture"], teacher_of(directory, config, state))
    last = alone.phases[-1]
    phase = last.model_copy(
        update={
            "name": "finetune",
            "epochs": epochs,
            "learning_rate": last.learning_rate * learning_rate_factor,
            "warmup_epochs": 0.0,
        }
    )
    begin = alone.student.model_copy(update={"weights": folder.absolute()})
    place = directory.path / "finetuned" / folder.name
    shutil.rmtree(place, ignore_errors=True)  # of an earlier, or interrupted, attempt: it began with other weights
    settings = alone.model_copy(update={"phases": (phase,), "student": begin})
    about = {"budget": card["budget"], "selection": card["selection"], "finetuned_epochs": epochs}
    with EnergyMeter(config.energy, directory.energy, "finetune"):
        return train_alone(settings, place, folder, quiet, about, formats)


def require_epochs(epochs: int) -> None:
    """Refuse fewer than one.

    Raises:
        UserError: fewer.
    """
    if epochs < 1:
        raise UserError(f"--finetune {epochs}: must be at least 1 epoch")


def alone_config(config: Config, architecture: dict[str, float], teacher: TeacherConfig) -> Config:
    """A run of `mode: student` that trains one architecture as a run's elastic phases did.

    Args:
        config: of the supernet's run.
        architecture: decisions and their values.
        teacher: what it learns from, where an objective needs one.
    """
    default = PhaseConfig(name="default", epochs=1, learning_rate=1.0)
    plain = {key: getattr(default, key) for key in ("elastic", "sampler", "crafting", "gradients", "refresh_teacher")}
    phases = [phase for phase in config.phases if phase.elastic] or list(config.phases)
    options = {key: value for key, value in config.supernet.options.items() if key not in OWN_TO_SUPERNETS}
    return config.model_copy(
        update={
            "mode": "student",
            "supernet": SupernetConfig(family=config.supernet.family, **options),
            "student": StudentConfig(architecture=architecture),
            "teacher": teacher,
            "phases": tuple(phase.model_copy(update=plain) for phase in phases),
        }
    )


def teacher_of(directory: Run, config: Config, state: dict[str, Any]) -> TeacherConfig:
    """The run's teacher in a form that another run can use; its own is written to ``RUN/teacher``.

    A jointly trained teacher is the largest student as it became in the end.
    """
    if config.teacher.source is not None:
        return config.teacher
    place = directory.path / "teacher"
    if not place.exists():
        extractor = Extractor(directory, quiet=True)
        largest = extractor.supernet.space.largest()
        if state["teacher"] is None:
            network = extractor.supernet.extract(largest, extractor.calibration)
        else:
            network = restore_largest(extractor.supernet, state["teacher"])
        extractor.write_network(place, network, largest, split="validation")
    return TeacherConfig(source=str(place.absolute()))


def train_alone(
    config: Config, place: Path, out: Path, quiet: bool, about: dict[str, Any], formats: Sequence[str] = ()
) -> Extracted:
    """Train, or go on training, a run of one student; measure it on test images, and write it to ``out``."""
    started = (place / "checkpoint.pt").exists()
    if not (started and load_checkpoint(place / "checkpoint.pt")["finished"]):
        train(config, run=place, resume=started, quiet=quiet)
    extractor = Extractor(Run(place), quiet)
    architecture = extractor.space.largest()  # the only one
    network = extractor.supernet.extract(architecture, extractor.calibration)
    return extractor.write_network(out, network, architecture, formats, about)
