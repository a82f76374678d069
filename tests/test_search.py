"""Choosing an architecture: what fits is found, what is chosen is the best of what was measured."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proard.common.errors import UserError
from proard.search.selection import Label, choose, fit, preference
from proard.supernet import Architecture, SearchSpace, families

SMALL = {"widths": (16, 24), "blocks": (1, 1), "width_choices": (0.5, 1.0), "expand_choices": (0.5, 1.0)}
SPACES = {
    "small": families.build("resnet", {"num_classes": 10, "input_shape": (1, 8, 8), **SMALL}).space(),
    "resnet": families.build("resnet", {"num_classes": 10, "input_shape": (3, 32, 32)}).space(),
    "resnet50": families.build("resnet50", {"num_classes": 10, "input_shape": (3, 32, 32)}).space(),
}
COSTS = ("multiply_adds", "parameters", "peak_activation_bytes", "file_bytes")


def within(space: SearchSpace, field: str, limit: float) -> Callable[[Architecture], bool]:
    return lambda architecture: getattr(space.cost(architecture), field) <= limit


def everything(space: SearchSpace) -> set[Architecture]:
    """All architectures, by brute force over the choices of every decision."""
    names = [decision.name for decision in space.decisions]
    values = itertools.product(*(decision.choices for decision in space.decisions))
    return {space.canonical(dict(zip(names, row, strict=True))) for row in values}


def one_larger(space: SearchSpace, architecture: Architecture) -> list[Architecture]:
    """Every architecture in which one decision is raised, written independently of the search."""
    raised = []
    for decision in space.decisions:
        larger = [choice for choice in decision.distinct if choice > architecture.get(decision.name, float("inf"))]
        if larger:
            smallest = {other.name: other.choices[0] for other in space.decisions}
            raised.append(space.canonical({**smallest, **architecture, decision.name: larger[0]}))
    return raised


# ---------------------------------------------------------------------------------------------------------------------
# Fitting


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["small", "resnet", "resnet50"]),
    field=st.sampled_from(COSTS),
    share=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_fit_is_within_the_budget_and_maximal(name: str, field: str, share: float, seed: int) -> None:
    space, rng = SPACES[name], random.Random(seed)
    least, most = (getattr(space.cost(a), field) for a in (space.smallest(), space.largest()))
    fits = within(space, field, least + share * (most - least))
    found = fit(space, space.sample(rng), fits, rng)
    assert fits(found)
    assert space.canonical(found) == found
    assert not any(fits(larger) for larger in one_larger(space, found))


@pytest.mark.parametrize("name", SPACES)
def test_fit_at_the_ends_of_the_space(name: str) -> None:
    space = SPACES[name]
    for seed in range(3):
        rng = random.Random(seed)
        assert fit(space, space.sample(rng), lambda _: True, rng) == space.largest()
        assert fit(space, space.sample(rng), lambda a: a == space.smallest(), rng) == space.smallest()


def test_fit_reaches_different_architectures() -> None:
    space = SPACES["resnet"]
    limit = space.cost(space.largest()).multiply_adds / 4
    fits = within(space, "multiply_adds", limit)
    found = {fit(space, space.sample(rng), fits, rng) for rng in map(random.Random, range(20))}
    assert len(found) > 15


# ---------------------------------------------------------------------------------------------------------------------
# Choosing


def synthetic(space: SearchSpace) -> Callable[[Architecture], Label]:
    """Labels with one known optimum: each decision adds an amount of its own that rises with its value."""
    names = [decision.name for decision in space.decisions]

    def label(architecture: Architecture) -> Label:
        robust = sum((1 + 0.37 * names.index(name)) * value for name, value in architecture.items()) / 100
        clean = sum((8 - 0.41 * names.index(name)) * value for name, value in architecture.items()) / 100
        return Label(clean, robust)

    return label


@pytest.mark.parametrize("prefer", ["robust", "clean", "balanced"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_choose_against_brute_force(prefer: str, share: float) -> None:
    """On a small space, with many measurements, the choice is the best architecture that fits."""
    space, label = SPACES["small"], synthetic(SPACES["small"])
    least, most = (space.cost(a).multiply_adds for a in (space.smallest(), space.largest()))
    fits = within(space, "multiply_adds", least + share * (most - least))
    score = preference(prefer)  # type: ignore[arg-type]
    best = max(score(label(a)) for a in everything(space) if fits(a))
    found = choose(space, fits, label, random.Random(0), candidates=150, mutations=150, prefer=prefer)  # type: ignore[arg-type]
    assert fits(found)
    assert score(label(found)) == best


@pytest.mark.parametrize("seed", range(10))
def test_choose_is_deterministic_frugal_and_no_worse_than_what_it_measured(seed: int) -> None:
    space = SPACES["resnet"]
    label, rng = synthetic(space), random.Random(seed)
    limit = rng.uniform(*(space.cost(a).parameters for a in (space.smallest(), space.largest())))
    fits = within(space, "parameters", limit)

    def run() -> tuple[Architecture, Counter[Architecture]]:
        measured: Counter[Architecture] = Counter()

        def measure(architecture: Architecture) -> Label:
            measured[architecture] += 1
            return label(architecture)

        return choose(space, fits, measure, random.Random(seed), candidates=5, mutations=7), measured

    found, measured = run()
    assert (found, measured) == run()
    assert len(measured) <= 12
    assert set(measured.values()) == {1}
    assert all(fits(architecture) for architecture in measured)
    assert label(found).robust == max(label(architecture).robust for architecture in measured)


def test_known_labels_take_part_and_are_not_measured_again() -> None:
    space = SPACES["small"]
    fits = within(space, "multiply_adds", 500_000)
    fitting = sorted((a for a in everything(space) if fits(a)), key=str)
    winner = fitting[len(fitting) // 2]
    known = {winner: Label(1.0, 1.0), space.largest(): Label(2.0, 2.0)}
    assert not fits(space.largest())

    def measure(architecture: Architecture) -> Label:
        assert architecture not in known or architecture not in (winner, space.largest())
        return Label(0.0, 0.0)

    assert choose(space, fits, measure, random.Random(0), candidates=3, mutations=3, known=known) == winner
    assert len(known) > 2  # new labels are kept for the next budget


def test_mutations_improve_on_random_candidates() -> None:
    space = SPACES["resnet"]
    label = synthetic(space)
    fits = within(space, "multiply_adds", space.cost(space.largest()).multiply_adds / 3)

    def mean_score(candidates: int, mutations: int) -> float:
        chosen = [
            choose(space, fits, label, random.Random(seed), candidates=candidates, mutations=mutations)
            for seed in range(8)
        ]
        return sum(label(a).robust for a in chosen) / len(chosen)

    assert mean_score(3, 12) > mean_score(3, 0)


def test_preference() -> None:
    labels = {"clean": Label(0.9, 0.3), "robust": Label(0.6, 0.5), "balanced": Label(0.8, 0.45)}
    for name, label in labels.items():
        assert max(labels.values(), key=preference(name)) == label  # type: ignore[arg-type]
    assert max([Label(0.5, 0.5), Label(0.6, 0.5)], key=preference("robust")).clean == 0.6  # the other breaks a tie
    assert max([Label(0.5, 0.5), Label(0.5, 0.6)], key=preference("clean")).robust == 0.6
    with pytest.raises(UserError, match="did you mean 'robust'"):
        preference("robst")  # type: ignore[arg-type]
