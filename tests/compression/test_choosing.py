"""Widths and integers chosen at a limit on a known error."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from pyro_bdl.compression.choosing import (
    POINT_BITS,
    SPREADS,
    choose_integers,
    choose_widths,
    entropy,
    errors_one_bit_below,
    rounded,
    values_of,
)
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.precision import FixedPoint, fixed_point
from pyro_bdl.errors import InputError
from tests.fresh_state import fresh_state  # noqa: F401

Values = Mapping[str, Tensor]


def posterior() -> WeightPosterior:
    mean = {"a": torch.randn(40, 10), "b": 0.1 * torch.randn(30)}
    return WeightPosterior(mean, {"a": torch.full((40, 10), 0.01), "b": torch.full((30,), 1e-5)})


def none_gone(p: WeightPosterior) -> dict[str, Tensor]:
    return {name: torch.zeros_like(m, dtype=torch.bool) for name, m in p.mean.items()}


def distance(p: WeightPosterior) -> tuple[list[float], object]:
    """An error that is known: the largest change of a weight; and all that it was asked for."""
    asked: list[float] = []

    def error(values: Values) -> float:
        asked.append(max(float((values[n] - m).abs().max()) for n, m in p.mean.items()))
        return asked[-1]

    return asked, error


@pytest.mark.parametrize("limit", [0.3, 0.05, 0.02])
def test_widths_keep_the_limit_and_none_can_be_narrower(limit: float) -> None:
    p = posterior()
    gone = none_gone(p)
    _, error = distance(p)
    widths = choose_widths(p, gone, evaluate=error, limit=limit, spread=None)
    assert error(rounded(p, gone, widths)) <= limit
    below = errors_one_bit_below(p, gone, widths, evaluate=error)
    assert set(below) == {name for name, width in widths.items() if width.bits}
    assert all(e > limit for e in below.values())
    for name, e in below.items():  # what it says is the error with one bit less
        assert e == error(
            rounded(p, gone, {**widths, name: FixedPoint(widths[name].bits - 1, widths[name].exponent + 1)})
        )


def test_widths_without_an_error_and_with_a_spread_given() -> None:
    p = posterior()
    gone = none_gone(p)
    for spread, expected in ((None, 0.5), (2.0, 2.0)):
        widths = choose_widths(p, gone, evaluate=None, limit=math.nan, spread=spread)
        assert widths == {n: fixed_point(m, p.variance[n], spread=expected) for n, m in p.mean.items()}
    assert choose_widths(p, gone, evaluate=lambda _: 1.0, limit=0.0, spread=2.0) == widths
    finest = choose_widths(p, gone, evaluate=lambda _: 1.0, limit=0.0, spread=None)
    assert finest == {n: fixed_point(m, p.variance[n], spread=SPREADS[-1]) for n, m in p.mean.items()}


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
    assert choose_widths(p, gone, evaluate=None, limit=math.nan, spread=None)["b"].bits == 0


def test_parameters_that_are_not_random() -> None:
    p = WeightPosterior({"a": torch.tensor([0.7, -1.3])}, {"a": torch.tensor([0.0, 0.1])})
    gone = none_gone(p)
    for trade in (None, 1.0):
        q = choose_integers(p, gone, evaluate=None, limit=math.nan, spread=None, trade=trade)["a"]
        assert float((q.value(p.mean["a"]) - p.mean["a"]).abs().max()) <= 2.0**-POINT_BITS * 2
    width = choose_widths(p, gone, evaluate=None, limit=math.nan, spread=None)["a"]
    assert width.bits == POINT_BITS
    assert float((width.round(p.mean["a"]) - p.mean["a"]).abs().max()) <= width.step / 2


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
