"""Bins of students by what they cost, equally wide in the logarithm of multiply-adds, and random students of a bin."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import OrderedDict

from proard.supernet.architecture import Architecture
from proard.supernet.space import SearchSpace

KEPT_PER_BIN = 64
DRAWS_PER_BIN = 200  # uniform ones, then mutations towards what is missing
CHANGED = 0.2  # probability of drawing a decision anew around a remembered architecture


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
        self.space = space
        low, high = (space.cost(end()).multiply_adds for end in (space.smallest, space.largest))
        count = count if 0 < low < high else 1
        inner = [low * (high / low) ** (index / count) for index in range(1, count)]
        self.edges: tuple[float, ...] = (low, *inner, high)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def index(self, architecture: Architecture) -> int:
        """The bin of a student, from 0 (the cheapest); a student beyond an end belongs to the bin there."""
        cost = self.space.cost(architecture).multiply_adds
        return min(max(bisect_right(self.edges, cost) - 1, 0), len(self) - 1)


class Strata(CostBins):
    """Bins from which random architectures are drawn: a uniform draw from the space hardly ever is near its ends.

    Every bin remembers some architectures: uniform draws first, then mutations of the ones nearest to it for bins that
    uniform draws hardly hit. A draw mutates one of them, so that the whole bin can be reached.

    Attributes:
        members: the architectures that are remembered, by bin; a bin that has none is left out.
    """

    def __init__(self, space: SearchSpace, count: int) -> None:
        super().__init__(space, count)
        found: list[OrderedDict[Architecture, None]] = [OrderedDict() for _ in range(len(self))]
        rng = random.Random(0)

        def remember(architecture: Architecture) -> None:
            members = found[self.index(architecture)]
            if len(members) < KEPT_PER_BIN:
                members.setdefault(architecture)

        for end in (space.smallest(), space.largest()):
            remember(end)
        for _ in range(DRAWS_PER_BIN * len(self)):
            remember(space.sample(rng))
        for index in (*range(len(self)), *reversed(range(len(self)))):
            for _ in range(DRAWS_PER_BIN if len(found[index]) < KEPT_PER_BIN else 0):
                near = min((b for b in range(len(self)) if found[b]), key=lambda b: abs(b - index))
                remember(space.mutate(rng.choice(list(found[near])), rng, CHANGED))
        self.members = {index: list(members) for index, members in enumerate(found) if members}

    def draw(self, index: int, rng: random.Random) -> Architecture:
        """A random architecture of a bin that has any (a key of ``members``)."""
        base = rng.choice(self.members[index])
        changed = self.space.mutate(base, rng, CHANGED)
        return changed if self.index(changed) == index else base
