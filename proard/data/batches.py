"""Orders in which a set is read: lists of index batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def epoch_batches(size: int, batch_size: int, seed: tuple[int, ...], drop_last: bool = True) -> list[Tensor]:
    """Every index once, in an order that is a function of ``seed``, so that a resumed run recomputes it.

    Args:
        size: number of images.
        batch_size: images per batch, at least 1.
        seed: non-negative integers, such as (run seed, phase, epoch); always the same number of them.
        drop_last: leave out a last batch that is not full, unless it is the only one.

    Returns:
        int64 tensors (batch_size,) on the CPU; the global random state is neither read nor changed.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(size))
    if drop_last and size > batch_size:
        order = order[: size - size % batch_size]
    return _cut(order, batch_size)


def sequential_batches(size: int, batch_size: int) -> list[Tensor]:
    """The indices 0 ... size-1 in order, int64 on the CPU; the last batch may be smaller."""
    return _cut(torch.arange(size), batch_size)


def _cut(order: Tensor, batch_size: int) -> list[Tensor]:
    return list(order.split(batch_size)) if len(order) else []
