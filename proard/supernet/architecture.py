"""An architecture: one choice for every decision of a search space. A plain value, never the state of a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proard import html
from proard.drawing import in_words, stages_svg
from proard.errors import UserError

if TYPE_CHECKING:
    from proard.supernet.space import Decision


@dataclass(frozen=True)
class Architecture(Mapping[str, float]):
    """Decision names to chosen values; immutable and hashable.

    Spaces make architectures in canonical form (decisions in the space's order, those that a shallow depth makes
    irrelevant left out), so that equal networks are equal architectures.

    Attributes:
        decisions: pairs of a decision's name and its value.
        among: the decisions of the space that made it, where one did. They are no part of the value: a notebook draws
            the architecture beside the largest one of that space.
    """

    decisions: tuple[tuple[str, float], ...]
    among: tuple[Decision, ...] = field(default=(), compare=False, repr=False)

    def __getitem__(self, name: str) -> float:
        for decision, value in self.decisions:
            if decision == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)

    def __repr__(self) -> str:
        return f"Architecture({', '.join(f'{name}={value:g}' for name, value in self.decisions)})"

    def __str__(self) -> str:
        return "; ".join(in_words(self))

    def _repr_html_(self) -> str:
        """For notebooks: its stages as a picture, if a space made it, and in words."""
        picture = stages_svg(self.among, self) if self.among else ""
        return html.block(picture, html.lines(in_words(self)))

    def to_json(self) -> str:
        """JSON text: an object from decision names to values."""
        return json.dumps(dict(self.decisions))

    @staticmethod
    def from_json(text: str) -> Architecture:
        """Read what `to_json` wrote.

        Raises:
            UserError: not a JSON object of numbers.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"architecture: not valid JSON ({error})") from error
        if not isinstance(values, dict) or not all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()
        ):
            raise UserError("architecture: expected a JSON object from decision names to numbers")
        return Architecture(tuple(values.items()))
