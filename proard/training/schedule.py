"""The learning rate within a phase."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, peak: float, warmup_steps: float = 0.0) -> float:
    """Linear warm-up to ``peak``, then half a cosine towards 0 (arXiv 1608.03983).

    Args:
        step: 0 to ``steps - 1``.
        steps: of the whole phase.
        peak: the largest rate.
        warmup_steps: how many of them are warm-up; less than ``steps``.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
