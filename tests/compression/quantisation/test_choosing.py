"""Integers chosen at a limit on a known error."""

import math

import pytest
import torch

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.quantisation.choosing import choose_integers, entropy, values_of
from pyro_bdl.compression.quantisation.precision import fixed_point
from pyro_bdl.compression.quantisation.widths import POINT_BITS, SPREADS
from pyro_bdl.errors import InputError
from tests.compression.known_error import distance, none_gone, posterior
from tests.fresh_state import fresh_state  # noqa: F401


@pytest.mark.parametrize("limit", [1.0, 0.1, 0.02])
def test_integers_keep_the_limit(limit: float) -> None:
    p = posterior()
    asked, error = distance(p)
    found = choose_integers(p, none_gone(p), evaluate=error, limit=limit, spread=None, trade=None)
    assert error(values_of(found, p.mean)) <= limit
    assert min(asked) <= limit < max(asked)


def test_a_larger_limit_costs_no_more() -> None:
    p = posterior()
    _, error = distance(p)
    bits = [
        sum(entropy(q.levels) for q in choose_integers(
            p, none_gone(p), evaluate=error, limit=limit, spread=None, trade=None).values())
        for limit in (0.02, 0.1, 1.0)
    ]  # fmt: skip
    assert bits[0] > bits[1] > bits[2]


def test_a_limit_that_nothing_keeps_gives_the_finest_rounding() -> None:
    p = posterior()
    found = choose_integers(p, none_gone(p), evaluate=lambda _: 1.0, limit=0.0, spread=None, trade=None)
    for name, q in found.items():
        assert q.exponent == fixed_point(p.mean[name], p.variance[name], spread=SPREADS[-1]).exponent
        assert torch.equal(q.levels, (p.mean[name].double() / 2.0**q.exponent).round().long())


def test_what_is_gone_is_zero_and_tells_nothing() -> None:
    p = posterior()
    gone = none_gone(p)
    gone["a"][:20] = True
    half = WeightPosterior({"a": p.mean["a"][20:]}, {"a": p.variance["a"][20:]})
    found = choose_integers(p, gone, evaluate=None, limit=math.nan, spread=None, trade=None)
    alone = choose_integers(half, none_gone(half), evaluate=None, limit=math.nan, spread=None, trade=None)
    assert found["a"].levels[:20].count_nonzero() == 0
    assert torch.equal(found["a"].levels[20:], alone["a"].levels)
    gone["b"][:] = True
    assert choose_integers(p, gone, evaluate=None, limit=math.nan, spread=None, trade=None)["b"].exponent == 0


def test_parameters_that_are_not_random() -> None:
    p = WeightPosterior({"a": torch.tensor([0.7, -1.3])}, {"a": torch.tensor([0.0, 0.1])})
    gone = none_gone(p)
    for trade in (None, 1.0):
        q = choose_integers(p, gone, evaluate=None, limit=math.nan, spread=None, trade=trade)["a"]
        assert float((q.value(p.mean["a"]) - p.mean["a"]).abs().max()) <= 2.0**-POINT_BITS * 2


@pytest.mark.parametrize("log_sigma", [-300, -60, -30, 30, 60])
@pytest.mark.parametrize("log_size", [-120, -30, 0, 30, 90])
def test_extreme_posteriors(log_sigma: int, log_size: int) -> None:
    mean = {"a": torch.randn(20, dtype=torch.float64) * 2.0**log_size}
    p = WeightPosterior(mean, {"a": torch.full((20,), 4.0**log_sigma, dtype=torch.float64)})
    found = choose_integers(p, none_gone(p), evaluate=None, limit=math.nan, spread=None, trade=None)["a"]
    values = found.value(mean["a"])
    assert bool(values.isfinite().all())
    if log_sigma < log_size - 12:  # what is known is kept, as finely as the file takes it
        error = (values - mean["a"]).abs().max() / mean["a"].abs().max()
        assert float(error) < (2.0**-11 if log_size > -110 else 1.0)


def test_bad_spreads() -> None:
    p = posterior()
    for spread in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="spread"):
            choose_integers(p, none_gone(p), evaluate=None, limit=0.0, spread=spread, trade=None)
