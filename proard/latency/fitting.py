"""Fitting latencies with weights that are not negative, and judging predictions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np


def fit(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> np.ndarray:
    """The weights, none of them negative, that have the least squares of relative errors.

    Args:
        features: one row for each measurement.
        seconds: what was measured, positive.

    Returns:
        Seconds per unit of each feature.
    """
    from scipy.optimize import nnls

    rows = np.array(features, dtype=float) / np.array(seconds)[:, None]
    units = rows.max(0)  # there are a million times as many multiply-adds as layers
    units[units == 0] = 1
    return nnls(rows / units, np.ones(len(rows)))[0] / units


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Overhead and scale, neither negative, with the least squares of relative errors."""
    if len(points) == 1:
        total, measured = points[0]
        return max(0.0, measured - total), (1.0 if measured >= total else measured / total)
    overhead, scale = fit([(1.0, total) for total, _ in points], [measured for _, measured in points])
    return float(overhead), float(scale) or 1e-9


def quality(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Median relative error and rank correlations, where there are any, of predicted against measured."""
    from scipy.stats import kendalltau, spearmanr

    if not pairs:
        return {}
    predicted, measured = zip(*pairs, strict=True)
    error = median(abs(p - m) / m for p, m in pairs)
    if min(len(set(predicted)), len(set(measured))) < 2:
        return {"error": error}
    ranks = float(spearmanr(predicted, measured).statistic), float(kendalltau(predicted, measured).statistic)
    return {"error": error, "rank_correlation": ranks[0], "kendall_tau": ranks[1]}
