"""Students that a command made or measured: a line of text for each, and a table for a terminal or a notebook."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from proard.common import html
from proard.common.errors import UserError
from proard.common.units import short
from proard.evaluation.accuracy import Accuracy
from proard.export.student_directory import family_of
from proard.supernet import Architecture
from proard.supernet.space import Picture


@dataclass(frozen=True, repr=False)
class MeasuredStudent:
    """A student directory, and its accuracies on some images: those on its card, where nothing else was measured.

    Attributes:
        path: of the directory.
        card: its student.json.
    """

    path: Path
    card: dict[str, Any]

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        """The accuracy ``clean``, and the robust ones by the name of the attack, some maybe on fewer images."""
        evaluation = self.card["evaluation"]
        robust = [*evaluation["robust"], *evaluation.get("further", [])]
        values = {"clean": evaluation["clean"], **{r["attack"]["name"]: r for r in robust}}
        return {name: Accuracy(value["correct"], value["images"]) for name, value in values.items()}

    @property
    def split(self) -> str:
        """The split whose images the accuracies are of: ``test`` or ``validation``."""
        return self.card["evaluation"]["split"]

    @property
    def architecture(self) -> Architecture:
        """The choices that make the student."""
        return Architecture(tuple(self.card["architecture"].items()))

    def row(self) -> dict[str, str]:
        """A line of a table: what the student costs, and its accuracies in per cent with the 95 % interval."""
        row = {
            "student": self.path.name,
            "multiply-adds": short(self.card["multiply_adds"]),
            "parameters": short(self.card["parameters"]),
        }
        for name, accuracy in self.accuracies.items():
            row[f"{name} %"] = accuracy.with_interval
        row["images"] = str(self.accuracies["clean"].total)
        return row

    def __repr__(self) -> str:
        accuracies = ", ".join(f"{name} {accuracy} %" for name, accuracy in self.accuracies.items())
        costs = ", ".join(
            f"{short(self.card[name])} {name.replace('_', '-')}" for name in ("multiply_adds", "parameters")
        )
        images = f"{self.accuracies['clean'].total} {self.split} images"
        return f"{type(self).__name__}({self.path.name}: {costs}, {accuracies} on {images})"

    def _repr_html_(self) -> str:
        """For notebooks: the student's stages, costs and accuracies."""
        shown: Architecture | Picture = self.architecture
        with suppress(UserError):  # a family that is not known here: in words alone
            shown = family_of(self.card).space().picture(self.architecture)
        return html.block(Results([self])._repr_html_(), shown._repr_html_() if len(self.architecture) else "")


S = TypeVar("S", bound=MeasuredStudent)


class Results(list[S]):
    """A list of students that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        """A row for every student."""
        rows = [student.row() for student in self]
        names = list(dict.fromkeys(name for row in rows for name in row))
        splits = " and ".join(dict.fromkeys(student.split for student in self))
        return html.block(
            html.table(names, [[row.get(name, "") for name in names] for row in rows]),
            html.lines([f"{splits} accuracy with 95 % interval; 1 multiply-add = 1 FLOP"] if rows else []),
        )
