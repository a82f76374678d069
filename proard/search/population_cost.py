"""Costs of whole populations: each architecture's is computed once, and remembered."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proard.search.genotypes import Genotypes, Matrix
from proard.supernet.cost import Cost


class PopulationCost:
    """The costs of every row of a matrix.

    Args:
        genotypes: of the space, whose costs they are.
    """

    def __init__(self, genotypes: Genotypes) -> None:
        self.genotypes = genotypes
        self._known: dict[bytes, Cost] = {}  # by the row's values: cheaper than making its architecture

    def __call__(self, matrix: Matrix, field: str) -> npt.NDArray[np.float64]:
        """One cost (N,) of canonical rows (N, decisions)."""
        keys = [row.tobytes() for row in matrix]
        fresh = [place for place, key in enumerate(keys) if key not in self._known]
        for place, architecture in zip(fresh, self.genotypes.decode(matrix[fresh]), strict=True):
            self._known[keys[place]] = self.genotypes.space.cost(architecture)
        return np.array([getattr(self._known[key], field) for key in keys], dtype=np.float64)
