"""Formats and widths: what rounding does, that its noise stays within the posterior's, and that none is narrower."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_bdl.compression.quantisation.precision import FixedPoint, SmallFloat, fixed_point, small_float
from pyro_bdl.errors import InputError
from tests.fresh_state import fresh_state  # noqa: F401

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def noise(values: Tensor, variance: Tensor, rounding: Callable[[Tensor], Tensor]) -> float:
    """The mean of squared rounding errors over variances."""
    errors = rounding(values.double()) - values.double()
    return float((errors.square() / variance.double()).mean())


@pytest.mark.parametrize(
    ("levels", "bits"),
    [([0], 0), ([-1, 0], 1), ([1], 2), ([-2, 1], 2), ([2], 3), ([-3], 3), ([-4, 3], 3), ([4], 4), ([-128, 127], 8),
     ([128], 9), ([-129], 9), ([-32768, 32767], 16), ([32768], 17)],
)  # fmt: skip
def test_width_at_the_edges_of_twos_complement(levels: list[int], bits: int) -> None:
    mean = torch.tensor(levels, dtype=torch.float64)
    found = fixed_point(mean, torch.full_like(mean, 1 / 12 + 1e-6))
    assert (found.bits, found.exponent if bits else 0) == (bits, 0)
    assert torch.equal(found.round(mean), mean)
    if bits > 1:  # no narrower format has all of them
        assert not torch.equal(FixedPoint(bits - 1, 0).round(mean), mean)


def test_rounding() -> None:
    narrow = FixedPoint(3, -1)
    values = torch.tensor([0.24, 0.25, 0.26, 0.75, -0.75, 1.5, 9.0, -2.0, -9.0])
    assert narrow.round(values).tolist() == [0.0, 0.0, 0.5, 1.0, -1.0, 1.5, 1.5, -2.0, -2.0]  # ties to even, clamped
    assert FixedPoint(0, 0).round(values).count_nonzero() == 0
    assert narrow.narrower() == FixedPoint(2, 0)
    assert FixedPoint(0, 0).narrower().bits == 0


@pytest.mark.parametrize(("dtype", "exponent_bits", "significand_bits", "top"), [
    (torch.float16, 5, 10, 15), (torch.bfloat16, 8, 7, 127), (torch.float8_e5m2, 5, 2, 15),
    (torch.float8_e4m3fn, 4, 3, 8),
])  # fmt: skip
def test_small_floats_are_those_that_torch_has(
    dtype: torch.dtype, exponent_bits: int, significand_bits: int, top: int
) -> None:
    own, limits = SmallFloat(exponent_bits, significand_bits, top), torch.finfo(dtype)
    values = torch.cat([torch.randn(4000) * 2.0**e for e in range(-30, 12, 3)])
    # Infinities take a binade of those that have them, and NaN the largest number of the others.
    least = limits.tiny if dtype != torch.float8_e4m3fn else 0.0
    values = values[(values.abs() >= least) & (values.abs() <= limits.max)]
    assert torch.equal(own.round(values), values.to(dtype).float())
    assert own.largest == float(own.round(torch.tensor(math.inf)))
    assert own.largest == limits.max or dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [0.25, 1.0, 3.0])
def test_the_noise_bound_holds(dtype: torch.dtype, spread: float) -> None:
    """Means that lie anywhere between neighbours: the noise is that of uniform errors, at worst three times it."""
    for scale in (1e-6, 1.0, 1e6):
        variance = (scale * 0.02 * torch.rand(20_000, dtype=torch.float64).add(0.1)).square()
        mean = scale * torch.randn(20_000, dtype=torch.float64)
        mean, variance = mean.to(dtype), variance.to(dtype)
        for found in (fixed_point(mean, variance, spread=spread), small_float(mean, variance, spread=spread)):
            allowed = spread**2
            got = noise(mean, variance, found.round)
            # A mean of 20,000 numbers in [0, 3 * 12 / 4 of the bound]: 5 standard errors are 6%.
            assert got < allowed * (1.1 if dtype != torch.bfloat16 else 3.0)
            if isinstance(found, FixedPoint):  # the coarsest: twice the step is four times the noise
                assert found.step**2 / 12 * float(variance.double().reciprocal().mean()) <= allowed * (1 + 1e-9)
                assert 4 * found.step**2 / 12 * float(variance.double().reciprocal().mean()) > allowed
                if dtype == torch.float64:
                    coarser = FixedPoint(found.bits, found.exponent + 1)
                    assert noise(mean, variance, coarser.round) > got  # a mutant with one bit less
                    if spread < 1:
                        assert noise(mean, variance, coarser.round) > allowed


def test_no_narrower_float_obeys_the_rule() -> None:
    mean = torch.randn(500, dtype=torch.float64) * torch.randn(500, dtype=torch.float64).exp()
    variance = (0.05 * mean).square() + 1e-8

    def rule(candidate: SmallFloat) -> float:
        return float((candidate.steps(mean).square() / 12 / variance).mean())

    found = small_float(mean, variance)
    assert rule(found) <= 1
    top = math.frexp(float(mean.abs().max()))[1]
    for exponent_bits in range(1, found.bits):
        for significand_bits in range(found.bits - 1 - exponent_bits):
            assert rule(SmallFloat(exponent_bits, significand_bits, top - 1)) > 1
    # Where the spread is relative to the size a float needs fewer bits than fixed point; where sizes are alike, more.
    assert found.bits < fixed_point(mean, variance).bits
    alike, flat = 1.9 * torch.rand(500) - 0.95, torch.full((500,), 1e-3)
    assert small_float(alike, flat).bits >= fixed_point(alike, flat).bits


def test_the_largest_mean_does_not_overflow() -> None:
    for significand in range(6):
        mean = torch.tensor([2.0 - 2.0**-20, 1.0], dtype=torch.float64)
        variance = torch.full_like(mean, 4.0**-significand / 12)
        found = small_float(mean, variance)
        assert float((found.round(mean) - mean).abs()[0]) <= float(found.steps(mean)[0]) / 2 + 1e-12


@settings(max_examples=100, deadline=None)
@given(
    mean=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=5),
    log_variance=st.floats(-700, 700),
    spread=st.floats(1e-10, 1e10),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_extremes(mean: list[float], log_variance: float, spread: float, dtype: torch.dtype) -> None:
    values = torch.tensor(mean, dtype=torch.float64).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    variance = torch.full_like(values, log_variance, dtype=torch.float64).exp().to(dtype)
    try:
        formats = fixed_point(values, variance, spread=spread), small_float(values, variance, spread=spread)
    except InputError:
        assert not bool((variance > 0).all() & torch.isfinite(variance).all())
        return
    for found in formats:
        rounded = found.round(values.double())
        assert bool(torch.isfinite(rounded).all())
        assert 0 <= found.bits <= (32 if isinstance(found, FixedPoint) else 36)
        assert torch.equal(found.round(rounded), rounded)  # of the format already
    fixed = formats[0]
    if 0 < fixed.bits < 32:
        assert bool(((fixed.round(values.double()) - values.double()).abs() <= fixed.step / 2 * (1 + 1e-12)).all())


def test_nothing_to_keep() -> None:
    empty, zeros = torch.zeros(0), torch.zeros(3)
    for mean in (empty, zeros):
        assert fixed_point(mean, torch.ones_like(mean)).bits == 0
        assert small_float(mean, torch.ones_like(mean)).round(mean).tolist() == mean.tolist()
    assert fixed_point(torch.tensor([0.1]), torch.tensor([100.0])).bits == 0  # all noise


@pytest.mark.parametrize("choose", [fixed_point, small_float])
@pytest.mark.parametrize(
    ("mean", "variance", "spread"),
    [([1.0], [0.0], 1.0), ([1.0], [-1.0], 1.0), ([1.0], [math.nan], 1.0), ([math.inf], [1.0], 1.0),
     ([math.nan], [1.0], 1.0), ([1.0], [1.0], 0.0), ([1.0], [1.0], math.nan), ([1.0], [1.0], math.inf),
     ([1.0, 2.0], [1.0], 1.0)],
)  # fmt: skip
def test_bad_input(choose: Callable[..., object], mean: list[float], variance: list[float], spread: float) -> None:
    with pytest.raises(InputError, match="expected"):
        choose(torch.tensor(mean), torch.tensor(variance), spread=spread)
