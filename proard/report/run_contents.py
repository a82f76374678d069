"""The run that a report is about: what its files say, as plain values.

Every reader raises a `UserError` of one line where its data are missing, which names the command that makes them; the
page shows that line in place of the section.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from proard.common.budget_kinds import KINDS
from proard.common.errors import UserError
from proard.common.units import short
from proard.config import Config
from proard.data import DataSplits
from proard.evaluation.latency import LatencyTable
from proard.evaluation.latency.limits import TABLE
from proard.export.student_directory import CARD, family_of, read_card
from proard.runs.run import Run, read_metrics
from proard.runs.trained_run import TrainedRun
from proard.search.front import FILE as FRONT
from proard.search.front import Front, Point, load_front
from proard.search.labeller import Labeller
from proard.search.selection import Label, preference
from proard.supernet import Decision, SearchSpace

COSTS = {"multiply_adds": "multiply-adds", "parameters": "parameters"}
BUDGETS = {kind.field: name for name, kind in KINDS.items() if kind.field in COSTS}  # extract's option for each


@dataclass(frozen=True)
class Scores(Label):
    """Accuracies in [0, 1], clean and under an attack, and what they are of.

    Attributes:
        attack: the name of the attack.
        split: ``validation`` or ``test``.
        images: how many; None where not recorded.
        intervals: 95 % intervals by ``clean`` and ``robust``, where recorded.
    """

    attack: str
    split: str
    images: int | None = None
    intervals: Mapping[str, tuple[float, float]] | None = None

    @property
    def where(self) -> str:
        """In words, what the accuracies are of: attack, images and split."""
        images = "" if self.images is None else f"{self.images} "
        return f"{self.attack}, {images}{self.split} images"


@dataclass(frozen=True)
class Student:
    """A student and what is known of it.

    Attributes:
        name: for people.
        costs: by the names of `proard.supernet.cost.Cost`; at least ``multiply_adds``.
        architecture: decisions and values; None where not recorded.
        validation: accuracies on validation images, which choose, or None.
        test: accuracies on test images, or None.
        folder: its student directory, if it was extracted.
        alone: whether it was trained alone, for comparison.
    """

    name: str
    costs: Mapping[str, float]
    architecture: Mapping[str, float] | None = None
    validation: Scores | None = None
    test: Scores | None = None
    folder: Path | None = None
    alone: bool = False

    @property
    def key(self) -> str:
        """A text that equal architectures share; the name, where the architecture is not recorded."""
        return self.name if self.architecture is None else str(dict(self.architecture))


class RunContents:
    """A run, read part by part; what takes long is read once.

    Args:
        run: that was trained.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.notes: list[str] = []
        """What could not be read although it is there."""

    @cached_property
    def config(self) -> Config:
        """The resolved configuration, which fetches nothing."""
        config = self.run.config()
        return config.model_copy(update={"data": config.data.model_copy(update={"download": False})})

    @property
    def is_supernet(self) -> bool:
        """Whether there is more than one student."""
        return self.config.mode == "supernet"

    @cached_property
    def trained(self) -> TrainedRun:
        """The run's weights and images.

        Raises:
            UserError: one of them is missing or damaged.
        """
        return TrainedRun(self.run, self.config)

    @cached_property
    def data(self) -> DataSplits:
        """The run's images.

        Raises:
            UserError: they are not on this machine.
        """
        return self.trained.data if "trained" in self.__dict__ else self.run.images(self.config)

    @cached_property
    def space(self) -> SearchSpace | None:
        """What students there may be; None where neither the trained weights nor a student's card tell."""
        with suppress(UserError, OSError):
            return self.trained.supernet.space
        folders = [student.folder for student in self.students if student.folder is not None and not student.alone]
        with suppress(UserError):  # such as a family of the user's own, of a module that is not on this machine
            return family_of(read_card(folders[0])).space() if folders else None
        return None

    @property
    def decisions(self) -> Sequence[Decision]:
        """What varies between students; empty where it is not known."""
        return () if self.space is None else self.space.decisions

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; of an epoch that was trained again after an interruption, the last."""
        rows = {(row.get("kind"), row.get("phase"), row.get("epoch")): row for row in read_metrics(self.run.metrics)}
        return list(rows.values())

    @cached_property
    def students(self) -> list[Student]:
        """The students in students/, in order of multiply-adds; a damaged one is left out, and noted."""
        found = []
        for file in sorted(self.run.students.glob(f"*/{CARD}")):
            student = self._student(file.parent)
            found += [] if student is None else [student]
        return sorted(found, key=lambda student: student.costs["multiply_adds"])

    def _student(self, folder: Path) -> Student | None:
        try:
            return _extracted(read_card(folder), folder)
        except UserError as error:
            self.notes.append(str(error))
        except (KeyError, TypeError, IndexError):
            self.notes.append(f"student {folder / CARD}: not a card that this version of proard reads")
        return None

    @property
    def extracted(self) -> list[Student]:
        """Students without those that were trained alone.

        Raises:
            UserError: none was extracted.
        """
        found = [student for student in self.students if not student.alone]
        if not found:
            budget = f" --flops {self.typical_budget()}" if self.is_supernet else ""
            raise UserError(f"no student was extracted yet; 'proard extract --run {self.run.path}{budget}' does it")
        return found

    @cached_property
    def front(self) -> tuple[list[Student], dict[str, Any]]:
        """The students that `search` measured, in order of multiply-adds, and its report.

        Raises:
            UserError: there is no front, or it is damaged, or of other weights.
        """
        again = f"'proard search --run {self.run.path}' writes it"
        if not (self.run.path / FRONT).is_file():
            raise UserError(f"no {FRONT} yet; {again}")
        front, made_with = load_front(self.run.path)
        try:
            changed = Labeller(self.trained).fingerprint.differences(made_with)
        except (UserError, OSError) as error:
            self.notes.append(f"whether {FRONT} is of the present weights could not be checked: {error}")
            changed = []
        if changed:
            raise UserError(f"{FRONT} is of other {' or '.join(changed)}, and is not used; {again} again")
        return [_measured(front, point, number) for number, point in enumerate(front.measured, 1)], dict(front.report)

    @property
    def validated(self) -> list[Student]:
        """The students of the last validation while training, in order of multiply-adds."""
        rows = [row for row in self.metrics if row.get("kind") == "validation"]
        if not rows:
            return []
        ends: dict[str, Any] = {}
        if self.space is not None:
            ends = {"smallest": self.space.smallest(), "largest": self.space.largest()}
        found = []
        for name, measured in rows[-1]["students"].items():
            costs = {"multiply_adds": measured["multiply_adds"]}
            if name in ends and self.space is not None:
                costs["parameters"] = self.space.cost(ends[name]).parameters
            scores = Scores(measured["clean"], measured["robust"], rows[-1]["attack"], "validation")
            found.append(Student(f"{name}, validated", costs, ends.get(name), scores))
        return sorted(found, key=lambda student: student.costs["multiply_adds"])

    @property
    def candidates(self) -> tuple[list[Student], bool]:
        """Students to choose from by validation images, in order of multiply-adds; whether `search` measured them.

        Raises:
            UserError: there are none.
        """
        try:
            return self.front[0], True
        except UserError as error:
            known = [student for student in self.students if student.validation and not student.alone]
            # The same student may have been validated, and extracted for several budgets.
            distinct = {student.key: student for student in [*self.validated, *known]}
            if not distinct:
                raise error
            return sorted(distinct.values(), key=lambda student: student.costs["multiply_adds"]), False

    def read(self, name: str, command: str) -> dict[str, Any]:
        """A JSON file of the run directory.

        Raises:
            UserError: it is missing, with the command that makes it; or it is not JSON.
        """
        file = self.run.path / name
        if not file.is_file():
            raise UserError(f"no {name} yet; '{command} --run {self.run.path}' makes it")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("not an object")
        except (ValueError, OSError) as error:
            raise UserError(f"{name} cannot be read ({error}); '{command} --run {self.run.path}' writes it") from error
        return values

    def latency(self) -> LatencyTable:
        """The run's latency table.

        Raises:
            UserError: there is none.
        """
        if not (self.run.path / TABLE).is_file():
            raise UserError(f"no {TABLE} yet; 'proard profile --run {self.run.path}' measures this device")
        return LatencyTable.load(self.run.path / TABLE)

    def typical_budget(self) -> str:
        """Multiply-adds that a middle student has, such as ``1.2M``, for examples."""
        try:
            students, _ = self.candidates
        except UserError:
            return "100M"
        return short(students[len(students) // 2].costs["multiply_adds"], up=True)


def _extracted(card: dict[str, Any], folder: Path) -> Student:
    """A student directory, as its card describes it."""
    evaluation, selection = card["evaluation"], card.get("selection") or {}
    robust = evaluation["robust"][0]
    intervals = {name: tuple(row["interval_95"]) for name, row in (("clean", evaluation["clean"]), ("robust", robust))}
    test = Scores(
        evaluation["clean"]["accuracy"],
        robust["accuracy"],
        robust["attack"]["name"],
        evaluation.get("split", "test"),
        robust["images"],
        intervals,
    )
    chosen = None
    if "robust_accuracy" in selection:
        attack, images = selection["attack"]["name"], selection["images"]
        chosen = Scores(selection["clean_accuracy"], selection["robust_accuracy"], attack, "validation", images)
    names = ("multiply_adds", "parameters", "peak_activation_bytes", "bytes")
    costs = {name: card[name] for name in names if card.get(name) is not None}
    alone = selection.get("method") == "trained alone"
    return Student(folder.name, costs, card["architecture"], chosen, test, folder, alone)


def _measured(front: Front, point: Point, number: int) -> Student:
    """A student of the front, counted from 1."""
    costs = {name: value for name, value in asdict(point.cost).items() if value is not None}
    scores = Scores(point.label.clean, point.label.robust, front.attack["name"], "validation", front.images)
    return Student(f"student {number}", costs, dict(point.architecture), scores)


def best_within(students: Sequence[Student], cost: str) -> list[Student]:
    """For every limit on a cost the student that `extract` takes from these, in order of that cost; each once.

    Each is the best within every limit from its own cost on, up to that of the next. Students of unknown cost are left
    out.
    """
    known = [student for student in students if cost in student.costs and student.validation is not None]
    found: list[Student] = []
    for limit in sorted({student.costs[cost] for student in known}):
        best = max((student for student in known if student.costs[cost] <= limit), key=_preference)
        if not found or best is not found[-1]:
            found.append(best)
    return found


def _preference(student: Student) -> tuple[float, float]:
    """What `extract` compares students by, where nothing else is asked for."""
    assert student.validation is not None
    return preference("robust")(student.validation)
