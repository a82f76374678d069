"""Drawing random architectures of a wanted cost: a uniform draw almost never is near the ends of a space."""

from __future__ import annotations

import random
from collections import OrderedDict

from proard.supernet import Architecture, SearchSpace
from proard.supernet.cost_bins import CostBins

KEPT_PER_BIN = 64
DRAWS_PER_BIN = 200  # uniform ones, then mutations towards what is missing
CHANGED = 0.2  # probability of drawing a decision anew around a remembered architecture


class Strata:
    """The multiply-add bins of a space, and random architectures from each.

    Every bin remembers some architectures: uniform draws first, then mutations of the ones nearest to it for bins that
    uniform draws hardly hit. A draw mutates one of them, so that the whole bin can be reached.

    Args:
        space: where to draw from.
        bins: how many, of equal ratio of multiply-adds; fewer where some hold no architecture.
    """

    def __init__(self, space: SearchSpace, bins: int) -> None:
        self.space = space
        self.bins = CostBins(space, bins)
        found: list[OrderedDict[Architecture, None]] = [OrderedDict() for _ in range(len(self.bins))]
        rng = random.Random(0)

        def remember(architecture: Architecture) -> None:
            members = found[self.bins.index(architecture)]
            if len(members) < KEPT_PER_BIN:
                members.setdefault(architecture)

        for end in (space.smallest(), space.largest()):
            remember(end)
        for _ in range(DRAWS_PER_BIN * len(self.bins)):
            remember(space.sample(rng))
        for index in (*range(len(found)), *reversed(range(len(found)))):
            for _ in range(DRAWS_PER_BIN if len(found[index]) < KEPT_PER_BIN else 0):
                near = min((b for b in range(len(found)) if found[b]), key=lambda b: abs(b - index))
                remember(space.mutate(rng.choice(list(found[near])), rng, CHANGED))
        self.members = {index: list(members) for index, members in enumerate(found) if members}

    def index(self, architecture: Architecture) -> int:
        """The bin that an architecture's multiply-adds are in."""
        return self.bins.index(architecture)

    def draw(self, index: int, rng: random.Random) -> Architecture:
        """A random architecture of a bin that has any (a key of ``members``)."""
        base = rng.choice(self.members[index])
        changed = self.space.mutate(base, rng, CHANGED)
        return changed if self.index(changed) == index else base
