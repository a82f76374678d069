"""Bins of students by what they cost, of equal width in the logarithm of multiply-adds."""

from __future__ import annotations

from bisect import bisect_right

from proard.supernet.architecture import Architecture
from proard.supernet.space import SearchSpace


class CostBins:
    """Divides a space, from its smallest student to its largest, into bins by multiply-adds.

    A bin's upper edge is ``(largest / smallest) ** (1 / count)`` times its lower edge, so that a bin covers the same
    relative range wherever it lies.

    Args:
        space: whose smallest and largest students are the two ends.
        count: bins, at least 1; a space of one cost has one bin whatever the count.

    Attributes:
        edges: multiply-adds, ascending, one more than there are bins; bin i is from edge i (included) to edge i + 1.

    Raises:
        ValueError: a count below 1.
    """

    def __init__(self, space: SearchSpace, count: int) -> None:
        if count < 1:
            raise ValueError(f"the number of bins must be at least 1, got {count}")
        self._space = space
        low, high = (space.cost(end()).multiply_adds for end in (space.smallest, space.largest))
        count = count if 0 < low < high else 1
        inner = [low * (high / low) ** (index / count) for index in range(1, count)]
        self.edges: tuple[float, ...] = (low, *inner, high)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def index(self, architecture: Architecture) -> int:
        """The bin of a student, from 0 (the cheapest); a student beyond an end belongs to the bin there."""
        cost = self._space.cost(architecture).multiply_adds
        return min(max(bisect_right(self.edges, cost) - 1, 0), len(self) - 1)
