"""Piecewise constant hazards and right censoring: closed forms, quadrature, draws, edges."""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyro_bdl.distributions import PiecewiseExponential, RightCensored
from pyro_bdl.errors import InputError

CUTS = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
LOG_HAZARD = torch.tensor([-1.0, 0.7, -0.3, 0.2], dtype=torch.float64)
LAW = PiecewiseExponential(LOG_HAZARD, CUTS)
POINTS = torch.tensor([0.1, 0.5, 0.75, 1.0, 2.0, 3.0, 7.0], dtype=torch.float64)


def density(t: float, law: PiecewiseExponential = LAW) -> float:
    return float(law.log_prob(torch.tensor(t, dtype=torch.float64)).exp())


def test_the_density_integrates_to_its_distribution_function() -> None:
    breaks = CUTS.tolist()
    for t in POINTS.tolist():
        area, _ = scipy.integrate.quad(density, 0, t, points=[c for c in breaks if c < t] or None, epsabs=1e-12)
        assert area == pytest.approx(float(LAW.cdf(torch.tensor(t).double())), abs=1e-9)
    tail, _ = scipy.integrate.quad(density, 3.0, math.inf, epsabs=1e-12)
    assert tail == pytest.approx(float(LAW.log_survival(CUTS[-1]).exp()), abs=1e-8)


def test_one_interval_is_the_exponential() -> None:
    rate = torch.tensor([0.3, 2.0])
    law, known = PiecewiseExponential(rate.log()[:, None], torch.zeros(0)), dist.Exponential(rate)
    t = torch.tensor([0.7, 5.0])
    torch.testing.assert_close(law.log_prob(t), known.log_prob(t))
    torch.testing.assert_close(law.cdf(t), known.cdf(t))


def test_quantiles_and_survival_are_inverse() -> None:
    torch.testing.assert_close(LAW.icdf(LAW.cdf(POINTS)), POINTS)


def test_draws_have_the_law() -> None:
    """KS at p > 1e-6 on 20,000 draws; a hazard 5% too large is caught."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = LAW.sample(torch.Size([20_000]))
    assert scipy.stats.kstest(LAW.cdf(draws).numpy(), "uniform").pvalue > 1e-6
    wrong = PiecewiseExponential(LOG_HAZARD + math.log(1.05), CUTS)
    assert scipy.stats.kstest(wrong.cdf(draws).numpy(), "uniform").pvalue < 1e-6


def test_gradients() -> None:
    """Also at values in the first interval, whatever the hazards of those not reached."""
    log_hazard = LOG_HAZARD.clone().requires_grad_()
    t = POINTS[[0, 2, 4, 6]].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda h, v: PiecewiseExponential(h, CUTS).log_prob(v), (log_hazard, t))
    huge = torch.tensor([0.0, 1000.0], requires_grad=True)
    value = PiecewiseExponential(huge, torch.tensor([1.0])).log_prob(torch.tensor(0.5))
    value.backward()
    assert (float(value.detach()), huge.grad.tolist()) == (-0.5, [0.5, 0.0])  # type: ignore[union-attr]


def test_rsample_has_gradients() -> None:
    log_hazard = LOG_HAZARD.clone().requires_grad_()
    PiecewiseExponential(log_hazard, CUTS).rsample(torch.Size([100])).sum().backward()
    assert bool((log_hazard.grad < 0).all())  # type: ignore[operator]


@given(
    log_hazard=st.lists(st.floats(-100, 80), min_size=1, max_size=5),
    u=st.floats(1e-6, 1 - 1e-6),
    unit=st.floats(-6, 6),
)
def test_edges_are_finite(log_hazard: list[float], u: float, unit: float) -> None:
    hazards = torch.tensor(log_hazard, dtype=torch.float64)
    cuts = 10.0**unit * torch.arange(1, len(log_hazard), dtype=torch.float64)
    law = PiecewiseExponential(hazards, cuts)
    time = law.icdf(torch.tensor(u, dtype=torch.float64))
    assert bool(torch.isfinite(time)) and bool(time >= 0)  # noqa: PT018
    if time > 0:
        assert bool(torch.isfinite(law.log_prob(time)))
        rounding = 4 * torch.finfo(torch.float64).eps * float(time * hazards.exp().max())  # of a time after a cut
        assert float(law.cdf(time)) == pytest.approx(u, rel=1e-6, abs=rounding)


BASES: dict[str, Any] = {
    "piecewise": LAW,
    "exponential": dist.Exponential(torch.tensor(0.5).double()),
    "log normal": dist.LogNormal(torch.tensor(0.2).double(), 0.8),
    "weibull": dist.Weibull(torch.tensor(2.0).double(), torch.tensor(1.3).double()),
}


@pytest.mark.parametrize("name", BASES)
def test_censored_times_have_the_probability_of_a_later_event(name: str) -> None:
    base = BASES[name]
    t, event = torch.tensor([0.4, 0.4]).double(), torch.tensor([True, False])
    found = RightCensored(base, event).log_prob(t)
    tail, _ = scipy.integrate.quad(
        lambda v: float(base.log_prob(torch.tensor(v).double()).exp()), 0.4, 200.0, limit=200,
        points=[0.5, 1.0, 3.0],
    )  # fmt: skip
    assert float(found[0]) == pytest.approx(float(base.log_prob(t[:1])))
    assert float(found[1]) == pytest.approx(math.log(tail), abs=1e-6)


FAR: dict[str, Callable[[Tensor], Any]] = {  # at 5 their cdf is 1 in single precision
    "exponential": dist.Exponential,
    "log normal": lambda rate: dist.LogNormal(-rate, 0.05),
    "weibull": lambda rate: dist.Weibull(1 / rate, torch.tensor(2.0)),
}


@pytest.mark.parametrize("name", FAR)
def test_events_beyond_the_last_digit_of_the_cdf_have_a_gradient(name: str) -> None:
    rate = torch.tensor(20.0, requires_grad=True)
    known = RightCensored(FAR[name](rate), torch.tensor([True])).log_prob(torch.tensor([5.0]))
    (gradient,) = torch.autograd.grad(known.sum(), rate)
    (expected,) = torch.autograd.grad(FAR[name](rate).log_prob(torch.tensor([5.0])).sum(), rate)
    torch.testing.assert_close(gradient, expected)


def test_without_indicators_nothing_is_censored() -> None:
    law = RightCensored(LAW.expand((7,)))
    torch.testing.assert_close(law.log_prob(POINTS), LAW.log_prob(POINTS))
    assert law.sample().shape == law.rsample().shape == (7,)
    assert law.expand((2, 7)).log_prob(POINTS).shape == (2, 7)


BAD: dict[str, tuple[Tensor, Tensor]] = {
    "as many cuts as hazards": (torch.zeros(2), torch.ones(2)),
    "cuts that fall": (torch.zeros(3), torch.tensor([2.0, 1.0])),
    "a cut at 0": (torch.zeros(2), torch.zeros(1)),
    "a cut at infinity": (torch.zeros(2), torch.tensor([torch.inf])),
    "a matrix of cuts": (torch.zeros(2), torch.ones(1, 1)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    with pytest.raises(InputError, match="expected"):
        PiecewiseExponential(*BAD[case], validate_args=True)


def test_a_law_of_vectors_has_no_censoring() -> None:
    with pytest.raises(InputError, match="a law of numbers"):
        RightCensored(dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
