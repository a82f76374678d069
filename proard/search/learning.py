"""How many labels are enough, and how well any predictor could do on labels that are noisy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from proard.search.labels import MeasuredLabel
from proard.search.predictor import LEAST_LABELS, TARGETS, Values, fitted, folds, rank_correlation

SHARES = (0.25, 0.5, 0.75)
REPEATS = 3
TOLERANCE = 0.02  # of Kendall's tau: what counts as no further gain


@dataclass(frozen=True)
class LearningPoint:
    """The held-out rank correlation with a number of labels.

    Attributes:
        labels: how many.
        tau: Kendall's tau-b per accuracy, between held-out predictions for all labelled students and their labels.
    """

    labels: int
    tau: Mapping[str, float]


def learning_curve(
    inputs: Values,
    labels: Values,
    chosen: Mapping[str, str],
    final: Mapping[str, float],
    seed: int = 0,
    progress: Callable[[], Any] = lambda: None,
) -> list[LearningPoint]:
    """Held-out rank correlation with a quarter, half and three quarters of the labels, and with all of them.

    Every label is predicted by a model that has seen only a random part of the others; the mean over `REPEATS` parts.

    Args:
        inputs: features (N, F).
        labels: (N, 2).
        chosen: the regressor per accuracy.
        final: tau per accuracy with all labels, from the same folds.
        seed: of the random parts.
        progress: called after each of the ``len(SHARES) * REPEATS`` repetitions, of which few labels need fewer.
    """
    count, splits, points = len(inputs), folds(len(inputs)), []
    for size in dict.fromkeys(round(share * count) for share in SHARES):
        if size < LEAST_LABELS:
            continue
        taus: dict[str, list[float]] = {target: [] for target in TARGETS}
        for repeat in range(REPEATS):
            rng = np.random.default_rng((seed, size, repeat))
            predicted = {name: np.empty_like(labels) for name in dict.fromkeys(chosen.values())}
            for train, test in splits:
                part = rng.permutation(train)[: max(2, round(size * len(train) / count))]
                for name, values in predicted.items():
                    values[test] = fitted(name, inputs[part], labels[part]).predict(inputs[test])
            for column, target in enumerate(TARGETS):
                taus[target].append(rank_correlation(predicted[chosen[target]][:, column], labels[:, column]))
            progress()
        points.append(LearningPoint(size, {target: float(np.mean(values)) for target, values in taus.items()}))
    return [*points, LearningPoint(count, dict(final))]


def enough_labels(curve: Sequence[LearningPoint], target: str, tolerance: float = TOLERANCE) -> int | None:
    """The smallest number of labels from which on tau is within a tolerance of its value with all of them.

    None if that takes all of them: then more labels still help.
    """
    final, enough = curve[-1].tau[target], None
    for point in reversed(curve[:-1]):
        if point.tau[target] < final - tolerance:
            break
        enough = point.labels
    return enough


@dataclass(frozen=True)
class Agreement:
    """How two independent measurements of the same students agree: what noise leaves for a predictor.

    Attributes:
        halves: Kendall's tau-b between labels on one half of the images and on the other.
        labels: the same for two labels of the full number of images, extrapolated.
        ceiling: between such labels and the true accuracies: what a perfect predictor would reach, extrapolated.
    """

    halves: float
    labels: float
    ceiling: float


def agreement(labels: Sequence[MeasuredLabel], target: str) -> Agreement:
    """Measured on the two halves of the images that every label has.

    Unlike the binomial standard error it does not count what all students share, such as an image that is hard for all.
    The extrapolation is that of Spearman and Brown (1910), r' = 2 r / (1 + r) for twice the images and sqrt(r') against
    the truth, with tau = 2 / pi arcsin(r) as for normally distributed values.

    Args:
        labels: of different students.
        target: ``clean`` or ``robust``.
    """
    column = TARGETS.index(target)
    first, second = (np.array([label.halves[half][column] for label in labels]) for half in (0, 1))
    tau = rank_correlation(first, second)
    r = max(0.0, math.sin(math.pi / 2 * tau))
    full = 2 * r / (1 + r)
    return Agreement(tau, 2 / math.pi * math.asin(full), 2 / math.pi * math.asin(math.sqrt(full)))
