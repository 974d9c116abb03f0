"""The mixture's law, and the bound on the KL to it."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_bdl.distributions import NormalMixture, VarianceNormal
from pyro_bdl.distributions.normal_mixture import CHUNK, normal_mixture_kl_bound
from tests.statistics import Mismatch, ks_cdf

SHARES, MEANS, SDS = [0.7, 0.2, 0.1], [0.0, -0.5, 0.8], [0.05, 0.1, 0.3]


@pytest.fixture(autouse=True)
def _randomness() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.seed()
        yield


def mixture(shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> NormalMixture:
    shares, means, sds = (torch.tensor(v, dtype=dtype) for v in (SHARES, MEANS, SDS))
    return NormalMixture(shares.log(), means, 2.0 * sds.log(), shape)


def pdf(w: float) -> float:
    return sum(p * stats.norm.pdf(w, m, s) for p, m, s in zip(SHARES, MEANS, SDS, strict=True))


def cdf(w: np.ndarray) -> np.ndarray:
    return sum(p * stats.norm.cdf(w, m, s) for p, m, s in zip(SHARES, MEANS, SDS, strict=True))


def test_density() -> None:
    w = torch.linspace(-2.0, 2.0, 12, dtype=torch.float64).view(3, 4)
    np.testing.assert_allclose(mixture((3, 4)).log_prob(w).exp(), np.vectorize(pdf)(w.numpy()), rtol=1e-10)
    assert mixture((3, 4)).to_event(2).log_prob(w).shape == ()
    assert mixture().expand([2, 3]).sample((5,)).shape == (5, 2, 3)
    assert mixture((0,)).sample().shape == (0,)


def test_many_variables_at_once() -> None:
    """The way without large tensors gives the same density and gradients."""
    w = (0.5 * torch.randn(3, CHUNK, dtype=torch.float64)).requires_grad_()
    parameters = [p.clone().requires_grad_() for p in (mixture().log_shares, mixture().means, mixture().log_variances)]
    law = NormalMixture(*parameters, (3, CHUNK))
    weights = torch.randn(3, CHUNK, dtype=torch.float64)
    found = law.log_prob(w)
    expected = law.joint_log_prob(w).logsumexp(0)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), [w, *parameters]),
        torch.autograd.grad((expected * weights).sum(), [w, *parameters]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_draws() -> None:
    draws = mixture((20_000,)).sample()
    ks_cdf(draws, cdf)
    wrong = NormalMixture(mixture().log_shares, mixture().means, mixture().log_variances * 2, (20_000,))
    with pytest.raises(Mismatch):  # the variances taken for deviations
        ks_cdf(wrong.sample(), cdf)


def exact(loc: float, sd: float) -> float:
    def integrand(e: float) -> float:
        w = loc + sd * e
        return stats.norm.pdf(e) * (stats.norm.logpdf(w, loc, sd) - math.log(pdf(w)))

    return quad(integrand, -9, 9, limit=400, epsabs=1e-9)[0]


@pytest.mark.parametrize("loc", [-0.5, -0.2, 0.0, 0.1, 0.3, 0.8])
@pytest.mark.parametrize("sd", [0.01, 0.05, 0.2])
def test_it_bounds_the_kl_from_above(loc: float, sd: float) -> None:
    q = VarianceNormal(torch.tensor(loc).double(), torch.tensor(sd**2).double())
    assert float(kl_divergence(q, mixture())) >= exact(loc, sd) - 1e-7


@pytest.mark.parametrize(("loc", "sd"), [(-0.5, 0.05), (-0.45, 0.02), (0.0, 0.02), (0.02, 0.05), (0.8, 0.1)])
def test_it_is_near_where_one_component_answers(loc: float, sd: float) -> None:
    q = VarianceNormal(torch.tensor(loc).double(), torch.tensor(sd**2).double())
    assert float(kl_divergence(q, mixture())) == pytest.approx(exact(loc, sd), abs=0.03)


def test_without_the_bound_there_is_no_rule() -> None:
    p = mixture((3,))
    drawn = NormalMixture(p.log_shares, p.means, p.log_variances, (3,), kl="draw").to_event(1)
    with pytest.raises(NotImplementedError):
        kl_divergence(VarianceNormal(torch.zeros(3).double(), torch.ones(3).double()).to_event(1), drawn)


def test_it_is_the_kl_to_one_component() -> None:
    q = VarianceNormal(torch.randn(5).double(), torch.rand(5).double() + 0.1)
    one = NormalMixture(torch.zeros(1).double(), torch.full((1,), 0.3).double(), torch.full((1,), -1.0).double(), (5,))
    expected = kl_divergence(q, torch.distributions.Normal(torch.tensor(0.3).double(), math.exp(-0.5)))
    torch.testing.assert_close(kl_divergence(q, one), expected)


def by_components(loc: Tensor, variance: Tensor, p: NormalMixture) -> Tensor:
    """-log sum_k pi_k exp(-KL_k), as the docstring writes it."""
    q = torch.distributions.Normal(loc, variance.sqrt())
    each = [
        share - kl_divergence(q, torch.distributions.Normal(mean, (0.5 * log_variance).exp()))
        for share, mean, log_variance in zip(p.log_shares, p.means, p.log_variances, strict=True)
    ]
    return -torch.stack(each).logsumexp(0)


def test_values_and_gradients_over_many_chunks() -> None:
    n = 20_001
    loc, variance = torch.randn(3, n // 3).double() * 0.4, torch.rand(3, n // 3).double() * 0.1 + 1e-4
    p = mixture(loc.shape)
    leaves = [t.clone().requires_grad_() for t in (loc, variance, p.log_shares, p.means, p.log_variances)]
    q = NormalMixture(*leaves[2:], loc.shape)
    weights = torch.rand(loc.shape).double()
    ours, theirs = (f(leaves[0], leaves[1], q) for f in (normal_mixture_kl_bound, by_components))
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), leaves), torch.autograd.grad((theirs * weights).sum(), leaves),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b)


MUTANTS: dict[str, Callable[[Tensor, Tensor, NormalMixture], Tensor]] = {
    "no variance in the components": lambda m, v, p: normal_mixture_kl_bound(m, v, p) - 0.5 * v / 0.05**2,
    "sigma for the variance": lambda m, v, p: normal_mixture_kl_bound(m, v.sqrt(), p),
    "shares twice": lambda m, v, p: normal_mixture_kl_bound(
        m, v, NormalMixture(2 * p.log_shares, p.means, p.log_variances)
    ),
    "the wrong sign": lambda m, v, p: -normal_mixture_kl_bound(m, v, p),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant: str) -> None:
    m, v = torch.tensor([0.1, -0.4]).double(), torch.tensor([0.01, 0.02]).double()
    assert not torch.allclose(MUTANTS[mutant](m, v, mixture()), by_components(m, v, mixture()), atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-1e8, 1e8), st.floats(-18.0, 8.0), st.floats(-20.0, 20.0),
    st.sampled_from([torch.float64, torch.float32]),
)  # fmt: skip
def test_extreme_numbers_are_finite(loc: float, log10_sd: float, shift: float, dtype: torch.dtype) -> None:
    p = mixture((1,), dtype)
    p = NormalMixture(p.log_shares, p.means, p.log_variances + shift, (1,))
    m = torch.tensor([loc], dtype=dtype, requires_grad=True)
    v = torch.tensor([10.0 ** (2 * log10_sd)], dtype=dtype, requires_grad=True)
    kl = kl_divergence(VarianceNormal(m, v), p)
    assert torch.isfinite(kl).all()
    by_loc, by_variance = torch.autograd.grad(kl.sum(), (m, v))
    assert torch.isfinite(by_loc).all()
    assert torch.isfinite(by_variance * v).all()
    assert torch.isfinite(p.log_prob(m)).all()
