"""An architecture: one choice for every decision of a search space. A plain value, never the state of a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proard.common import html
from proard.common.errors import UserError
from proard.common.svg import in_words


@dataclass(frozen=True)
class Architecture(Mapping[str, float]):
    """Decision names to chosen values; immutable and hashable.

    Spaces make architectures in canonical form (decisions in the space's order, those that a shallow depth makes
    irrelevant left out), so that equal networks are equal architectures.

    Attributes:
        decisions: pairs of a decision's name and its value.
    """

    decisions: tuple[tuple[str, float], ...]

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
        """For notebooks: its stages in words; `SearchSpace.picture` draws them."""
        return html.block(html.lines(in_words(self)))

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


@dataclass(frozen=True)
class Decision:
    """One thing to choose.

    Attributes:
        name: unique, such as ``stage1.depth``.
        kind: ``width``, ``depth``, ``expand``, ``kernel`` ...: what the phases of a schedule unlock.
        choices: ascending; the largest is last.
        requires: name of a depth decision and the least value of it at which this decision matters, or None.
        same: pairs ``(choice, equal choice)`` for choices that build the same network, after rounding for instance;
            the canonical form has the second of each pair.
    """

    name: str
    kind: str
    choices: tuple[float, ...]
    requires: tuple[str, float] | None = None
    same: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.choices or list(self.choices) != sorted(set(self.choices)):
            raise UserError(f"decision {self.name}: choices must be ascending and differ, got {list(self.choices)}")

    def canonical(self, value: float) -> float:
        """The choice that stands for ``value``."""
        return dict(self.same).get(value, value)

    @property
    def distinct(self) -> tuple[float, ...]:
        """Choices that build different networks."""
        return tuple(dict.fromkeys(self.canonical(choice) for choice in self.choices))
