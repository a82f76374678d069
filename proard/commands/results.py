"""Students that a command made or measured: a line of text for each, and a table for a terminal or a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from proard.common import html
from proard.common.errors import UserError
from proard.common.units import short
from proard.evaluation.accuracy import Accuracy
from proard.supernet import Architecture, families


class MeasuredStudent(ABC):
    """A student directory with its card, and accuracies on some images."""

    path: Path
    card: dict[str, Any]

    @property
    @abstractmethod
    def accuracies(self) -> Mapping[str, Accuracy]:
        """``clean``, and robust accuracy by the name of the attack."""

    @property
    def architecture(self) -> Architecture:
        """What the student is; of a space that can be drawn, if its family is known here."""
        options = {"num_classes": self.card["num_classes"], "input_shape": self.card["input_shape"]}
        try:
            family = families.build(self.card["family"], {**self.card["family_options"], **options})
            return family.space().canonical(self.card["architecture"])
        except UserError:
            return Architecture(tuple(self.card["architecture"].items()))

    def row(self) -> dict[str, str]:
        """A line of a table: what the student costs, and its accuracies in per cent with the 95 % interval."""
        row = {
            "student": self.path.name,
            "multiply-adds": short(self.card["multiply_adds"]),
            "parameters": short(self.card["parameters"]),
        }
        for name, accuracy in self.accuracies.items():
            low, high = accuracy.interval
            row[f"{name} %"] = f"{100 * accuracy.value:.1f} ({100 * low:.1f}-{100 * high:.1f})"
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
        architecture = self.architecture
        picture = architecture._repr_html_() if len(architecture) else ""
        return html.block(Results([self])._repr_html_(), picture)

    @property
    def split(self) -> str:
        """Of the images that the accuracies are of."""
        return "test"


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
