"""Choosing the best student within a budget by measuring random architectures and mutations of the best.

`choose` needs a function that labels an architecture with its accuracies, and nothing else of the run: a predictor or a
measured front can take the place of the measurement.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from proard.common.errors import UserError, nearest
from proard.supernet import Architecture, SearchSpace

Prefer = Literal["robust", "clean", "balanced"]
MUTATION_PROBABILITY = 0.2


@dataclass(frozen=True)
class Label:
    """Accuracies in [0, 1] on validation images."""

    clean: float
    robust: float


def preference(prefer: Prefer) -> Callable[[Label], tuple[float, float]]:
    """What to sort labels by: robust accuracy first, clean first, or their mean.

    Raises:
        UserError: another name.
    """
    if prefer not in get_args(Prefer):
        raise UserError(f"--prefer {prefer}: unknown{nearest(prefer, get_args(Prefer))}")
    return {
        "robust": lambda label: (label.robust, label.clean),
        "clean": lambda label: (label.clean, label.robust),
        "balanced": lambda label: (label.clean + label.robust, label.robust),
    }[prefer]


def fit(
    space: SearchSpace, architecture: Architecture, fits: Callable[[Architecture], bool], rng: random.Random
) -> Architecture:
    """The architecture, shrunk at random places until it fits, then grown at random places while it still does.

    Terminates whenever the smallest architecture fits: every step lowers (or raises) one decision to the next choice.
    """
    while not fits(architecture):
        architecture = rng.choice(list(_neighbours(space, architecture, -1).values()))
    frozen: set[str] = set()
    while True:
        larger = {name: a for name, a in _neighbours(space, architecture, +1).items() if name not in frozen}
        if not larger:
            return architecture
        name = rng.choice(list(larger))
        if fits(larger[name]):
            architecture = larger[name]
        else:
            frozen.add(name)


def choose(
    space: SearchSpace,
    fits: Callable[[Architecture], bool],
    label: Callable[[Architecture], Label],
    rng: random.Random,
    *,
    candidates: int,
    mutations: int,
    prefer: Prefer = "robust",
    known: dict[Architecture, Label] | None = None,
) -> Architecture:
    """The best architecture found within a budget.

    Args:
        space: all architectures.
        fits: whether one is within the budget; true for the smallest.
        label: measures one.
        rng: of the random architectures.
        candidates: random architectures to measure, at least 1.
        mutations: mutations of the best so far to measure after those.
        prefer: what is best.
        known: labels measured before, for other budgets; new ones are added, and those that fit take part.

    Returns:
        The architecture with the best label.
    """
    labels = {} if known is None else known
    score = preference(prefer)

    def measured(architecture: Architecture) -> Label:
        if architecture not in labels:
            labels[architecture] = label(architecture)
        return labels[architecture]

    for _ in range(candidates):
        measured(fit(space, space.sample(rng), fits, rng))
    best = max((a for a in labels if fits(a)), key=lambda a: score(labels[a]))
    for _ in range(mutations):
        mutant = fit(space, space.mutate(best, rng, MUTATION_PROBABILITY), fits, rng)
        if score(measured(mutant)) > score(labels[best]):
            best = mutant
    return best


def _neighbours(space: SearchSpace, architecture: Architecture, direction: int) -> dict[str, Architecture]:
    """Per decision that can move, the architecture in which it is one choice smaller (-1) or larger (+1)."""
    neighbours = {}
    smallest = {decision.name: decision.choices[0] for decision in space.decisions}  # of what becomes relevant
    for decision in space.decisions:
        if decision.name in architecture:
            place = decision.distinct.index(architecture[decision.name]) + direction
            if 0 <= place < len(decision.distinct):
                values = {**smallest, **architecture, decision.name: decision.distinct[place]}
                neighbours[decision.name] = space.canonical(values)
    return neighbours
