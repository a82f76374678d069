"""Costs of whole populations at once, as exact sums of small tables.

Multiply-adds and parameters are sums over layers, and a layer's share depends on a few decisions: its widths, its
kernel, the depth of its stage. So a cost F is a sum of functions of small sets of decisions, and it is enough to know
which pairs of decisions interact (their mixed second difference is not always zero). With all other decisions at an
anchor a, F(x) is the sum over the sets u of pairwise interacting decisions of c(u) F(x_u, a_-u), where the integers c
make every component of the anchored decomposition (Kuo, Sloan, Wasilkowski, Wozniakowski 2010) count once.

The pairs are found by trying, so the tables are compared with the true costs of random architectures before they are
trusted; a cost that is no such sum, such as peak memory, is computed one by one and remembered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from proard.search.genotypes import Genotypes, Matrix
from proard.supernet import Architecture
from proard.supernet.cost import Cost

Values = npt.NDArray[np.float64]
ADDITIVE = ("multiply_adds", "parameters")
MOST_ENTRIES = 20_000  # beyond this, tables would take longer to make than a search takes without them
MOST_DECISIONS = 6  # that interact with each other
CHECKED = 100


class PopulationCost:
    """The costs of every row of a matrix.

    Args:
        genotypes: of the space.
        cost: of one architecture, which may know more than the space, such as latency; default the space's.

    Attributes:
        tabulated: the costs that are computed from tables.
    """

    def __init__(self, genotypes: Genotypes, cost: Callable[[Architecture], Cost] | None = None) -> None:
        self.genotypes = genotypes
        self._cost = cost or genotypes.space.cost
        self._known: dict[Architecture, Cost] = {}
        # (coefficient, decisions, strides, values per additive cost)
        self._tables: list[tuple[int, list[int], npt.NDArray[np.int64], Values]] = []
        self.tabulated: tuple[str, ...] = ()
        if self._tabulate():
            rng = np.random.default_rng(1)
            rows = genotypes.sample(CHECKED, rng)
            right = (self._sums(rows) == self._exact(rows, ADDITIVE)).all(axis=0)
            self.tabulated = tuple(name for name, fine in zip(ADDITIVE, right, strict=True) if fine)

    def __call__(self, matrix: Matrix, field: str) -> Values:
        """One cost (N,) of canonical rows (N, decisions)."""
        if field in self.tabulated:
            return self._sums(matrix)[:, ADDITIVE.index(field)]
        return self._exact(matrix, (field,))[:, 0]

    def of(self, architecture: Architecture) -> Cost:
        """All costs of one architecture, remembered."""
        if architecture not in self._known:
            self._known[architecture] = self._cost(architecture)
        return self._known[architecture]

    def _exact(self, matrix: Matrix, names: Sequence[str]) -> Values:
        costs = [self.of(architecture) for architecture in self.genotypes.decode(matrix)]
        values = [[getattr(cost, name) for name in names] for cost in costs]
        return np.array(values, dtype=np.float64).reshape(-1, len(names))

    def _sums(self, matrix: Matrix) -> Values:
        """The additive costs (N, 2) from the tables."""
        present = np.maximum(matrix, 0)
        total = np.zeros((len(matrix), len(ADDITIVE)))
        for coefficient, decisions, strides, values in self._tables:
            total += coefficient * values[present[:, decisions] @ strides]
        return total

    def _tabulate(self) -> bool:
        """Make the tables; False if they would be too large."""
        sizes, anchor = self.genotypes.sizes, self.genotypes.sizes - 1
        sets = interacting_sets(self._interactions())
        if max(map(len, sets)) > MOST_DECISIONS:
            return False
        weights = {u: c for u, c in coefficients(sets).items() if c}
        if sum(int(np.prod(sizes[list(u)])) for u in weights) > MOST_ENTRIES:
            return False
        for u, coefficient in weights.items():
            decisions = list(u)
            grid = list(itertools.product(*(range(sizes[i]) for i in decisions)))
            rows = np.tile(anchor, (len(grid), 1))
            rows[:, decisions] = np.array(grid, dtype=np.int64).reshape(len(grid), len(decisions))
            strides = np.array([int(np.prod(sizes[decisions[i + 1 :]])) for i in range(len(decisions))], dtype=np.int64)
            values = self._exact(self.genotypes.canonical(rows), ADDITIVE)
            self._tables.append((coefficient, decisions, strides, values))
        return True

    def _interactions(self) -> npt.NDArray[np.bool_]:
        """Which pairs of decisions interact, from mixed differences around the largest and a random architecture."""
        genotypes, count = self.genotypes, len(self.genotypes)
        rng, largest = np.random.default_rng(0), genotypes.sizes - 1
        pairs = list(itertools.combinations(range(count), 2))
        found = np.zeros((count, count), dtype=bool)
        bases = [(largest, np.zeros_like(largest)), (rng.integers(0, genotypes.sizes), largest)]
        for base, other in bases:
            rows = np.tile(base, (1 + count + len(pairs), 1))
            for i in range(count):
                rows[1 + i, i] = other[i]
            for place, pair in enumerate(pairs):
                rows[1 + count + place, list(pair)] = other[list(pair)]
            costs = self._exact(genotypes.canonical(rows), ADDITIVE)
            for place, (i, j) in enumerate(pairs):
                mixed = costs[1 + count + place] - costs[1 + i] - costs[1 + j] + costs[0]
                found[i, j] |= bool(mixed.any())
        return found | found.T


def interacting_sets(interact: npt.NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """The largest sets of pairwise interacting decisions: the maximal cliques (Bron and Kerbosch 1973)."""
    neighbours = [set(np.flatnonzero(row).tolist()) for row in interact]
    found: list[tuple[int, ...]] = []

    def grow(clique: list[int], candidates: set[int], seen: set[int]) -> None:
        if not candidates and not seen:
            found.append(tuple(sorted(clique)))
        for node in sorted(candidates):
            grow([*clique, node], candidates & neighbours[node], seen & neighbours[node])
            candidates, seen = candidates - {node}, seen | {node}

    grow([], set(range(len(neighbours))), set())
    return found


def coefficients(sets: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], int]:
    """Of the sets and all their subsets: such that the coefficients of what contains any one of them add up to 1."""
    subsets = {u for s in sets for size in range(len(s) + 1) for u in itertools.combinations(s, size)}
    containing: dict[tuple[int, ...], int] = dict.fromkeys(subsets, 0)
    weights = {}
    for u in sorted(subsets, key=len, reverse=True):
        weights[u] = 1 - containing[u]
        if weights[u]:
            for size in range(len(u)):
                for smaller in itertools.combinations(u, size):
                    containing[smaller] += weights[u]
    return weights
