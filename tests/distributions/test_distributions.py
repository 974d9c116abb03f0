"""The laws of LogUniform and VarianceNormal, and numbers at the edges of what floats can hold."""

import math
from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from pyro_bdl.distributions import LogUniform, VarianceNormal
from pyro_bdl.distributions.kl import dropout_kl, log_alpha
from pyro_bdl.errors import ImproperPriorError
from tests.statistics import Mismatch, ks_normal


@pytest.fixture(autouse=True)
def _randomness() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.seed()
        yield


def test_variance_normal_is_a_normal() -> None:
    loc, variance = torch.randn(3, 2, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64) + 0.1
    ours, theirs = VarianceNormal(loc, variance), dist.Normal(loc, variance.sqrt())
    x = torch.randn(5, 3, 2, dtype=torch.float64)
    for a, b in [
        (ours.log_prob(x), theirs.log_prob(x)),
        (ours.entropy(), theirs.entropy()),
        (ours.cdf(x), theirs.cdf(x)),
        (ours.icdf(x.sigmoid()), theirs.icdf(x.sigmoid())),
        (ours.stddev, theirs.stddev),
        (ours.mean, loc),
        (ours.expand((4, 3, 2)).variance, variance.expand(4, 3, 2)),
        (ours.to_event(2).log_prob(x), theirs.to_event(2).log_prob(x)),
    ]:
        torch.testing.assert_close(a, b)
    assert ours.rsample((7,)).shape == (7, 3, 2)
    assert ours.expand((4, 3, 2)).rsample().shape == (4, 3, 2)


def test_variance_normal_draws() -> None:
    draws = VarianceNormal(torch.tensor(1.5), torch.tensor(4.0)).expand([40_000]).sample()
    ks_normal(draws, mean=1.5, sd=2.0)
    with pytest.raises(Mismatch):  # the variance taken for the deviation
        ks_normal(draws, mean=1.5, sd=4.0)


def test_variance_normal_gradients() -> None:
    """d rsample / d mu = 1 and d / d v = noise / (2 sigma)."""
    loc = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    variance = torch.rand(6, dtype=torch.float64).add_(0.5).requires_grad_()
    draw = VarianceNormal(loc, variance).rsample()
    by_loc, by_variance = torch.autograd.grad(draw.sum(), (loc, variance))
    torch.testing.assert_close(by_loc, torch.ones_like(loc))
    torch.testing.assert_close(by_variance, (draw / (2 * variance)).detach())


@pytest.mark.parametrize("scale", [0.1, 3.0, 1e4])
def test_log_uniform_does_not_know_scales(scale: float) -> None:
    """A change of units z -> scale z changes every log density by the same constant."""
    z = torch.tensor([-3.0, -1e-3, 0.5, 20.0], dtype=torch.float64)
    p = LogUniform((4,))
    torch.testing.assert_close(p.log_prob(scale * z) + math.log(scale), p.log_prob(z))
    torch.testing.assert_close(p.log_prob(-z), p.log_prob(z))


def test_log_uniform_shapes() -> None:
    p = LogUniform().expand([2, 3]).to_event(1)
    assert (p.batch_shape, p.event_shape) == ((2,), (3,))
    assert p.log_prob(torch.ones(2, 3)).shape == (2,)


@pytest.mark.parametrize("draw", ["sample", "site", "event"])
def test_log_uniform_refuses_draws(draw: str) -> None:
    with pytest.raises(ImproperPriorError, match="improper density"):
        {
            "sample": LogUniform().sample,
            "site": lambda: pyro.sample("z", LogUniform()),
            "event": LogUniform((3,)).to_event(1).sample,
        }[draw]()


DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


@settings(max_examples=300, deadline=None, derandomize=False)
@given(st.floats(-100.0, 100.0), DTYPES)
def test_dropout_kl_is_finite(value: float, dtype: torch.dtype) -> None:
    a = torch.tensor(value, dtype=dtype, requires_grad=True)
    kl = dropout_kl(a)
    (slope,) = torch.autograd.grad(kl, a)
    assert torch.isfinite(kl)
    assert torch.isfinite(slope)
    assert slope <= 0.0  # more noise costs less
    assert kl >= -0.01 if dtype == torch.bfloat16 else kl >= -1e-6


@settings(max_examples=300, deadline=None)
@given(st.floats(-1e10, 1e10), st.floats(-20.0, 10.0), st.sampled_from([torch.float64, torch.float32]))
def test_kl_of_extreme_moments_is_finite(loc: float, log10_sigma: float, dtype: torch.dtype) -> None:
    sigma = 10.0**log10_sigma
    q = VarianceNormal(torch.tensor(loc, dtype=dtype).requires_grad_(), torch.tensor(sigma**2, dtype=dtype))
    variance = q.variance.requires_grad_()
    assert torch.isfinite(log_alpha(q.loc, variance))
    for p in (LogUniform(), dist.Normal(q.loc.new_tensor(0.0), q.loc.new_tensor(1.0))):
        kl = kl_divergence(q, p)
        assert torch.isfinite(kl), p
        for gradient in torch.autograd.grad(kl, (q.loc, variance)):
            assert torch.isfinite(gradient * variance), p  # with respect to log variance


def test_log_alpha_of_moments_whose_squares_under_or_overflow() -> None:
    loc = torch.tensor([1e-25, 1e25], requires_grad=True)
    a = log_alpha(loc, torch.tensor([1e-12, 1e12]))
    expected = torch.tensor([math.log(1e-12) - 2 * math.log(1e-25), math.log(1e12) - 2 * math.log(1e25)])
    torch.testing.assert_close(a, expected)
    a.sum().backward()
    assert torch.isfinite(loc.grad).all()
