"""Integers that are near enough to the posterior at the fewest bits."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_bdl.compression.quantisation import quantising
from pyro_bdl.compression.quantisation.choosing import entropy
from pyro_bdl.compression.quantisation.quantising import nats, quantise
from pyro_bdl.errors import InputError
from tests.fresh_state import fresh_state  # noqa: F401


def posterior(size: int = 3000, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Most weights noise, some signal, of all spreads."""
    mean = torch.randn(size, dtype=torch.float64) * (torch.rand(size) < 0.3)
    sigma = 0.3 * torch.rand(size, dtype=torch.float64) + 0.01
    return (mean + sigma * torch.randn(size, dtype=torch.float64)).to(dtype), sigma.square().to(dtype)


def objective(mean: Tensor, variance: Tensor, levels: Tensor, step: float, trade: float) -> float:
    """The sum of deviations and of the code's length at the frequencies of the integers themselves, in nats."""
    deviation = ((levels * step - mean).square() / (2 * variance)).sum()
    return float(deviation) + trade * entropy(levels) * math.log(2)


@pytest.mark.parametrize("trade", [0.1, 1.0, 10.0])
def test_each_integer_is_the_best_given_the_frequencies(trade: float) -> None:
    mean, variance = posterior()
    levels = quantise(mean, variance, step=0.1, trade=trade, rounds=200)
    lowest = int((mean / 0.1).round().min())
    values = torch.arange(lowest, int((mean / 0.1).round().max()) + 1)
    costs = (values * 0.1 - mean[:, None]).square() / (2 * variance[:, None])
    costs = costs + trade * nats(torch.bincount(levels - lowest, minlength=len(values)).double())
    own = costs.gather(1, (levels - lowest)[:, None])[:, 0]
    assert bool((own <= costs.min(1).values + 1e-9).all())
    # Mutants: the wrong variance, the deviation without its half, and the plain rounding are not the best.
    for mutant in (
        quantise(mean, 2 * variance, step=0.1, trade=trade, rounds=200),
        quantise(mean, variance.sqrt(), step=0.1, trade=trade, rounds=200),
        quantise(mean, variance, step=0.1, trade=0.0),
    ):
        chosen = costs.gather(1, (mutant - lowest)[:, None])[:, 0]
        assert bool((chosen > costs.min(1).values + 1e-9).any())


def test_rounds_lower_the_objective() -> None:
    mean, variance = posterior()
    found = [objective(mean, variance, quantise(mean, variance, step=0.1, rounds=r), 0.1, 1.0) for r in (0, 1, 2, 8)]
    assert found[0] > found[1] > found[2] >= found[3] - 1e-9


def test_the_objective_of_its_own_trade_is_the_least() -> None:
    mean, variance = posterior()
    trades = [0.0, 0.25, 1.0, 4.0, 16.0]
    found = {trade: quantise(mean, variance, step=0.1, trade=trade) for trade in trades}
    for trade in trades:
        own = objective(mean, variance, found[trade], 0.1, trade)
        assert all(own <= objective(mean, variance, other, 0.1, trade) + 1e-9 for other in found.values())
    entropies = [entropy(found[trade]) for trade in trades]
    assert all(a > b for a, b in itertools.pairwise(entropies))


def test_trade_0_is_rounding() -> None:
    mean, variance = posterior()
    assert torch.equal(quantise(mean, variance, step=0.07, trade=0.0), (mean / 0.07).round().long())
    assert torch.equal(quantise(mean, torch.zeros_like(mean), step=0.07, trade=0.0), (mean / 0.07).round().long())


def test_noise_becomes_zero_and_signal_stays() -> None:
    mean, variance = torch.full((1000,), 0.25), torch.full((1000,), 1e6)
    mean[:600] = 0.0
    assert quantise(mean, variance, step=0.25).count_nonzero() == 0
    assert bool((quantise(mean, torch.full((1000,), 1e-8), step=0.25)[600:] == 1).all())
    many = torch.full((20_000,), 0.1)
    assert quantise(many, many, step=0.25).count_nonzero() == 0
    assert bool((quantise(many, many, step=0.1) == 1).all())


