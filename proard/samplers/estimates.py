"""Two estimates of how far students are from the teacher on adversarial images, updated as training goes on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch

from proard.supernet import Architecture
from proard.supernet.strata import Strata


class Estimate(ABC):
    """The divergence of any architecture, from those of the students trained lately."""

    @abstractmethod
    def update(self, architecture: Architecture, divergence: float) -> None:
        """A student was measured."""

    @abstractmethod
    def divergence(self, architecture: Architecture) -> float | None:
        """The estimate; None where nothing is known yet."""

    @abstractmethod
    def state(self) -> Any:
        """What `load` needs."""

    @abstractmethod
    def load(self, state: Any) -> None:
        """Continue where `state` was called."""


class BinAverages(Estimate):
    """A moving average per multiply-add bin, as ShiftNAS adapts its probabilities by bins of complexity.

    Args:
        strata: the bins.
        memory: in [0, 1): the weight of the average so far at each update.
    """

    def __init__(self, strata: Strata, memory: float) -> None:
        self.strata = strata
        self.memory = memory
        self.averages: dict[int, float] = {}

    def update(self, architecture: Architecture, divergence: float) -> None:
        """See `Estimate`."""
        index = self.strata.index(architecture)
        before = self.averages.get(index, divergence)
        self.averages[index] = self.memory * before + (1 - self.memory) * divergence

    def divergence(self, architecture: Architecture) -> float | None:
        """See `Estimate`; a bin without a student so far has the average of the nearest one that has."""
        if not self.averages:
            return None
        index = self.strata.index(architecture)
        return self.averages[min(self.averages, key=lambda known: abs(known - index))]

    def state(self) -> dict[int, float]:
        """See `Estimate`."""
        return dict(self.averages)

    def load(self, state: dict[int, float]) -> None:
        """See `Estimate`."""
        self.averages = dict(state)


class Regression(Estimate):
    """Ridge regression of the divergence on the architecture's encoding and log multiply-adds, old data forgotten.

    Args:
        strata: for the space and its costs.
        memory: in [0, 1): the weight of all data so far at each update.
    """

    RIDGE = 0.1

    def __init__(self, strata: Strata, memory: float) -> None:
        self.strata = strata
        self.memory = memory
        self.low = math.log(strata.space.cost(strata.space.smallest()).multiply_adds)
        self.range = math.log(strata.space.cost(strata.space.largest()).multiply_adds) - self.low or 1.0
        size = len(self._features(strata.space.largest()))
        self.moments = torch.zeros(size, size + 1, dtype=torch.float64)  # of features with features, and with targets
        self.weights: torch.Tensor | None = None

    def _features(self, architecture: Architecture) -> torch.Tensor:
        space = self.strata.space
        relative = (math.log(space.cost(architecture).multiply_adds) - self.low) / self.range
        return torch.tensor([1.0, relative, relative**2, *space.encode(architecture)], dtype=torch.float64)

    def update(self, architecture: Architecture, divergence: float) -> None:
        """See `Estimate`."""
        features = self._features(architecture)
        row = torch.cat([features, torch.tensor([divergence], dtype=torch.float64)])
        self.moments = self.memory * self.moments + torch.outer(features, row)
        self.weights = None

    def divergence(self, architecture: Architecture) -> float | None:
        """See `Estimate`; never negative."""
        if not self.moments.any():
            return None
        if self.weights is None:
            penalty = self.RIDGE * torch.eye(len(self.moments), dtype=torch.float64)
            penalty[0, 0] = 1e-9  # the mean is not shrunk
            self.weights = torch.linalg.solve(self.moments[:, :-1] + penalty, self.moments[:, -1])
        return max(0.0, float(self.weights @ self._features(architecture)))

    def state(self) -> torch.Tensor:
        """See `Estimate`."""
        return self.moments.clone()

    def load(self, state: torch.Tensor) -> None:
        """See `Estimate`."""
        self.moments, self.weights = state.cpu().clone(), None
