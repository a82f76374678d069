"""Search spaces: an ordered list of named decisions, and all that can be done with architectures, for every family.

Sampling, counting, mutation, crossover, encoding and the progressive phases are written once, here, over decisions.
This module knows neither torch nor any family.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from proard.common import html
from proard.common.errors import UserError, nearest
from proard.common.svg import in_words, stage_of, stages_svg
from proard.common.units import short
from proard.supernet.architecture import Architecture, Decision
from proard.supernet.cost import Cost

LEGEND = (
    "a bar is a block, its height the width, its breadth the expansion; filled: the smallest student, outline: the "
    "largest"
)


@dataclass(frozen=True, repr=False)
class Picture:
    """An architecture of a space, drawn in a notebook and in words anywhere else.

    Attributes:
        architecture: that is drawn.
        decisions: of the space, whose largest architecture is the outline.
    """

    architecture: Architecture
    decisions: tuple[Decision, ...]

    def __repr__(self) -> str:
        return str(self.architecture)

    def _repr_html_(self) -> str:
        """For notebooks: the stages as bars, and in words."""
        drawing = stages_svg(self.decisions, self.architecture) if self.decisions else ""
        return html.block(drawing, html.lines(in_words(self.architecture)))


class SearchSpace:
    """All architectures of a family.

    Args:
        decisions: in the order of the network; a depth decision stands before those that require it.
        cost: computes an architecture's cost from its plan.
    """

    def __init__(self, decisions: Sequence[Decision], cost: Callable[[Architecture], Cost]) -> None:
        self.decisions = tuple(decisions)
        self._by_name = {decision.name: decision for decision in self.decisions}
        self._cost = cost
        if len(self._by_name) < len(self.decisions):
            raise ValueError("decision names must differ")

    def __repr__(self) -> str:
        kinds = ", ".join(self.kinds)
        return f"SearchSpace({len(self.decisions)} decisions of kinds {kinds}; {self.size:.3g} architectures)"

    def _repr_html_(self) -> str:
        """For notebooks: how many students, what they cost, a picture of the two ends, and the decisions."""
        if not self.decisions:
            return html.block(html.paragraph(f"one fixed network, {self.cost_range}"))
        count = f"{self.size:,}" if self.size < 10**6 else f"{self.size:.3g}"
        students = "1 student" if self.size == 1 else f"{count} different students"
        return html.block(
            html.paragraph(f"{len(self.decisions)} decisions ({', '.join(self.kinds)}), {students}, {self.cost_range}"),
            stages_svg(self.decisions, self.smallest()),
            html.lines([LEGEND] if self.size > 1 else []),
            html.table(["decision", "kind", "choices", "where", "how many"], self._rows()),
        )

    def picture(self, architecture: Mapping[str, float]) -> Picture:
        """The architecture as a notebook draws it: its stages beside those of the largest one.

        Raises:
            UserError: an architecture that is not of this space.
        """
        return Picture(self.canonical(architecture), self.decisions)

    @property
    def cost_range(self) -> str:
        """What the smallest and the largest student cost, in words."""
        costs = [self.cost(self.smallest()), self.cost(self.largest())]
        ranges = [
            " to ".join(dict.fromkeys(short(getattr(cost, name)) for cost in costs))
            for name in ("multiply_adds", "parameters")
        ]
        return f"{ranges[0]} multiply-adds (1 multiply-add = 1 FLOP), {ranges[1]} parameters"

    def _rows(self) -> list[list[str]]:
        """The decisions, those together that are alike."""
        places: dict[tuple[str, str, str], list[str]] = {}
        for decision in self.decisions:
            place, _, what = decision.name.rpartition(".")
            choices = ", ".join(f"{choice:g}" for choice in decision.choices)
            places.setdefault((what, decision.kind, choices), []).append(stage_of(place) or "network")
        return [[*row, ", ".join(dict.fromkeys(where)), str(len(where))] for row, where in places.items()]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its decisions, in order of appearance."""
        return tuple(dict.fromkeys(decision.kind for decision in self.decisions))

    @property
    def size(self) -> int:
        """The exact number of different architectures."""
        total = 1
        for decision in self.decisions:
            if decision.requires is not None:
                continue
            dependants = [d for d in self.decisions if d.requires is not None and d.requires[0] == decision.name]
            total *= sum(
                math.prod(len(d.distinct) for d in dependants if d.requires is not None and value >= d.requires[1])
                for value in decision.distinct
            )
        return total

    def cost(self, architecture: Architecture) -> Cost:
        """Multiply-adds, parameters and peak activation memory of a student; nothing is run."""
        return self._cost(architecture)

    def largest(self) -> Architecture:
        """Every decision at its last choice: the supernet itself."""
        return self.canonical({decision.name: decision.choices[-1] for decision in self.decisions})

    def smallest(self) -> Architecture:
        """Every decision at its first choice."""
        return self.canonical({decision.name: decision.choices[0] for decision in self.decisions})

    def sample(self, rng: random.Random) -> Architecture:
        """A random architecture: every decision uniform over its different choices."""
        return self.canonical({decision.name: rng.choice(decision.distinct) for decision in self.decisions})

    def mutate(self, architecture: Architecture, rng: random.Random, probability: float = 0.1) -> Architecture:
        """Draw each decision anew with the given probability in [0, 1]; ones that become relevant are drawn too."""
        return self.canonical(
            {
                decision.name: rng.choice(decision.distinct)
                if decision.name not in architecture or rng.random() < probability
                else architecture[decision.name]
                for decision in self.decisions
            }
        )

    def crossover(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """Take each decision from either parent at random (from the one that has it, where only one does)."""
        values = {}
        for decision in self.decisions:
            parents = [parent for parent in (first, second) if decision.name in parent]
            values[decision.name] = rng.choice(parents)[decision.name] if parents else decision.choices[0]
        return self.canonical(values)

    def encode(self, architecture: Architecture) -> list[float]:
        """One 0/1 entry per choice of every decision; all 0 for a decision that does not matter."""
        return [
            float(architecture.get(decision.name) == choice)
            for decision in self.decisions
            for choice in decision.distinct
        ]

    def unlocked(self, kinds: Collection[str]) -> SearchSpace:
        """The subspace in which only decisions of these kinds vary; all others stay at their largest.

        Raises:
            UserError: a kind that this space does not have.
        """
        for kind in kinds:
            if kind not in self.kinds:
                raise UserError(f"unknown kind of decision '{kind}'{nearest(kind, self.kinds)}")
        decisions = [d if d.kind in kinds else replace(d, choices=d.choices[-1:]) for d in self.decisions]
        return SearchSpace(decisions, self._cost)

    def only(self, architecture: Mapping[str, float]) -> SearchSpace:
        """The subspace of this one architecture; it is written the same way there.

        Raises:
            UserError: an architecture that is not of this space.
        """
        chosen = self.canonical(architecture)
        decisions = [replace(d, choices=(chosen.get(d.name, d.choices[0]),), same=()) for d in self.decisions]
        return SearchSpace(decisions, self._cost)

    def canonical(self, values: Mapping[str, float]) -> Architecture:
        """The architecture for these values: checked, in order, without decisions that do not matter.

        Raises:
            UserError: an unknown decision, a missing one, or a value that is not among its choices.
        """
        for name in values:
            if name not in self._by_name:
                raise UserError(f"architecture: unknown decision '{name}'{nearest(name, self._by_name)}")
        chosen: dict[str, float] = {}
        for decision in self.decisions:
            if decision.requires is not None and chosen[decision.requires[0]] < decision.requires[1]:
                continue
            if decision.name not in values:
                raise UserError(f"architecture: decision '{decision.name}' is missing")
            value = values[decision.name]
            if value not in decision.choices and value not in decision.distinct:
                raise UserError(
                    f"architecture: {decision.name} = {value} is not one of "
                    + ", ".join(f"{choice:g}" for choice in decision.choices)
                )
            chosen[decision.name] = decision.canonical(value)
        return Architecture(tuple(chosen.items()))
