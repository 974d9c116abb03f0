"""Seeded bugs in the metrics and in the conversion to ArviZ, each of which one of the tests must catch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from pyro_bdl.diagnostics import arviz, calibration, conversion, draws, ood, regression
from pyro_bdl.diagnostics.arrays import as_labels, as_probabilities, mean_probabilities
from tests.diagnostics import test_arviz, test_calibration, test_ood, test_regression
from tests.diagnostics.test_arviz import nuts  # noqa: F401  (a fixture)


def _bins(confidence: Callable[..., Any], closed: str = "left") -> Callable[..., Any]:
    def reliability_bins(probs: Any, labels: Any, *, num_bins: int = 15) -> calibration.ReliabilityBins:
        p = mean_probabilities(probs)
        y = as_labels(labels, length=len(p), classes=p.shape[1])
        c, right, edges = confidence(p, y), p.argmax(-1) == y, np.linspace(0, 1, num_bins + 1)
        place = np.searchsorted(edges[1:-1], c, side=closed)  # type: ignore[call-overload]
        count = np.bincount(place, minlength=num_bins)
        with np.errstate(invalid="ignore"):
            means = [np.bincount(place, w, num_bins) / count for w in (c, right)]
        return calibration.ReliabilityBins(edges, count, *means)

    return reliability_bins


def _unweighted(probs: Any, labels: Any, *, num_bins: int = 15) -> float:
    bins = calibration.reliability_bins(probs, labels, num_bins=num_bins)
    return float(np.nanmean(np.abs(bins.accuracy - bins.confidence)))


def _first_draw(value: Any) -> Any:
    probs = as_probabilities(value)
    return probs[0] if probs.ndim == 3 else probs


def _variance_for_deviation(mean: Any, sd: Any, y: Any) -> Any:
    m, s, t = _REAL_MIXTURE(mean, sd, y)
    return m, s**2, t


def _mean_of_logs(mean: Any, sd: Any, y: Any) -> float:
    m, s, t = _REAL_MIXTURE(mean, sd, y)
    return float((-0.5 * ((t - m) / s) ** 2 - np.log(s) - 0.5 * np.log(2 * np.pi)).mean())


_REAL_MIXTURE = regression._mixture
METRICS: dict[str, tuple[Any, str, Any, Callable[[], None]]] = {
    "bins closed on the left": (
        calibration, "reliability_bins", _bins(lambda p, y: p.max(-1), "right"), test_calibration.test_by_hand
    ),
    "confidence in the label": (
        calibration, "reliability_bins", _bins(lambda p, y: p[np.arange(len(y)), y]), test_calibration.test_by_hand
    ),
    "bins of equal weight": (
        calibration, "expected_calibration_error", _unweighted,
        test_calibration.test_bins_weigh_as_many_points_as_they_have,
    ),
    "entropy in bits": (
        ood, "_entropy", lambda p: -np.sum(p * np.log2(np.where(p > 0, p, 1)), -1),
        test_ood.test_entropies_are_those_of_scipy,
    ),
    "entropy of one draw": (ood, "mean_probabilities", _first_draw, test_ood.test_entropies_are_those_of_scipy),
    "scores the wrong way round": (
        ood, "_labelled", lambda i, o: (np.repeat([1.0, 0.0], [len(i), len(o)]), np.r_[i, o]),
        test_ood.test_perfect_and_hopeless,
    ),
    "variance for deviation": (
        regression, "_mixture", _variance_for_deviation, test_regression.test_mixture_agrees_with_scipy
    ),
    "mean of logarithms": (
        regression, "mixture_log_likelihood", _mean_of_logs, test_regression.test_mixture_agrees_with_scipy
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METRICS)
def test_a_wrong_metric_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, attribute, mutant, test = METRICS[name]
    monkeypatch.setattr(module, attribute, mutant)
    with pytest.raises(AssertionError):
        test()


def _draw_by_draw(values: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    chains, length = next(iter(values.values())).shape[:2]
    for place in range(length):
        for chain in range(chains):
            yield {name: value[chain, place] for name, value in values.items()}


def _one_late(values: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    first, *rest = draws.each_mcmc_draw(values)
    yield from [*rest, first]


def _transposed(self: Any, what: str, value: Any) -> Any:
    array = np.asarray(value)
    if array.shape[:2] == (self.chains, self.length):
        return array
    return np.swapaxes(array.reshape(self.length, self.chains, *array.shape[1:]), 0, 1)


CONVERSIONS = {
    "chains interleaved": (arviz, "each_mcmc_draw", _draw_by_draw),
    "one draw late": (arviz, "each_mcmc_draw", _one_late),
    "chains and draws mixed up": (conversion.Collector, "by_chain", _transposed),
}


@pytest.mark.parametrize("container", test_arviz.CONTAINERS)
@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_wrong_conversion_is_caught(
    name: str,
    container: str,
    nuts: Any,  # noqa: F811
    az: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(*CONVERSIONS[name])
    with pytest.raises(AssertionError):
        test_arviz.test_values_by_hand(nuts, container)
