"""What several processes of one training have to agree on."""

from __future__ import annotations

import torch
from torch import distributed


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The average of a tensor over the processes of the job; the tensor itself where there is one process.

    Args:
        values: same shape on every rank; not changed.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
