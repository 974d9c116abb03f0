"""Kaplan-Meier, reliability and D-calibration: by hand, against the library, calibrated and not."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_bdl.diagnostics.survival import d_calibration, kaplan_meier, survival_reliability
from pyro_bdl.errors import InputError

RNG = np.random.default_rng(0)
N = 4000
RATE = np.exp(RNG.normal(size=N))
LIFE, END = RNG.exponential(size=N) / RATE, RNG.exponential(size=N) * 2
TIME, EVENT = np.minimum(LIFE, END), LIFE <= END


def test_kaplan_meier_is_the_librarys() -> None:
    library = pytest.importorskip("sksurv.nonparametric")
    time = np.ceil(TIME[:200] * 10)  # with ties
    at, estimate, interval = library.kaplan_meier_estimator(EVENT[:200], time, conf_type="log-log")
    for t, expected, low, high in zip(at[2:12], estimate[2:12], *interval[:, 2:12], strict=True):
        found = kaplan_meier(time, EVENT[:200], float(t))
        np.testing.assert_allclose(found, (expected, low, high), rtol=1e-6)


def test_intervals_where_nobody_or_everybody_is_left() -> None:
    before, after = (kaplan_meier([1.0, 2.0, 3.0], [1, 1, 1], at) for at in (0.5, 9.0))
    assert (before.estimate, before.high, after.estimate, after.low) == (1.0, 1.0, 0.0, 0.0)
    assert before.low == pytest.approx(1 - after.high)
    assert after.high == pytest.approx(1 - 0.025 ** (1 / 3))


def test_right_predictions_are_calibrated() -> None:
    """95% intervals of 20 groups: at least 14 cover (fewer with probability 2e-6 or less)."""
    right = np.exp(-RATE * 0.5)
    found = survival_reliability(right, TIME, EVENT, 0.5, groups=20)
    assert found.coverage >= 14 / 20
    assert found.error < 0.03
    assert found.counts.sum() == N
    assert d_calibration(np.exp(-RATE * TIME), EVENT).p_value > 1e-6


def test_wrong_predictions_are_not() -> None:
    """A hazard a fifth too large, and one without covariates."""
    wrong = survival_reliability(np.exp(-1.2 * RATE * 0.5), TIME, EVENT, 0.5, groups=20)
    assert wrong.error > 0.03
    assert d_calibration(np.exp(-1.2 * RATE * TIME), EVENT).p_value < 1e-6
    flat = np.full(N, np.exp(-RATE * 0.5).mean())
    assert survival_reliability(flat + 1e-9 * RATE, TIME, EVENT, 0.5, groups=20).coverage < 0.5


def test_the_band_is_that_of_the_draws() -> None:
    draws = np.clip(np.exp(-RATE * 0.5) + RNG.normal(size=(400, 1)) * 0.01, 0, 1)
    found = survival_reliability(draws, TIME, EVENT, 0.5, groups=4)
    np.testing.assert_allclose(found.predicted_band[1] - found.predicted_band[0], 2 * 1.96 * 0.01, rtol=0.2)
    one = survival_reliability(draws.mean(0), TIME, EVENT, 0.5, groups=4)
    np.testing.assert_allclose(one.predicted, found.predicted, atol=1e-12)
    np.testing.assert_array_equal(one.predicted_band[0], one.predicted)


def test_a_censored_subject_is_spread_below_its_own_probability() -> None:
    shares = d_calibration([0.25, 0.9], [0, 1], bins=5).shares
    np.testing.assert_allclose(shares, [0.2 / 0.25 / 2, 0.05 / 0.25 / 2, 0, 0, 0.5])


@given(
    survival=st.lists(st.floats(0, 1), min_size=1, max_size=20), censored=st.integers(0, 2**20), bins=st.integers(2, 12)
)
def test_edges(survival: list[float], censored: int, bins: int) -> None:
    event = np.array([censored >> k & 1 for k in range(len(survival))])
    found = d_calibration(survival, event, bins=bins)
    assert found.shares.sum() == pytest.approx(1.0)
    time = np.arange(1.0, len(survival) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reliability = survival_reliability(survival, time, event, 3.0, groups=1)
    low, high = reliability.observed_band
    assert 0 <= low <= reliability.observed <= high <= 1


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a time of 0": (lambda: kaplan_meier([0.0, 1.0], [1, 1], 1.0), "positive times, got 0"),
    "an event 2": (lambda: kaplan_meier([1.0, 1.0], [1, 2], 1.0), "event: expected 1 for an event"),
    "one event": (lambda: kaplan_meier([1.0, 1.0], [1], 1.0), "event: expected shape"),
    "a probability of 2": (lambda: d_calibration([2.0], [1]), "probabilities in"),
    "more groups than subjects": (lambda: survival_reliability([0.5], [1.0], [1], 1.0, groups=2), "from 1 to 1"),
    "no time": (lambda: kaplan_meier([1.0], [1], np.nan), "finite time from 0 upwards, got nan"),
    "a time before the first": (lambda: survival_reliability([0.5], [1.0], [1], -1.0, groups=1), "got -1.0"),
    "one bin": (lambda: d_calibration([0.5], [1], bins=1), "at least 2, got 1"),
    "a level of 1": (lambda: kaplan_meier([1.0], [1], 1.0, level=1.0), "between 0 and 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    run, message = BAD[case]
    with pytest.raises(InputError, match=message):
        run()
