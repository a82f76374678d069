"""NSGA-II (Deb, Pratap, Agarwal, Meyarivan 2002; pymoo's) over predicted accuracies and costs, within budgets.

Offspring beyond a budget is repaired by lowering one random decision at a time, as `selection.fit` does with one
architecture. That ends at the smallest student, which has to fit; so every search terminates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from proard.search.genotypes import Genotypes, Matrix
from proard.supernet.budgets import KINDS, Limits

Predict = Callable[[Matrix], npt.NDArray[np.float64]]
DRAWS_OF_OFFSPRING = 10  # until a generation has enough new ones; a small space runs out of them
MUTATED_DECISIONS = 2.0  # per offspring, on average


def within(genotypes: Genotypes, limits: Limits, matrix: Matrix) -> npt.NDArray[np.bool_]:
    """Which rows keep all limits, (N,)."""
    fine = np.ones(len(matrix), dtype=bool)
    for budget in limits.budgets:
        fine[fine] = genotypes.cost(matrix[fine], KINDS[budget.kind].field) <= budget.limit
    return fine


def repaired(genotypes: Genotypes, limits: Limits, matrix: Matrix, rng: np.random.Generator) -> Matrix:
    """Rows that keep all limits, as the smallest does: canonical rows, lowered at random places until they do."""
    matrix = matrix.copy()
    wrong = np.flatnonzero(~within(genotypes, limits, matrix))
    while len(wrong):
        matrix[wrong] = genotypes.shrink(matrix[wrong], rng)
        wrong = wrong[~within(genotypes, limits, matrix[wrong]) & (matrix[wrong] > 0).any(axis=1)]
    return matrix


def nsga2(
    genotypes: Genotypes,
    predict: Predict,
    limits: Limits,
    *,
    population: int,
    generations: int,
    seed: int,
    start: Matrix | None = None,
    progress: Callable[[], Any] = lambda: None,
) -> Matrix:
    """Search for architectures of high clean and robust accuracy and few multiply-adds.

    Args:
        genotypes: of the space.
        predict: accuracies (N, 2) of rows.
        limits: on costs; the smallest architecture keeps them.
        population: architectures per generation, at least 2.
        generations: at least 1.
        seed: of all random draws.
        start: rows to begin with, such as labelled ones; the rest of the first population is random.
        progress: called after each generation was predicted.

    Returns:
        The rows (F, decisions) of the last population that no other one dominates; each once, all within the limits.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.config import Config
    from pymoo.core.crossover import Crossover
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.core.repair import Repair
    from pymoo.optimize import minimize

    Config.warnings["not_compiled"] = False
    rng = np.random.default_rng(seed)

    class Students(Problem):
        def _evaluate(self, x: Matrix, out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = np.column_stack([-predict(x), genotypes.cost(x, "multiply_adds")])
            progress()

    class EitherParent(Crossover):
        def _do(self, _: Any, x: Matrix, *__: Any, **___: Any) -> Matrix:
            first, second = x.astype(np.int64)
            return np.stack([genotypes.crossover(first, second, rng) for _ in range(2)])

    class Redraw(Mutation):
        def _do(self, _: Any, x: Matrix, *__: Any, **___: Any) -> Matrix:
            probability = min(0.5, MUTATED_DECISIONS / len(genotypes))
            return genotypes.mutate(x.astype(np.int64), rng, probability)

    class WithinLimits(Repair):
        def _do(self, _: Any, x: Matrix, *__: Any, **___: Any) -> Matrix:
            return repaired(genotypes, limits, x.astype(np.int64), rng)

    problem = Students(n_var=len(genotypes), n_obj=3, xl=-1, xu=genotypes.sizes - 1, vtype=np.int64)
    first = _first_population(genotypes, population, rng, start)
    algorithm = NSGA2(
        pop_size=population,
        sampling=repaired(genotypes, limits, first, rng),
        crossover=EitherParent(2, 2, prob=0.9),  # parents and children
        mutation=Redraw(),
        repair=WithinLimits(),
        eliminate_duplicates=True,
    )
    algorithm.mating.n_max_iterations = DRAWS_OF_OFFSPRING
    result = minimize(problem, algorithm, ("n_gen", generations), seed=seed, verbose=False)
    found = np.atleast_2d(result.opt.get("X").astype(np.int64))
    return np.unique(found, axis=0)


def _first_population(genotypes: Genotypes, count: int, rng: np.random.Generator, start: Matrix | None) -> Matrix:
    """The smallest and the largest architecture, the given rows (or some of them), and random ones."""
    ends = genotypes.encode([genotypes.space.smallest(), genotypes.space.largest()])
    given = np.empty((0, len(genotypes)), dtype=np.int64) if start is None else rng.permutation(start)
    random = genotypes.sample(count, rng)
    return np.concatenate([ends, given[: count // 2], random])[: max(count, 2)]
