"""Predicting clean and robust accuracy from the encoding of an architecture.

Several regressors are compared by cross-validation, and each accuracy is predicted by the one whose held-out
predictions rank the students best (Kendall's tau-b). The multi-layer perceptron is the one of ProARD
(arXiv 2506.07666, after OFA's): six layers of 400 units on the one-hot encoding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from proard.search.genotypes import Genotypes, Matrix
from proard.search.selection import Label

Values = npt.NDArray[np.float64]
TARGETS = ("clean", "robust")
FOLDS = 5
LEAST_LABELS = 8  # below, nothing can be said about held-out students
MOST_FOR_GAUSSIAN_PROCESS = 1000  # its time grows with the cube of the labels


def _gaussian_process() -> Any:
    # Wide length scales first: the inputs have unit variance, and there are dozens of them.
    kernel = ConstantKernel(1.0) * RBF(10.0, (1.0, 1000.0)) + WhiteKernel(0.1, (1e-6, 1.0))
    return MultiOutputRegressor(GaussianProcessRegressor(kernel, normalize_y=True, random_state=0))


def _gradient_boosting() -> Any:
    boosting = GradientBoostingRegressor(
        n_estimators=200, learning_rate=0.05, max_depth=3, subsample=0.7, random_state=0
    )
    return MultiOutputRegressor(boosting)


def _mlp() -> Any:
    network = MLPRegressor(hidden_layer_sizes=(400,) * 6, batch_size=32, max_iter=60, random_state=0)
    return TransformedTargetRegressor(network, transformer=StandardScaler())


REGRESSORS: dict[str, Callable[[], Any]] = {
    "ridge": partial(RidgeCV, alphas=np.logspace(-3, 3, 13)),
    "gaussian_process": _gaussian_process,
    "gradient_boosting": _gradient_boosting,
    "mlp": _mlp,
}
"""Constructors of regressors from (N, features) to (N, 2), without random state of their own."""


@dataclass(frozen=True)
class HeldOut:
    """How the held-out predictions of a regressor agree with the labels.

    Attributes:
        tau: Kendall's tau-b, in [-1, 1]; 0 where it is not defined, since all are equal.
        error: mean absolute error of an accuracy in [0, 1].
        deviation: root mean square error.
    """

    tau: float
    error: float
    deviation: float


def held_out(predicted: Values, labels: Values) -> HeldOut:
    """Compare predictions (N,) with labels (N,)."""
    tau = kendalltau(predicted, labels).statistic
    difference = predicted - labels
    return HeldOut(
        tau=0.0 if np.isnan(tau) else float(tau),
        error=float(np.abs(difference).mean()),
        deviation=float(np.sqrt((difference**2).mean())),
    )


def as_values(labels: Sequence[Label]) -> Values:
    """Labels as (N, 2): clean, robust."""
    return np.array([[label.clean, label.robust] for label in labels], dtype=np.float64).reshape(-1, 2)


def features(genotypes: Genotypes, matrix: Matrix) -> Values:
    """The one-hot encoding of rows, and the logarithms of multiply-adds and parameters."""
    logarithms = [np.log(np.maximum(genotypes.cost(matrix, name), 1)) for name in ("multiply_adds", "parameters")]
    return np.column_stack([genotypes.one_hot(matrix), *logarithms])


def fitted(name: str, inputs: Values, labels: Values) -> Any:
    """A regressor fitted to labels (N, 2), on inputs that it scales to unit variance."""
    model = make_pipeline(StandardScaler(), REGRESSORS[name]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit that stops early; what it is worth is measured
        return model.fit(inputs, labels)


def names_for(count: int) -> tuple[str, ...]:
    """The regressors that are worth their time for this many labels."""
    return tuple(n for n in REGRESSORS if n != "gaussian_process" or count <= MOST_FOR_GAUSSIAN_PROCESS)


def fits(count: int, regressors: Sequence[str] | None = None) -> int:
    """How many models a `Predictor` of so many labels is compared by: every regressor on every fold."""
    return FOLDS * len(regressors or names_for(count))


class Predictor:
    """Predicts both accuracies of rows of a matrix.

    Args:
        genotypes: of the space.
        matrix: labelled rows (N, decisions), at least `LEAST_LABELS`.
        labels: (N, 2) in [0, 1].
        regressors: names to compare; default those of `names_for`.
        progress: called after each regressor was fitted to a fold: `fits` times.

    Attributes:
        compared: per accuracy and regressor, how the held-out predictions did.
        chosen: per accuracy, the best regressor.
    """

    def __init__(
        self,
        genotypes: Genotypes,
        matrix: Matrix,
        labels: Values,
        regressors: Sequence[str] | None = None,
        progress: Callable[[], Any] = lambda: None,
    ) -> None:
        self.genotypes = genotypes
        inputs = features(genotypes, matrix)
        splits = list(KFold(FOLDS, shuffle=True, random_state=0).split(inputs))
        self.compared: dict[str, dict[str, HeldOut]] = {target: {} for target in TARGETS}
        for name in regressors or names_for(len(matrix)):
            predicted = np.empty_like(labels)
            for train, test in splits:
                predicted[test] = np.clip(fitted(name, inputs[train], labels[train]).predict(inputs[test]), 0, 1)
                progress()
            for column, target in enumerate(TARGETS):
                self.compared[target][name] = held_out(predicted[:, column], labels[:, column])
        self.chosen = {target: _best(self.compared[target]) for target in TARGETS}
        self._models = {name: fitted(name, inputs, labels) for name in dict.fromkeys(self.chosen.values())}

    def __call__(self, matrix: Matrix) -> Values:
        """Predicted accuracies (M, 2), in [0, 1]."""
        inputs = features(self.genotypes, matrix)
        predicted = {name: model.predict(inputs) for name, model in self._models.items()}
        columns = [predicted[self.chosen[target]][:, column] for column, target in enumerate(TARGETS)]
        return np.clip(np.column_stack(columns), 0, 1)


def _best(compared: Mapping[str, HeldOut]) -> str:
    return max(compared, key=lambda name: (compared[name].tau, -compared[name].error))


def comparison_rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """How each regressor did on held-out labels, by column; a star marks the one that is used.

    Args:
        report: of a search with a predictor, as ``front.json`` has it.
    """
    rows = []
    for name in report["predictor"][TARGETS[0]]["compared"]:
        row = {"predictor": name}
        for target in TARGETS:
            held_out, used = (report["predictor"][target][key] for key in ("compared", "chosen"))
            row[f"{target} tau"] = f"{held_out[name]['tau']:.2f}{'*' if used == name else ''}"
            row[f"{target} error"] = f"{100 * held_out[name]['error']:.1f}"
        rows.append(row)
    return rows


def verified_in_words(report: Mapping[str, Any]) -> str:
    """How wrong the predictions of the predicted front were; empty where none of it was measured."""
    verified = report.get("verified") or {"students": 0}
    if not verified["students"]:
        return ""
    errors = ", ".join(f"{target} {100 * verified[f'{target}_error']:.1f}" for target in TARGETS)
    return f"{verified['students']} of the predicted front; mean error in points: {errors}"
