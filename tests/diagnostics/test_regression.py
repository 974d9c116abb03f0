"""Regression metrics against scipy, and calibration where the truth is known."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_bdl.diagnostics import regression as reg
from pyro_bdl.errors import InputError

RNG = np.random.default_rng(0)
MEAN, SD, Y = RNG.normal(size=(7, 30)), RNG.uniform(0.3, 2, size=(7, 30)), RNG.normal(size=30)


def test_mixture_agrees_with_scipy() -> None:
    densities = stats.norm(MEAN, SD).pdf(Y).mean(0)
    assert reg.mixture_log_likelihood(MEAN, SD, Y) == pytest.approx(np.log(densities).mean())
    np.testing.assert_allclose(reg.mixture_pit(MEAN, SD, Y), stats.norm(MEAN, SD).cdf(Y).mean(0))
    assert reg.rmse(MEAN, Y) == pytest.approx(np.sqrt(((MEAN.mean(0) - Y) ** 2).mean()))
    assert reg.rmse(torch.tensor(MEAN.mean(0)), torch.tensor(Y)) == pytest.approx(reg.rmse(MEAN, Y))


@pytest.mark.parametrize("sd", [0.5, np.full(30, 0.5), np.full((7, 1), 0.5), np.full((7, 30), 0.5)])
def test_deviations_of_every_shape(sd: Any) -> None:
    expected = np.log(stats.norm(MEAN, 0.5).pdf(Y).mean(0)).mean()
    assert reg.mixture_log_likelihood(MEAN, sd, Y) == pytest.approx(expected)


def test_a_far_target_does_not_underflow() -> None:
    assert reg.mixture_log_likelihood([[0.0]], 1e-3, [1e3]) == pytest.approx(stats.norm(0, 1e-3).logpdf(1e3))


# Under calibration the integral transforms are uniform: Kolmogorov-Smirnov at p > 1e-6, one draw of the data a case.
# At N = 4,000 a scale that is wrong by 25% moves the distribution function by 0.05, and p is below 1e-6 but for 1e-5.
def calibrated(scale: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    centre = rng.normal(size=4_000)
    target = centre + rng.normal(size=4_000)
    mixture = reg.mixture_pit(centre[None], scale, target)
    draws = centre + scale * rng.normal(size=(999, 4_000))
    return mixture, reg.sample_pit(draws, target)


def test_transform_of_a_calibrated_prediction_is_uniform() -> None:
    for pit in calibrated(1.0):
        assert stats.kstest(pit, "uniform").pvalue > 1e-6
        for level in (0.5, 0.9, 0.99):
            tail = stats.binomtest(round(reg.interval_coverage(pit, level=level) * 4_000), 4_000, level).pvalue
            assert tail > 1e-6


@pytest.mark.parametrize("scale", [0.75, 1.33])
def test_transform_shows_a_wrong_scale(scale: float) -> None:
    for pit in calibrated(scale):
        assert stats.kstest(pit, "uniform").pvalue < 1e-6
        assert (reg.interval_coverage(pit) > 0.9) == (scale > 1)


@pytest.mark.parametrize("function", [reg.mixture_log_likelihood, reg.mixture_pit])
@pytest.mark.parametrize(
    ("mean", "sd", "y", "message"),
    [
        (MEAN[0], 1.0, Y, "mean: expected shape"),
        (MEAN, 0.0, Y, "sd: expected positive"),
        (MEAN, -SD, Y, "sd: expected positive"),
        (MEAN, np.ones(4), Y, "sd: expected a shape that broadcasts"),
        (MEAN, 1.0, Y[:5], "y: expected shape"),
        (MEAN, 1.0, np.full(30, np.nan), "y: expected finite"),
        (np.zeros((0, 30)), 1.0, Y, "mean: expected at least one"),
    ],
)
def test_bad_mixture(function: Any, mean: Any, sd: Any, y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(mean, sd, y)


def test_other_bad_input() -> None:
    with pytest.raises(InputError, match="y: expected shape"):
        reg.rmse([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="draws: expected shape"):
        reg.sample_pit(Y, Y)
    with pytest.raises(InputError, match=r"pit: expected numbers in \[0, 1\]"):
        reg.interval_coverage([0.5, 1.2])
    with pytest.raises(InputError, match="level"):
        reg.interval_coverage([0.5], level=90)