def test_fixed_weights_are_zero_and_tell_nothing() -> None:
    mean, variance = posterior(200)
    fixed = torch.rand(200) < 0.5
    mean[fixed] = 1e9  # beyond all levels
    levels = quantise(mean, variance, step=0.1, fixed=fixed)
    assert levels[fixed].count_nonzero() == 0
    assert torch.equal(levels[~fixed], quantise(mean[~fixed], variance[~fixed], step=0.1))
    assert quantise(mean, variance, step=0.1, fixed=torch.ones_like(fixed)).count_nonzero() == 0


@pytest.mark.parametrize("trade", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("step", [0.5, 0.02])
def test_few_candidates_are_enough(trade: float, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same integers as when each is compared with all, for costs that rise and fall too."""
    mean, variance = posterior(2000)
    mean[:500] = 0.7  # a second peak of the frequencies
    found = quantise(mean, variance, step=step, trade=trade)
    calls = []
    monkeypatch.setattr(quantising, "FEW", 0)
    assert torch.equal(found, quantise(mean, variance, step=step, trade=trade))

    def all_of_them(costs: Tensor, nearest: int) -> Tensor:
        calls.append(nearest)
        return torch.arange(len(costs))

    monkeypatch.setattr(quantising, "_candidates", all_of_them)
    assert torch.equal(found, quantise(mean, variance, step=step, trade=trade))
    assert calls


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, variance = posterior(500)
    whole = quantise(mean, variance, step=0.05)
    monkeypatch.setattr(quantising, "CHUNK", 700)
    assert torch.equal(whole, quantise(mean, variance, step=0.05))


@settings(max_examples=100, deadline=None)
@given(
    mean=st.lists(st.floats(-1e300, 1e300), min_size=0, max_size=6),
    log_variance=st.lists(st.floats(-700, 700), min_size=6, max_size=6),
    log_step=st.floats(-700, 700),
    trade=st.floats(0, 1e10),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_extremes(
    mean: list[float], log_variance: list[float], log_step: float, trade: float, dtype: torch.dtype
) -> None:
    values = torch.tensor(mean, dtype=torch.float64).to(dtype)
    variance = torch.tensor(log_variance[: len(mean)], dtype=torch.float64).exp().to(dtype)
    try:
        levels = quantise(values, variance, step=math.exp(log_step), trade=trade)
    except InputError:
        return
    assert levels.shape == values.shape
    if not mean:
        return
    limits = (values.double() / math.exp(log_step)).round()
    assert bool((levels >= limits.clamp_max(0).min()).all() & (levels <= limits.clamp_min(0).max()).all())


@pytest.mark.parametrize(
    ("mean", "variance", "options", "told"),
    [
        ([1.0], [1.0], {"step": 0.0}, "step"),
        ([1.0], [1.0], {"step": math.nan}, "step"),
        ([1.0], [1.0], {"step": 1e-4}, "at least 0.000488"),
        ([1.0], [1.0], {"step": 0.1, "trade": -1.0}, "trade"),
        ([1.0], [1.0], {"step": 0.1, "trade": math.nan}, "trade"),
        ([1.0], [0.0], {"step": 0.1}, "take trade=0"),
        ([math.nan], [1.0], {"step": 0.1}, "finite"),
        ([1.0], [math.inf], {"step": 0.1}, "finite"),
        ([1.0, 2.0], [1.0], {"step": 0.1}, "shape"),
        ([1.0], [1.0], {"step": 0.1, "fixed": torch.ones(1)}, "bool mask"),
        ([1.0], [1.0], {"step": 0.1, "fixed": torch.ones(2).bool()}, "bool mask"),
    ],
)
def test_bad_input(mean: list[float], variance: list[float], options: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        quantise(torch.tensor(mean), torch.tensor(variance), **options)
