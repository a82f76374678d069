"""The measured front of a run, ``front.json``: what `search` writes and `extract` chooses from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proard.common import html
from proard.common.errors import UserError, reason
from proard.common.files import write_json
from proard.common.svg import CLEAN, MUTED, ROBUST, Series, accuracy_svg
from proard.common.units import short
from proard.search.labels import Fingerprint, MeasuredLabel
from proard.search.selection import Label, Prefer, preference
from proard.supernet import Architecture, SearchSpace
from proard.supernet.budgets import Limits
from proard.supernet.cost import Cost

FORMAT = 1
FILE = "front.json"
MOST_ROWS = 12  # of a table for people
HEAD = ("multiply-adds", "parameters", "clean %", "robust %")
COVERED = 0.5  # a limit is covered where a measured student uses at least this share of it


@dataclass(frozen=True)
class Point:
    """A student that was measured: what it is, its accuracies on validation images, and what it costs."""

    architecture: Architecture
    label: Label
    cost: Cost


@dataclass(frozen=True)
class Front:
    """All measured students of a run.

    Attributes:
        measured: in order of multiply-adds.
        images: validation images per label.
        attack: of the robust accuracies, for JSON.
        report: what `search` said about its predictor, for JSON.
    """

    measured: tuple[Point, ...]
    images: int
    attack: Mapping[str, Any]
    report: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Front({self._summary()})"

    def _repr_html_(self) -> str:
        """For notebooks: accuracies against multiply-adds, and the front as a table."""
        best = self.best(("multiply_adds",))
        others = [point for point in self.measured if point not in set(best)]
        shown = [("other students, robust", MUTED, others), ("clean", CLEAN, best), ("robust", ROBUST, best)]
        series = [
            Series(
                name,
                colour,
                [(p.cost.multiply_adds, p.label.clean if name == "clean" else p.label.robust) for p in points],
                small=points is others,
            )
            for name, colour, points in shown
            if points
        ]
        rest = [] if len(best) <= MOST_ROWS else [f"{MOST_ROWS} of the {len(best)} on the front:"]
        drawing = accuracy_svg(series, "multiply-adds per image (1 multiply-add = 1 FLOP)")
        return html.block(
            html.paragraph(self._summary()),
            html.picture(drawing, "accuracy over multiply-adds"),
            html.lines(rest),
            html.table(HEAD, table_rows(best)),
        )

    def _summary(self) -> str:
        """How many students, how they were measured, and how many of them are best."""
        threat = self.attack["threat"]
        attack = f"{self.attack['name']}, {threat['norm']}, eps {threat['eps']:.3g}"
        best = len(self.best(("multiply_adds",)))
        return (
            f"{len(self.measured)} students on {self.images} validation images, robust: {attack}; {best} on the front "
            "of clean and robust accuracy and multiply-adds"
        )

    def best(self, costs: Sequence[str] | None = None) -> tuple[Point, ...]:
        """The students that no other one dominates in accuracies and costs, in order of multiply-adds.

        Args:
            costs: names of the costs; default all that are known. The best student within any limits on them is one
                of these.
        """
        names = [name for name, value in asdict(self.measured[0].cost).items() if value is not None]
        rows = [
            [-p.label.clean, -p.label.robust, *(float(getattr(p.cost, n)) for n in costs or names)]
            for p in self.measured
        ]
        return tuple(p for p, fine in zip(self.measured, undominated(np.array(rows)), strict=True) if fine)

    def choose(self, limits: Limits, prefer: Prefer, cost: Callable[[Architecture], Cost]) -> Point | None:
        """The measured student within the limits that is best, or None where none fits.

        Args:
            limits: on its cost.
            prefer: which accuracy decides.
            cost: of an architecture; may know more than was stored, such as the latency of this device.
        """
        score = preference(prefer)
        fitting = [point for point in self.measured if limits.admits(cost(point.architecture))]
        return max(fitting, key=lambda point: score(point.label), default=None)

    def covers(self, limits: Limits, cost: Callable[[Architecture], Cost]) -> bool:
        """Whether a measured student comes near one of the limits, or none of them binds."""
        fitting = [c for c in (cost(point.architecture) for point in self.measured) if limits.admits(c)]
        if len(fitting) == len(self.measured):
            return True
        return any(budget.value(c) >= COVERED * budget.limit for c in fitting for budget in limits.budgets)


def table_rows(points: Sequence[Point]) -> list[list[str]]:
    """Texts below `HEAD` of at most `MOST_ROWS` of the points, evenly chosen, with both ends."""
    if len(points) > MOST_ROWS:
        points = [points[round(i * (len(points) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]
    return [
        [
            short(point.cost.multiply_adds),
            short(point.cost.parameters),
            f"{100 * point.label.clean:.1f}",
            f"{100 * point.label.robust:.1f}",
        ]
        for point in points
    ]


def undominated(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which rows (N, K) no other row is at least as low as in every column, and lower in one; (N,)."""
    return np.array([not ((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any() for row in rows], dtype=bool)


def write_front(
    folder: Path,
    fingerprint: Fingerprint,
    space: SearchSpace,
    labels: Mapping[Architecture, MeasuredLabel],
    report: Mapping[str, Any],
) -> Front:
    """Write all labels with their costs, and whether each is on the front of accuracies and costs.

    Args:
        folder: the run directory.
        fingerprint: of the labels.
        space: whose costs are written.
        labels: at least one.
        report: about the search, for JSON.

    Raises:
        OSError: it cannot be written; an older front stays as it was.
    """
    points = sorted(
        (Point(architecture, label, space.cost(architecture)) for architecture, label in labels.items()),
        key=lambda point: (point.cost.multiply_adds, point.architecture.to_json()),
    )
    images = next(iter(labels.values())).images
    front = Front(tuple(points), images, fingerprint.of["attack"], report)
    best = set(front.best())
    rows = [
        {
            "architecture": dict(point.architecture.decisions),
            "clean": point.label.clean,
            "robust": point.label.robust,
            "front": point in best,
            **{name: value for name, value in asdict(point.cost).items() if value is not None},
        }
        for point in points
    ]
    write_json(
        folder / FILE,
        {
            "format": FORMAT,
            "split": "validation",
            "images": images,
            "attack": fingerprint.of["attack"],
            "report": report,
            "fingerprint": fingerprint.of,
            "students": rows,
        },
    )
    return front


def load_front(folder: Path) -> tuple[Front, Mapping[str, Any]]:
    """The front as a run's file has it, and the fingerprint of its labels; nothing is compared with the run.

    Raises:
        UserError: the file is missing or damaged.
    """
    costs = [field.name for field in fields(Cost)]
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, this version of proard reads {FORMAT}")
        points = [
            Point(
                Architecture(tuple(row["architecture"].items())),
                Label(float(row["clean"]), float(row["robust"])),
                Cost(**{name: row[name] for name in costs if name in row}),
            )
            for row in values["students"]
        ]
        if not points:
            raise ValueError("it has no students")
        attack, report, made_with = (dict(values[name]) for name in ("attack", "report", "fingerprint"))
        if "name" not in attack:
            raise KeyError("name")
        return Front(tuple(points), int(values["images"]), attack, report), made_with
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> UserError:
    problem = reason(error)
    return UserError(f"{folder / FILE}: not a front ({problem}); remove it, or write it again with 'proard search'")


def read_front(folder: Path, fingerprint: Fingerprint, space: SearchSpace) -> tuple[Front | None, list[str]]:
    """The front of a run, if it has one that fits; and what differs, if it has one that does not.

    Raises:
        UserError: the file is damaged.
    """
    if not (folder / FILE).is_file():
        return None, []
    front, made_with = load_front(folder)
    if changed := fingerprint.differences(made_with):
        return None, changed
    try:
        architectures = [space.canonical(point.architecture) for point in front.measured]
    except UserError as error:
        raise _damaged(folder, error) from error
    points = [
        Point(architecture, point.label, space.cost(architecture))
        for point, architecture in zip(front.measured, architectures, strict=True)
    ]
    return replace(front, measured=tuple(points)), []
