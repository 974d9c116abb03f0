"""Classification metrics against other libraries and against cases worked out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from pyro_bdl.diagnostics import calibration as cal
from pyro_bdl.errors import InputError

METRICS = [cal.accuracy, cal.error_rate, cal.negative_log_likelihood, cal.brier_score, cal.expected_calibration_error]
P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.25, 0.5, 0.25]])
Y = np.array([0, 1, 0, 2])


def random_predictions(seed: int, n: int = 500, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.4), size=n)
    return probs, np.array([rng.choice(classes, p=p) for p in probs])


def test_by_hand() -> None:
    assert cal.accuracy(P, Y) == 0.5
    assert cal.error_rate(P, Y) == 0.5
    assert cal.negative_log_likelihood(P, Y) == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.25]).mean())
    by_point = [0.09 + 0.04 + 0.01, 0.01 + 0.04 + 0.01, 0.49 + 0.09 + 0.16, 0.0625 + 0.25 + 0.5625]
    assert cal.brier_score(P, Y) == pytest.approx(np.mean(by_point))
    # confidences 0.7 (right), 0.8 (right), 0.4 (wrong), 0.5 (wrong); two bins (0, 0.5] and (0.5, 1]
    assert cal.expected_calibration_error(P, Y, num_bins=2) == pytest.approx(0.5 * 0.45 + 0.5 * 0.25)
    bins = cal.reliability_bins(P, Y, num_bins=2)
    assert bins.count.tolist() == [2, 2]
    np.testing.assert_allclose(bins.confidence, [0.45, 0.75])
    np.testing.assert_allclose(bins.accuracy, [0.0, 1.0])


def test_bins_weigh_as_many_points_as_they_have() -> None:
    probs = [[0.9, 0.1]] * 9 + [[0.6, 0.4]]
    assert cal.expected_calibration_error(probs, [0] * 10) == pytest.approx(0.9 * 0.1 + 0.1 * 0.4)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_other_libraries(seed: int) -> None:
    probs, labels = random_predictions(seed)
    assert cal.negative_log_likelihood(probs, labels) == pytest.approx(log_loss(labels, probs), rel=1e-6)
    theirs = multiclass_calibration_error(torch.tensor(probs), torch.tensor(labels), num_classes=4, n_bins=15)
    assert cal.expected_calibration_error(probs, labels) == pytest.approx(theirs.item(), abs=1e-6)


def test_probability_one_belongs_to_the_last_bin() -> None:
    probs = [[1.0, 0.0], [1.0, 0.0], [0.95, 0.05], [0.95, 0.05]]
    bins = cal.reliability_bins(probs, [0, 1, 0, 0], num_bins=10)
    assert bins.count.tolist() == [0] * 9 + [4]
    assert np.isnan(bins.confidence[:9]).all()
    assert cal.expected_calibration_error(probs, [0, 1, 0, 0], num_bins=10) == pytest.approx(0.975 - 0.75)


@pytest.mark.parametrize("metric", METRICS)
def test_draws_are_averaged_and_types_do_not_matter(metric: Any) -> None:
    rng = np.random.default_rng(0)
    draws = rng.dirichlet(np.ones(3), size=(5, 40))
    labels = rng.integers(3, size=40)
    expected = metric(draws.mean(0), labels)
    assert isinstance(expected, float)
    assert metric(torch.tensor(draws), torch.tensor(labels)) == pytest.approx(expected)
    assert metric(draws.tolist(), labels.astype(np.uint8).tolist()) == pytest.approx(expected)
    assert metric(torch.tensor(draws).float().requires_grad_(), labels) == pytest.approx(expected, rel=1e-5)


def test_certain_and_wrong_is_infinite_and_certain_and_right_is_perfect() -> None:
    certain = [[1.0, 0.0], [1.0, 0.0]]
    assert cal.negative_log_likelihood(certain, [0, 1]) == np.inf
    assert cal.negative_log_likelihood(certain, [0, 0]) == 0.0
    assert cal.brier_score(certain, [1, 1]) == 2.0
    assert cal.expected_calibration_error(certain, [0, 0]) == 0.0


@settings(deadline=None)  # the first example pays for an import
@given(
    logits=arrays.arrays(
        np.float64, st.tuples(st.integers(1, 20), st.integers(2, 5)), elements=st.floats(-700, 700, width=32)
    ),
    data=st.data(),
)
def test_every_metric_stays_in_its_range(logits: np.ndarray, data: st.DataObject) -> None:
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    labels = np.array(data.draw(st.lists(st.integers(0, probs.shape[1] - 1), min_size=len(probs), max_size=len(probs))))
    assert 0 <= cal.accuracy(probs, labels) <= 1
    assert 0 <= cal.negative_log_likelihood(probs, labels) <= np.inf
    assert 0 <= cal.brier_score(probs, labels) <= 2
    assert 0 <= cal.expected_calibration_error(probs, labels) <= 1
    assert cal.reliability_bins(probs, labels).count.sum() == len(labels)


BAD = {
    "logits": ([[2.0, -1.0]], [0], "Are they logits"),
    "no sum of one": ([[0.5, 0.6]], [0], "sum of 1"),
    "NaN": ([[0.5, np.nan]], [0], r"finite numbers, got nan at \(0, 1\)"),
    "infinite": ([[0.5, np.inf]], [0], "finite"),
    "one axis": ([0.5, 0.5], [0, 1], "shape"),
    "four axes": (np.full((1, 1, 1, 2), 0.5), [0], "shape"),
    "one class": ([[1.0]], [0], "two classes"),
    "empty": (np.zeros((0, 2)), np.zeros(0, int), "at least one"),
    "words": ([["a", "b"]], [0], "numbers"),
    "label too large": ([[0.5, 0.5]], [2], r"integers in \[0, 2\), got the label 2"),
    "negative label": ([[0.5, 0.5]], [-1], "the label -1"),
    "labels of floats": ([[0.5, 0.5]], [0.0], "integer dtype"),
    "labels of booleans": ([[0.5, 0.5]], [True], "integer dtype"),
    "one-hot labels": ([[0.5, 0.5]], [[0, 1]], "labels: expected shape"),
    "too few labels": ([[0.5, 0.5]] * 2, [0], r"shape \(2,\)"),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", BAD)
def test_bad_input(metric: Any, name: str) -> None:
    probs, labels, message = BAD[name]
    with pytest.raises(InputError, match=message):
        metric(probs, labels)


@pytest.mark.parametrize("num_bins", [0, -1, 2.5, "many"])
def test_bad_number_of_bins(num_bins: Any) -> None:
    with pytest.raises(InputError, match="num_bins"):
        cal.expected_calibration_error(P, Y, num_bins=num_bins)
