"""Which blocks and which students to measure, where not all of them are."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from proard.latency.blocks import Block
from proard.supernet import Architecture, SearchSpace

CANDIDATES = 200  # random students, of which some are measured


def spread(distinct: dict[str, tuple[Block, Architecture]], most: int) -> dict[str, tuple[Block, Architecture]]:
    """At most so many blocks, evenly over kinds (layers without their sizes) and, within a kind, multiply-adds."""

    def order(item: tuple[str, tuple[Block, Architecture]]) -> tuple[Any, ...]:
        block = item[1][0]
        return tuple(layer.kind for layer in block.layers), block.multiply_adds, block.key

    ordered = sorted(distinct.items(), key=order)
    return dict(ordered[index] for index in evenly(len(ordered), min(most, len(ordered))))


def spread_students(space: SearchSpace, count: int) -> list[Architecture]:
    """Different students, spread evenly over the logarithm of multiply-adds, from the smallest to the largest."""
    rng = random.Random(0)
    smallest, largest = space.smallest(), space.largest()
    pool = [smallest, largest]
    for _ in range(CANDIDATES):
        drawn = space.sample(rng)
        pool += [drawn, space.crossover(drawn, smallest, rng), space.crossover(drawn, largest, rng)]
    left = {architecture: np.log(space.cost(architecture).multiply_adds) for architecture in pool}
    targets = np.linspace(left[smallest], left[largest], min(count, len(left)))
    chosen = []
    for target in targets:
        nearest = min(left, key=lambda architecture: abs(left[architecture] - target))
        chosen.append(nearest)
        del left[nearest]
    return sorted(chosen, key=lambda architecture: space.cost(architecture).multiply_adds)


def evenly(total: int, count: int | None) -> list[int]:
    """So many of ``range(total)``, both ends among them; default two fifths, at least two, of few."""
    count = max(2, round(0.4 * total)) if count is None else count
    return sorted({round(index) for index in np.linspace(0, total - 1, min(count, total))})
