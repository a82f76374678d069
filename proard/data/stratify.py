"""Drawing a sample in which every class keeps its share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def stratified_sample(labels: Integers, count: int, generator: np.random.Generator) -> Integers:
    """Indices of ``count`` images, in random order; every class is among them if ``count`` allows.

    Args:
        labels: (N,) class of each image.
        count: how many to draw, 0 to N.
        generator: source of the draw.
    """
    sizes = np.bincount(labels)
    least = np.minimum(sizes, 1) if count >= np.count_nonzero(sizes) else np.zeros_like(sizes)
    return draw_per_class(labels, class_quotas(sizes, count, least, sizes), generator)


def class_quotas(sizes: Integers, count: int, least: Integers, most: Integers) -> Integers:
    """How many images of each class a sample of ``count`` has: the class's exact share, rounded up or down.

    Args:
        sizes: (classes,) number of images of each class.
        count: size of the sample; brought within what the bounds allow.
        least: lower bound for each class.
        most: upper bound for each class.
    """
    shares = count * sizes / max(sizes.sum(), 1)
    quotas = np.clip(np.floor(shares).astype(np.int64), least, most)
    while (left := np.clip(count, least.sum(), most.sum()) - quotas.sum()) != 0:
        step = int(np.sign(left))
        possible = quotas < most if step > 0 else quotas > least
        # The class that is furthest from its share, on the side that this step mends.
        quotas[np.argmax(np.where(possible, step * (shares - quotas), -np.inf))] += step
    return quotas


def draw_per_class(labels: Integers, quotas: Integers, generator: np.random.Generator) -> Integers:
    """Indices of ``quotas[c]`` random images of each class ``c``, in random order: any stretch is a fair mix."""
    members = [generator.permutation(np.flatnonzero(labels == c))[:quota] for c, quota in enumerate(quotas)]
    return generator.permutation(np.concatenate(members))
