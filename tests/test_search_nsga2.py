"""Populations as matrices, their costs, and NSGA-II, against brute force and against one architecture at a time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
from pymoo.indicators.hv import HV

from proard.common.errors import UserError
from proard.search.front import undominated
from proard.search.genotypes import IRRELEVANT, Genotypes, Matrix
from proard.search.nsga2 import nsga2, repaired, within
from proard.search.searcher import best_of_ranges
from proard.supernet import Architecture, SearchSpace, families
from proard.supernet.architecture import Decision
from proard.supernet.budgets import Budget, Limits
from proard.supernet.cost import Cost

SMALL = {"widths": (16, 24), "blocks": (1, 1), "width_choices": (0.5, 1.0), "expand_choices": (0.5, 1.0)}
SPACES: dict[str, SearchSpace] = {
    "small": families.build("resnet", {"num_classes": 10, "input_shape": (1, 8, 8), **SMALL}).space(),
    **{
        name: families.build(name, {"num_classes": 10, "input_shape": (3, 32, 32)}).space()
        for name in ("resnet", "resnet50", "mobilenetv3", "vit")
    },
}


def everything(space: SearchSpace) -> list[Architecture]:
    """All architectures, by brute force over the choices of every decision."""
    names = [decision.name for decision in space.decisions]
    rows = itertools.product(*(decision.choices for decision in space.decisions))
    return list(dict.fromkeys(space.canonical(dict(zip(names, row, strict=True))) for row in rows))


def weights(space: SearchSpace, seed: int) -> Callable[[Matrix], np.ndarray]:
    """Accuracies that rise with every decision by amounts of its own, and pull in different directions."""
    genotypes, rng = Genotypes(space), np.random.default_rng(seed)
    clean, robust = rng.random((2, len(genotypes)))

    def predict(matrix: Matrix) -> np.ndarray:
        used = (np.maximum(matrix, 0) + (matrix >= 0)) / genotypes.sizes
        return np.column_stack([used @ clean / clean.sum(), used @ robust / robust.sum()])

    return predict


# ---------------------------------------------------------------------------------------------------------------------
# Matrices


@pytest.mark.parametrize("name", SPACES)
def test_matrices_agree_with_the_space(name: str) -> None:
    space, rng = SPACES[name], random.Random(0)
    genotypes = Genotypes(space)
    architectures = [space.sample(rng) for _ in range(50)] + [space.smallest(), space.largest()]
    matrix = genotypes.encode(architectures)
    assert genotypes.decode(matrix) == architectures
    assert np.array_equal(genotypes.canonical(matrix), matrix)
    assert np.array_equal(genotypes.one_hot(matrix), [space.encode(a) for a in architectures])


@pytest.mark.parametrize("name", ["resnet", "mobilenetv3"])
def test_variation_keeps_rows_canonical_and_takes_genes_from_parents(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(0)
    genotypes = Genotypes(space)
    first, second = genotypes.sample(200, rng), genotypes.sample(200, rng)
    child = genotypes.crossover(first, second, rng)
    for rows in (first, second, child, genotypes.mutate(first, rng, 0.2), genotypes.shrink(first, rng)):
        assert [space.canonical(a) for a in genotypes.decode(rows)] == genotypes.decode(rows)
        assert np.array_equal(genotypes.encode(genotypes.decode(rows)), rows)
    relevant = child != IRRELEVANT
    known = (first != IRRELEVANT) | (second != IRRELEVANT)
    assert ((child == first) | (child == second))[relevant & known].all()
    assert (child[relevant & ~known] == 0).all()
    both = relevant & (first != second) & (first != IRRELEVANT) & (second != IRRELEVANT)
    assert 0.4 < (child == first)[both].mean() < 0.6
    assert np.array_equal(genotypes.mutate(first, rng, 0.0), first)
    smaller = genotypes.shrink(first, rng)
    lowered = (np.maximum(smaller, 0) < np.maximum(first, 0)).any(axis=1)
    assert lowered[(first > 0).any(axis=1)].all()
    assert np.array_equal(genotypes.shrink(genotypes.encode([space.smallest()]), rng)[0] > 0, [False] * len(genotypes))


# ---------------------------------------------------------------------------------------------------------------------
# Costs


@pytest.mark.parametrize("name", SPACES)
def test_costs_of_a_population_are_exact(name: str) -> None:
    space, genotypes = SPACES[name], Genotypes(SPACES[name])
    matrix = genotypes.sample(100, np.random.default_rng(7))
    expected = [space.cost(architecture) for architecture in genotypes.decode(matrix)]
    for field in ("multiply_adds", "parameters", "peak_activation_bytes", "file_bytes"):
        assert genotypes.cost(matrix, field).tolist() == [getattr(cost, field) for cost in expected]


def test_a_cost_is_computed_once_and_not_mistaken_for_another() -> None:
    calls = []

    def cost(architecture: Architecture) -> Cost:
        calls.append(architecture)
        depth, *widths = (int(value) for _, value in architecture.decisions)
        return Cost(100 * depth + sum(widths), depth, 1, 1)

    deeper = Decision("b", "width", (1.0, 2.0, 3.0), requires=("depth", 2))
    space = SearchSpace([Decision("depth", "depth", (1, 2)), Decision("a", "width", (1.0, 2.0, 3.0)), deeper], cost)
    genotypes = Genotypes(space)
    matrix = genotypes.encode(everything(space))
    assert len(matrix) == 3 + 9
    expected = [100 + a for a in (1, 2, 3)] + [200 + a + b for a in (1, 2, 3) for b in (1, 2, 3)]
    assert sorted(genotypes.cost(matrix, "multiply_adds")) == sorted(expected)
    assert genotypes.cost(matrix, "parameters").tolist() == [1 + (row[2] != IRRELEVANT) for row in matrix]
    assert (
        genotypes.cost(matrix[::-2], "multiply_adds").tolist() == genotypes.cost(matrix, "multiply_adds")[::-2].tolist()
    )
    assert genotypes.cost(matrix[:0], "parameters").shape == (0,)
    assert len(calls) == len(matrix)


# ---------------------------------------------------------------------------------------------------------------------
# The search


@pytest.mark.parametrize("name", ["small", "resnet50"])
@pytest.mark.parametrize("seed", range(4))
def test_repair_is_always_feasible_and_leaves_what_fits(name: str, seed: int) -> None:
    space, rng = SPACES[name], np.random.default_rng(seed)
    genotypes = Genotypes(space)
    least, most = space.cost(space.smallest()), space.cost(space.largest())
    share = (0.0, 0.01, 0.3, 1.0)[seed]
    limits = Limits(
        tuple(
            Budget(kind, getattr(least, field) + share * (getattr(most, field) - getattr(least, field)), "x")
            for kind, field in (("flops", "multiply_adds"), ("memory", "peak_activation_bytes"))
        )
    )
    before = genotypes.sample(60, rng)
    after = repaired(genotypes, limits, before, rng)
    assert all(limits.admits(space.cost(architecture)) for architecture in genotypes.decode(after))
    fine = within(genotypes, limits, before)
    assert fine.tolist() == [limits.admits(space.cost(a)) for a in genotypes.decode(before)]
    assert np.array_equal(after[fine], before[fine])
    assert (np.maximum(after, 0) <= np.maximum(before, 0)).all()


@pytest.mark.parametrize("limited", [False, True])
def test_nsga2_finds_the_exact_front_of_a_small_space(limited: bool) -> None:
    space, predict = SPACES["small"], weights(SPACES["small"], 3)
    genotypes = Genotypes(space)
    middle = (space.cost(space.smallest()).multiply_adds + space.cost(space.largest()).multiply_adds) // 2
    limits = Limits((Budget("flops", middle, "middle"),)) if limited else Limits()
    matrix = genotypes.encode([a for a in everything(space) if limits.admits(space.cost(a))])

    def objectives(rows: Matrix) -> np.ndarray:
        return np.column_stack([-predict(rows), genotypes.cost(rows, "multiply_adds")])

    expected = {tuple(row) for row in matrix[undominated(objectives(matrix))].tolist()}
    assert 10 < len(expected) < 100
    found = nsga2(genotypes, predict, limits, population=100, generations=20, seed=0)
    assert {tuple(row) for row in found.tolist()} == expected


def test_nsga2_beats_random_search_and_repeats_itself() -> None:
    space, predict = SPACES["resnet"], weights(SPACES["resnet"], 5)
    genotypes = Genotypes(space)
    limit = space.cost(space.largest()).multiply_adds / 3
    limits = Limits((Budget("flops", limit, "third"),))

    def volume(rows: Matrix) -> float:
        values = np.column_stack([-predict(rows), genotypes.cost(rows, "multiply_adds") / limit])
        return float(HV(ref_point=np.array([0.0, 0.0, 1.0]))(values[undominated(values)]))

    for seed in range(3):
        found = nsga2(genotypes, predict, limits, population=30, generations=15, seed=seed)
        assert within(genotypes, limits, found).all()
        rng = np.random.default_rng(seed)
        assert volume(found) > volume(repaired(genotypes, limits, genotypes.sample(30 * 15, rng), rng))
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert np.array_equal(found, nsga2(genotypes, predict, limits, population=30, generations=15, seed=2))
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_nsga2_ends_where_only_the_smallest_fits_and_where_there_is_little_to_choose() -> None:
    space = SPACES["small"]
    genotypes = Genotypes(space)
    limits = Limits((Budget("flops", space.cost(space.smallest()).multiply_adds, "least"),))
    found = nsga2(genotypes, weights(space, 0), limits, population=10, generations=5, seed=0)
    assert space.smallest() in genotypes.decode(found)
    assert within(genotypes, limits, found).all()


# ---------------------------------------------------------------------------------------------------------------------
# Small parts


def test_undominated_against_the_definition() -> None:
    rows = np.random.default_rng(0).integers(0, 4, size=(60, 3)).astype(float)
    expected = [not any((other <= row).all() and (other < row).any() for other in rows) for row in rows]
    assert undominated(rows).tolist() == expected


def test_the_best_of_every_range() -> None:
    matrix = np.arange(12).reshape(12, 1)
    predicted = np.column_stack([np.linspace(0.9, 0.1, 12), np.tile([0.1, 0.5, 0.3], 4)])
    cost = np.arange(12)[::-1]
    assert best_of_ranges(matrix, predicted, cost, 4).ravel().tolist() == [10, 7, 4, 1]
    assert len(best_of_ranges(matrix, predicted, cost, 12)) == 12
    assert len(best_of_ranges(matrix, predicted, cost, 0)) == 0


def test_limits() -> None:
    flops, params = Budget.parse("flops", "1M"), Budget.parse("params", "2K")
    limits = Limits((flops, params))
    assert limits.name == "flops-1M+params-2K"
    assert limits.admits(Cost(10**6, 2000, 0))
    assert not limits.admits(Cost(10**6, 2001, 0))
    assert not limits.admits(Cost(10**6 + 1, 2000, 0))
    assert Limits().admits(Cost(10**12, 10**12, 10**12))
    limits.check(Cost(10, 10, 10))
    with pytest.raises(UserError, match="--params 2K: below the smallest"):
        limits.check(Cost(10, 3000, 10))
    with pytest.raises(UserError, match="--flops 1M and 3M: one student has one limit"):
        Limits((flops, Budget.parse("flops", "3M")))
