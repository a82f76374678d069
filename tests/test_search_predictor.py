"""The predictor and what is said about it, on accuracies whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from proard.search.genotypes import Genotypes
from proard.search.predictor import REGRESSORS, TARGETS, Predictor, features, fitted, names_for
from proard.supernet import families

SPACE = families.build("resnet", {"num_classes": 10, "input_shape": (3, 32, 32)}).space()
GENOTYPES = Genotypes(SPACE)
CHEAP = ("ridge", "gaussian_process")


def truth(matrix: Any) -> Any:
    """Each decision adds to both accuracies, by amounts of its own."""
    rng = np.random.default_rng(11)
    amounts = rng.random((GENOTYPES.one_hot(matrix).shape[1], 2))
    values = GENOTYPES.one_hot(matrix) @ amounts
    return 0.3 + 0.5 * (values - 5) / 10


def noisy(matrix: Any, deviation: float, seed: int = 0) -> Any:
    return np.clip(truth(matrix) + np.random.default_rng(seed).normal(0, deviation, (len(matrix), 2)), 0, 1)


LABELLED = GENOTYPES.sample(80, np.random.default_rng(1))
OTHERS = GENOTYPES.sample(100, np.random.default_rng(2))


@pytest.mark.parametrize("name", ["ridge", "gaussian_process"])
def test_a_noiseless_additive_function_is_ranked_nearly_perfectly(name: str) -> None:
    predictor = Predictor(GENOTYPES, LABELLED, truth(LABELLED), (name,))
    predicted, right = predictor(OTHERS), truth(OTHERS)
    for column, target in enumerate(TARGETS):
        assert predictor.chosen[target] == name
        assert predictor.compared[target][name].tau > 0.93
        assert kendalltau(predicted[:, column], right[:, column]).statistic > 0.95
        assert np.abs(predicted[:, column] - right[:, column]).mean() < 0.01


def test_what_is_reported_as_held_out_holds_for_others() -> None:
    """Cross-validated error and tau are those on architectures that were never labelled."""
    predictor = Predictor(GENOTYPES, LABELLED, noisy(LABELLED, 0.03), CHEAP)
    errors = predictor(OTHERS) - noisy(OTHERS, 0.03, seed=9)
    for column, target in enumerate(TARGETS):
        best = predictor.compared[target][predictor.chosen[target]]
        assert best.error == pytest.approx(np.abs(errors[:, column]).mean(), rel=0.4)
        assert all(best.tau >= other.tau for other in predictor.compared[target].values())
        assert best.error <= best.deviation
    assert predictor(OTHERS).min() >= 0
    assert predictor(OTHERS).max() <= 1


def test_labels_of_pure_chance_cannot_be_predicted() -> None:
    values = np.random.default_rng(3).random((80, 2))
    predictor = Predictor(GENOTYPES, LABELLED, values, ("ridge",))
    assert all(abs(predictor.compared[target]["ridge"].tau) < 0.25 for target in TARGETS)
    constant = Predictor(GENOTYPES, LABELLED[:10], np.full((10, 2), 0.5), ("ridge",))
    assert constant.compared["clean"]["ridge"].tau == 0
    assert constant(OTHERS[:3]) == pytest.approx(np.full((3, 2), 0.5))


@pytest.mark.parametrize("name", REGRESSORS)
def test_every_regressor_repeats_itself_and_leaves_the_global_random_state(name: str) -> None:
    inputs, values = features(GENOTYPES, LABELLED[:12]), truth(LABELLED[:12])
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (fitted(name, inputs, values).predict(inputs) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    assert np.abs(first - values).mean() < np.abs(values.mean(0) - values).mean()  # it has learned something


def test_which_regressors_are_compared() -> None:
    assert set(names_for(100)) == set(REGRESSORS) == {"ridge", "gaussian_process", "gradient_boosting", "mlp"}
    assert "gaussian_process" not in names_for(5000)
    assert REGRESSORS["mlp"]().regressor.hidden_layer_sizes == (400,) * 6
