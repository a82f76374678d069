"""The `zoo` command: the students that come with the package."""

from __future__ import annotations

from dataclasses import dataclass

from proard.commands.results import MeasuredStudent, Results
from proard.export.named import zoo as named_students
from proard.export.student_directory import read_card


@dataclass(frozen=True, repr=False)
class ZooStudent(MeasuredStudent):
    """A student of the zoo, with the accuracies on its card.

    Attributes:
        name: such as ``zoo:cifar10-jpeg/flops-10M``, by which every command knows it.
    """

    name: str

    def row(self) -> dict[str, str]:
        """A line of a table, which begins with the name."""
        return {**super().row(), "student": self.name}


def zoo() -> Results[ZooStudent]:
    """All students that come with the package, set by set, the cheapest of each first.

    Raises:
        UserError: a card or a file of one is damaged.
    """
    return Results(ZooStudent(folder, read_card(name), name) for name, folder in named_students().items())
