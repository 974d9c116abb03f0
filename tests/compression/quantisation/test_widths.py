"""Widths chosen at a limit on a known error."""

import math
from typing import Any

import pytest
import torch

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.quantisation.precision import FixedPoint, SmallFloat, fixed_point, small_float
from pyro_bdl.compression.quantisation.widths import (
    POINT_BITS,
    SPREADS,
    Widths,
    choose_widths,
    errors_one_bit_below,
    rounded,
    rounded_by_unit,
    unit_widths,
)
from tests.compression.known_error import distance, none_gone, posterior
from tests.fresh_state import fresh_state  # noqa: F401


@pytest.mark.parametrize("rule", [fixed_point, small_float])
@pytest.mark.parametrize("limit", [0.3, 0.05, 0.02])
def test_widths_keep_the_limit_and_none_can_be_narrower(limit: float, rule: Any) -> None:
    p = posterior()
    gone = none_gone(p)
    _, error = distance(p)
    widths = choose_widths(p, gone, evaluate=error, limit=limit, spread=None, rule=rule)
    assert error(rounded(p, gone, widths)) <= limit
    below = errors_one_bit_below(p, gone, widths, evaluate=error)
    assert set(below) == {name for name, width in widths.items() if width.narrower().bits < width.bits}
    assert all(e > limit for e in below.values())
    for name, e in below.items():  # what it says is the error with one bit less
        assert widths[name].narrower().bits == widths[name].bits - 1
        assert e == error(rounded(p, gone, {**widths, name: widths[name].narrower()}))


@pytest.mark.parametrize("rule", [fixed_point, small_float])
def test_widths_without_an_error_and_with_a_spread_given(rule: Any) -> None:
    p = posterior()
    gone = none_gone(p)
    for spread, expected in ((None, 0.5), (2.0, 2.0)):
        widths = choose_widths(p, gone, evaluate=None, limit=math.nan, spread=spread, rule=rule)
        assert widths == {n: rule(m, p.variance[n], spread=expected) for n, m in p.mean.items()}
    assert choose_widths(p, gone, evaluate=lambda _: 1.0, limit=0.0, spread=2.0, rule=rule) == widths
    finest = choose_widths(p, gone, evaluate=lambda _: 1.0, limit=0.0, spread=None, rule=rule)
    assert finest == {n: rule(m, p.variance[n], spread=SPREADS[-1]) for n, m in p.mean.items()}


def test_what_is_gone_has_no_bits() -> None:
    p = posterior()
    gone = none_gone(p)
    gone["b"][:] = True
    widths = choose_widths(p, gone, evaluate=None, limit=math.nan, spread=None, rule=fixed_point)
    assert widths["b"].bits == 0


@pytest.mark.parametrize("rule", [fixed_point, small_float])
@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
def test_parameters_that_are_not_random(spread: float, rule: Any) -> None:
    p = WeightPosterior({"a": torch.tensor([0.7, -1.3])}, {"a": torch.tensor([0.0, 0.1])})
    width = choose_widths(p, none_gone(p), evaluate=None, limit=math.nan, spread=spread, rule=rule)["a"]
    assert abs(width.bits - POINT_BITS) <= (0 if rule is fixed_point else 1)
    assert float((width.round(p.mean["a"]) - p.mean["a"]).abs().max()) <= 2.0 ** (1 - POINT_BITS)


def test_a_float_loses_its_significand_first_and_ends_with_three_values() -> None:
    width, seen = SmallFloat(exponent_bits=3, significand_bits=1, top=2), []
    for _ in range(5):
        seen.append(str(width))
        width = width.narrower()
    assert seen == ["e3m1", "e3m0", "e2m0", "e1m0", "e1m0"]
    assert width.round(torch.tensor([-9.0, 0.1, 4.0])).tolist() == [-4.0, 0.0, 4.0]


def test_units_of_one_spread_have_the_layers_step_and_their_own_range() -> None:
    mean = {"a": torch.tensor([[0.9, -0.5], [0.1, 0.1], [7.0, 3.0]])}
    p = WeightPosterior(mean, {"a": torch.full((3, 2), 1e-3)})
    layer = choose_widths(p, none_gone(p), evaluate=None, limit=math.nan, spread=1.0, rule=fixed_point)
    units = unit_widths(p, none_gone(p), layer)["a"]
    assert {f.exponent for f in units} == {layer["a"].exponent}
    assert units[1].bits < units[0].bits < units[2].bits == layer["a"].bits


def test_units_are_as_noisy_as_their_layer() -> None:
    """The rule of `fixed_point` at the layer's own noise, unit by unit, for posteriors of very different spreads."""
    torch.manual_seed(0)
    variance = 10.0 ** torch.linspace(-6, -1, 8)[:, None].expand(8, 50).clone()
    p = WeightPosterior({"a": torch.randn(8, 50)}, {"a": variance})
    gone = none_gone(p)
    gone["a"][3] = True
    layer = {"a": FixedPoint(10, -7)}
    noise = (2.0**-14 / 12 / variance[~gone["a"]].double()).mean()
    units = unit_widths(p, gone, layer)["a"]
    assert units[3].bits == 0
    for unit in (0, 1, 2, 4, 5, 6, 7):
        own = units[unit].step ** 2 / 12 / float(variance[unit, 0])
        assert float(noise) / 4 <= own <= float(noise) * (1 + 1e-6)
    values = rounded_by_unit(p, gone, Widths(layer, {}, {"a": units}))["a"]
    assert values[3].count_nonzero() == 0
    assert torch.equal(values[7], units[7].round(p.mean["a"][7]))


def test_units_of_a_layer_that_is_not_random_have_its_format() -> None:
    p = WeightPosterior({"a": torch.randn(3, 2)}, {"a": torch.zeros(3, 2)})
    assert unit_widths(p, none_gone(p), {"a": FixedPoint(7, -3)})["a"] == (FixedPoint(7, -3),) * 3
