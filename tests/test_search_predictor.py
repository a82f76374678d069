"""The predictor and what is said about it, on accuracies whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from proard.search.genotypes import Genotypes
from proard.search.labels import MeasuredLabel, standard_error
from proard.search.learning import LearningPoint, agreement, enough_labels, learning_curve
from proard.search.population_cost import PopulationCost
from proard.search.predictor import REGRESSORS, TARGETS, Predictor, features, fitted, names_for
from proard.supernet import families

SPACE = families.build("resnet", {"num_classes": 10, "input_shape": (3, 32, 32)}).space()
GENOTYPES = Genotypes(SPACE)
COSTS = PopulationCost(GENOTYPES)
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
    predictor = Predictor(COSTS, LABELLED, truth(LABELLED), (name,))
    predicted, right = predictor(OTHERS), truth(OTHERS)
    for column, target in enumerate(TARGETS):
        assert predictor.chosen[target] == name
        assert predictor.compared[target][name].tau > 0.93
        assert kendalltau(predicted[:, column], right[:, column]).statistic > 0.95
        assert np.abs(predicted[:, column] - right[:, column]).mean() < 0.01


def test_what_is_reported_as_held_out_holds_for_others() -> None:
    """Cross-validated error and tau are those on architectures that were never labelled."""
    predictor = Predictor(COSTS, LABELLED, noisy(LABELLED, 0.03), CHEAP)
    errors = predictor(OTHERS) - noisy(OTHERS, 0.03, seed=9)
    for column, target in enumerate(TARGETS):
        best = predictor.compared[target][predictor.chosen[target]]
        assert best.error == pytest.approx(np.abs(errors[:, column]).mean(), rel=0.4)
        assert all(best.tau >= other.tau for other in predictor.compared[target].values())
        assert best.error <= best.deviation
    uncertainty = predictor.uncertainty(OTHERS)
    covered = np.abs(errors) < 1.96 * uncertainty
    assert uncertainty.shape == (100, 2)
    assert 0.88 < covered.mean() <= 1
    assert predictor(OTHERS).min() >= 0
    assert predictor(OTHERS).max() <= 1


def test_labels_of_pure_chance_cannot_be_predicted() -> None:
    values = np.random.default_rng(3).random((80, 2))
    predictor = Predictor(COSTS, LABELLED, values, ("ridge",))
    assert all(abs(predictor.compared[target]["ridge"].tau) < 0.25 for target in TARGETS)
    constant = Predictor(COSTS, LABELLED[:10], np.full((10, 2), 0.5), ("ridge",))
    assert constant.compared["clean"]["ridge"].tau == 0
    assert constant(OTHERS[:3]) == pytest.approx(np.full((3, 2), 0.5))


@pytest.mark.parametrize("name", REGRESSORS)
def test_every_regressor_repeats_itself_and_leaves_the_global_random_state(name: str) -> None:
    inputs, values = features(COSTS, LABELLED[:12]), truth(LABELLED[:12])
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (fitted(name, inputs, values).predict(inputs) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    assert np.abs(first - values).mean() < np.abs(values.mean(0) - values).mean()  # it has learned something


def test_which_regressors_are_compared() -> None:
    assert set(names_for(100)) == set(REGRESSORS) == {"ridge", "gaussian_process", "gradient_boosting", "mlp"}
    assert "gaussian_process" not in names_for(5000)
    assert REGRESSORS["mlp"]().regressor.hidden_layer_sizes == (400,) * 6


def test_too_few_labels() -> None:
    with pytest.raises(ValueError, match="at least 8 labels, got 7"):
        Predictor(COSTS, LABELLED[:7], truth(LABELLED[:7]))


# ---------------------------------------------------------------------------------------------------------------------
# Enough labels, and the ceiling that noise sets


def test_the_learning_curve_rises_to_what_all_labels_give() -> None:
    predictor = Predictor(COSTS, LABELLED, truth(LABELLED), ("ridge",))
    final = {target: predictor.compared[target]["ridge"].tau for target in TARGETS}
    curve = learning_curve(features(COSTS, LABELLED), truth(LABELLED), predictor.chosen, final)
    assert [point.labels for point in curve] == [20, 40, 60, 80]
    for target in TARGETS:
        taus = [point.tau[target] for point in curve]
        assert taus[0] < taus[1] < taus[3]
        assert taus[-1] == final[target]
        assert enough_labels(curve, target) in (60, 40)  # the function is noiseless


def test_enough_labels() -> None:
    def enough(*taus: float) -> int | None:
        return enough_labels([LearningPoint(10 * (i + 1), {"clean": tau}) for i, tau in enumerate(taus)], "clean")

    assert enough(0.2, 0.5, 0.59, 0.6) == 30
    assert enough(0.2, 0.4, 0.5, 0.6) is None  # more still help
    assert enough(0.6, 0.3, 0.6, 0.6) == 30  # the first was luck
    assert enough(0.6, 0.6, 0.6, 0.6) == 10
    assert enough(0.5) is None


def test_agreement_of_labels_against_a_simulation() -> None:
    """Measured on halves, extrapolated to full labels and to the truth, and compared with both."""
    rng = np.random.default_rng(4)
    true, images = np.clip(rng.normal(0.5, 0.08, 1500), 0, 1), 200
    halves = rng.binomial(images // 2, true[:, None], (1500, 2)) / (images // 2)
    other = rng.binomial(images, true) / images
    full = halves.mean(1)
    labels = [
        MeasuredLabel(f, f, images, ((first, first), (second, second)))
        for f, (first, second) in zip(full.tolist(), halves.tolist(), strict=True)
    ]
    found = agreement(labels, "robust")
    assert found.halves == kendalltau(halves[:, 0], halves[:, 1]).statistic
    assert found.labels == pytest.approx(kendalltau(full, other).statistic, abs=0.03)
    assert found.ceiling == pytest.approx(kendalltau(full, true).statistic, abs=0.03)
    assert found.halves < found.labels < found.ceiling
    assert standard_error(0.5, images) == pytest.approx(np.std(rng.binomial(images, 0.5, 20_000) / images), rel=0.03)
    assert standard_error(0.5, 0) == 0


def test_agreement_without_any() -> None:
    labels = [MeasuredLabel(0.5, 0.5, 10, ((i / 10, 0.5), (1 - i / 10, 0.5))) for i in range(10)]
    assert (agreement(labels, "clean").labels, agreement(labels, "robust").ceiling) == (0, 0)
