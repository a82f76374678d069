"""Whole populations of architectures as integer matrices: what `SearchSpace` does to one, done to all rows at once.

A row has, per decision of the space and in its order, the index of the choice among `Decision.distinct`, or -1 where a
shallow depth makes the decision irrelevant. Rows in this canonical form are equal exactly if their networks are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from proard.supernet import Architecture, SearchSpace
from proard.supernet.cost import Cost

Matrix = npt.NDArray[np.int64]
IRRELEVANT = -1


class Genotypes:
    """Translates between architectures of a space and matrices (N, decisions), varies the rows, and knows their costs.

    Attributes:
        sizes: (decisions,), the number of different choices of each.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.choices = [decision.distinct for decision in space.decisions]
        self.sizes = np.array([len(choices) for choices in self.choices])
        places = {decision.name: place for place, decision in enumerate(space.decisions)}
        # Per conditional decision: its column, that of the depth it needs, and for which depths it matters.
        self._conditions = [
            (column, places[d.requires[0]], np.array(self.choices[places[d.requires[0]]]) >= d.requires[1])
            for column, d in enumerate(space.decisions)
            if d.requires is not None
        ]
        self._costs: dict[bytes, Cost] = {}  # by the row's values: cheaper than making its architecture

    def __len__(self) -> int:
        """The number of decisions."""
        return len(self.choices)

    def canonical(self, matrix: Matrix) -> Matrix:
        """Mark what does not matter; a decision that matters but was marked gets its smallest choice."""
        matrix = np.maximum(matrix, 0)
        for column, depth, matters in self._conditions:
            matrix[~matters[matrix[:, depth]], column] = IRRELEVANT
        return matrix

    def encode(self, architectures: Sequence[Architecture]) -> Matrix:
        """A row for each canonical architecture of the space."""
        index = [{value: place for place, value in enumerate(choices)} for choices in self.choices]
        names = [decision.name for decision in self.space.decisions]
        rows = []
        for architecture in architectures:
            chosen = dict(architecture.decisions)
            rows.append([index[i][chosen[name]] if name in chosen else IRRELEVANT for i, name in enumerate(names)])
        return np.array(rows, dtype=np.int64).reshape(-1, len(self))

    def decode(self, matrix: Matrix) -> list[Architecture]:
        """The architecture of every canonical row."""
        pairs = [
            [(decision.name, value) for value in choices]
            for decision, choices in zip(self.space.decisions, self.choices, strict=True)
        ]
        return [
            Architecture(tuple(pair[gene] for pair, gene in zip(pairs, row, strict=True) if gene >= 0))
            for row in matrix.tolist()
        ]

    def one_hot(self, matrix: Matrix) -> npt.NDArray[np.float64]:
        """`SearchSpace.encode` of every row."""
        columns = [matrix[:, [i]] == np.arange(size) for i, size in enumerate(self.sizes)]
        return np.concatenate(columns, axis=1).astype(np.float64)

    def cost(self, matrix: Matrix, field: str) -> npt.NDArray[np.float64]:
        """One cost (N,) of canonical rows; those of an architecture are computed once."""
        keys = [row.tobytes() for row in matrix]
        fresh = [place for place, key in enumerate(keys) if key not in self._costs]
        for place, architecture in zip(fresh, self.decode(matrix[fresh]), strict=True):
            self._costs[keys[place]] = self.space.cost(architecture)
        return np.array([getattr(self._costs[key], field) for key in keys], dtype=np.float64)

    def sample(self, count: int, rng: np.random.Generator) -> Matrix:
        """Rows whose decisions are uniform over their choices."""
        return self.canonical(rng.integers(0, self.sizes, size=(count, len(self))))

    def crossover(self, first: Matrix, second: Matrix, rng: np.random.Generator) -> Matrix:
        """Every decision from either parent at random; from the one where it matters, if it does in one only."""
        take_first = (rng.random(first.shape) < 0.5) | (second == IRRELEVANT)
        return self.canonical(np.where(take_first & (first != IRRELEVANT), first, second))

    def mutate(self, matrix: Matrix, rng: np.random.Generator, probability: float) -> Matrix:
        """Every decision drawn anew with this probability; ones that become relevant are drawn too."""
        drawn = rng.integers(0, self.sizes, size=matrix.shape)
        return self.canonical(
            np.where((rng.random(matrix.shape) < probability) | (matrix == IRRELEVANT), drawn, matrix)
        )

    def shrink(self, matrix: Matrix, rng: np.random.Generator) -> Matrix:
        """Every row with one random decision that is above its smallest choice lowered by one."""
        able = matrix > 0
        column = np.argmax(np.where(able, rng.random(matrix.shape), -1.0), axis=1)
        matrix = matrix.copy()
        rows = np.flatnonzero(able.any(axis=1))
        matrix[rows, column[rows]] -= 1
        return self.canonical(matrix)
