"""KL(LogNormal, HalfCauchy): against integration over all scales, its gradients, and numbers at the edges."""

import math

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_bdl.distributions.half_cauchy import expected_log_two_cosh, log_normal_half_cauchy_kl

LOCS = [-25.0, -3.0, -0.4, 0.0, 0.8, 4.0, 11.5]
SCALES = [1e-3, 0.05, 0.5, 0.9, 0.999, 1.001, 1.5, 3.0, 10.0, 40.0]


def number(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def exact(loc: float, scale: float, tau: float) -> float:
    """E_q[log q - log p] over u = log z, with the density of log z under the half-Cauchy written out."""
    q = torch.distributions.Normal(number(loc), number(scale))

    def integrand(e: float) -> float:
        u = loc + scale * e
        t = u - math.log(tau)
        log_p = (
            math.log(2.0 / math.pi)
            + t
            - (2 * t + math.log1p(math.exp(-2 * t)) if t > 0 else math.log1p(math.exp(2 * t)))
        )
        return math.exp(-0.5 * e * e) / math.sqrt(2 * math.pi) * (float(q.log_prob(number(u))) - log_p)

    kink = (math.log(tau) - loc) / scale
    near = [kink + k / scale for k in (-4.0, 0.0, 4.0) if -12.0 < kink + k / scale < 12.0]
    edges = sorted({-12.0, 0.0, 12.0, *near})
    return sum(quad(integrand, a, b, epsabs=1e-10, epsrel=1e-10, limit=300)[0] for a, b in zip(edges, edges[1:]))  # noqa: B905, RUF007


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tau", [1.0, 1e-5])
def test_against_integration(scale: float, tau: float) -> None:
    for loc in LOCS:
        q, p = dist.LogNormal(number(loc), number(scale)), dist.HalfCauchy(number(tau))
        assert float(kl_divergence(q, p)) == pytest.approx(exact(loc, scale, tau), abs=1e-6)


def test_within_events_and_in_single_precision() -> None:
    loc, scale = torch.tensor(LOCS), torch.full((len(LOCS),), 0.7)
    q, p = dist.LogNormal(loc, scale), dist.HalfCauchy(torch.tensor(1e-5)).expand([len(LOCS)])
    each = log_normal_half_cauchy_kl(loc.double(), scale.double(), number(1e-5))
    torch.testing.assert_close(kl_divergence(q, p).double(), each, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(kl_divergence(q.to_event(1), p.to_event(1)), kl_divergence(q, p).sum())


@pytest.mark.parametrize("scale", [0.3, 0.99, 1.01, 8.0])
def test_gradients(scale: float) -> None:
    loc = torch.tensor(LOCS, dtype=torch.float64, requires_grad=True)
    sd = torch.full_like(loc, scale).detach().requires_grad_()
    tau = number(0.3).requires_grad_()
    assert torch.autograd.gradcheck(log_normal_half_cauchy_kl, (loc, sd, tau))


def test_the_two_rules_meet() -> None:
    """At sigma = 1, where one quadrature gives way to the other, there is no step."""
    loc = torch.linspace(-20.0, 20.0, 401, dtype=torch.float64)
    below, above = (expected_log_two_cosh(loc, torch.full_like(loc, s)) for s in (1.0 - 1e-12, 1.0))
    torch.testing.assert_close(below, above, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("mutant", [
    lambda m, s, t: log_normal_half_cauchy_kl(m, s.square(), t),
    lambda m, s, t: log_normal_half_cauchy_kl(m, s.log().abs(), t),
    lambda m, s, t: log_normal_half_cauchy_kl(m, s, t.square()),
    lambda m, s, t: log_normal_half_cauchy_kl(m, s, t) + m,
    lambda m, s, t: log_normal_half_cauchy_kl(m, s, t) - math.log(2.0),
    lambda m, s, t: -log_normal_half_cauchy_kl(m, s, t),
], ids=["variance", "log sigma", "tau squared", "Jacobian", "full Cauchy", "sign"])  # fmt: skip
def test_mutants_are_caught(mutant: object) -> None:
    got = mutant(number(0.8), number(1.5), number(0.3))  # type: ignore[operator]
    assert float(got) != pytest.approx(exact(0.8, 1.5, 0.3), abs=1e-6)


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-300.0, 300.0), st.floats(-18.0, 6.0), st.floats(-18.0, 18.0),
    st.sampled_from([torch.float64, torch.float32]),
)  # fmt: skip
def test_extreme_numbers_are_finite(loc: float, log10_scale: float, log10_tau: float, dtype: torch.dtype) -> None:
    m = number(loc, dtype).requires_grad_()
    s = number(10.0**log10_scale, dtype).requires_grad_()
    kl = log_normal_half_cauchy_kl(m, s, number(10.0**log10_tau, dtype))
    assert torch.isfinite(kl)
    assert kl > -1e-3
    for gradient in torch.autograd.grad(kl, (m, s)):
        assert torch.isfinite(gradient)
