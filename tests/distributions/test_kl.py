"""KL rules against numerical integration, in all ways in which they are asked for; wrong rules are caught."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_bdl.distributions import LogUniform, VarianceNormal
from pyro_bdl.distributions.kl import dropout_kl, log_alpha


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def variance_normal(loc: float, scale: float) -> dist.TorchDistribution:
    return VarianceNormal(number(loc), number(scale**2))


def two(make: Callable[..., dist.TorchDistribution]) -> Callable[[float, float], dist.TorchDistribution]:
    return lambda a, b: make(number(a), number(b))


MOMENTS = [(0.0, 1.0), (0.7, 0.3), (-1.2, 1.5), (3.0, 0.05)]
RIGHT = {
    "VarianceNormal, Normal": (variance_normal, two(dist.Normal)(0.5, 2.0)),
    "VarianceNormal, VarianceNormal": (variance_normal, variance_normal(-0.5, 0.4)),
    "VarianceNormal, Laplace": (variance_normal, two(dist.Laplace)(0.0, 0.7)),
    "LogNormal, Gamma": (two(dist.LogNormal), two(dist.Gamma)(1.3, 0.8)),
    "LogNormal, InverseGamma": (two(dist.LogNormal), two(dist.InverseGamma)(2.5, 0.6)),
    "LogNormal, LogNormal": (two(dist.LogNormal), two(dist.LogNormal)(0.3, 1.2)),
    "LogNormal, LogUniform": (two(dist.LogNormal), LogUniform()),
}


def integral(q: dist.TorchDistribution, p: dist.TorchDistribution, loc: float, scale: float) -> float:
    """E_q[log q - log p] over u with z = u, or z = exp(u) for a log-normal q."""

    def integrand(u: float) -> float:
        z = number(math.exp(u) if isinstance(q, dist.LogNormal) else u)
        density = math.exp(-0.5 * ((u - loc) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
        return density * float(q.log_prob(z) - p.log_prob(z))

    kinks = [loc] + ([0.0] if loc - 12 * scale < 0.0 < loc + 12 * scale else [])
    edges = [loc - 12 * scale, *sorted(set(kinks)), loc + 12 * scale]
    parts = itertools.pairwise(edges)
    return sum(quad(integrand, a, b, epsabs=1e-11, epsrel=1e-11, limit=200)[0] for a, b in parts)


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("case", RIGHT)
def test_closed_forms(case: str, moments: tuple[float, float]) -> None:
    make, prior = RIGHT[case]
    posterior = make(*moments)
    expected = integral(posterior, prior, *moments)
    assert float(kl_divergence(posterior, prior)) == pytest.approx(expected, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("case", [*RIGHT, "VarianceNormal, LogUniform"])
def test_event_dimensions_are_summed(case: str) -> None:
    make, prior = RIGHT.get(case, (variance_normal, LogUniform()))
    each = torch.stack([kl_divergence(make(*m), prior) for m in MOMENTS])
    loc, scale = (torch.tensor(column, dtype=torch.float64) for column in zip(*MOMENTS, strict=True))
    q = VarianceNormal(loc, scale.square()) if make is variance_normal else dist.LogNormal(loc, scale)
    torch.testing.assert_close(kl_divergence(q, prior.expand([4])), each)
    torch.testing.assert_close(kl_divergence(q.to_event(1), prior.expand([4]).to_event(1)), each.sum())


def test_molchanovs_approximation() -> None:
    """Within 0.01 nats of the integral, up to a constant: that of alpha without bound, where it is 0."""

    def exact(log_a: float) -> float:
        # KL up to a constant: -log(alpha)/2 + E log|1 + sqrt(alpha) eps|; the logarithm's pole is a break point.
        s = math.exp(0.5 * log_a)

        def integrand(e: float) -> float:
            return math.exp(-0.5 * e * e) / math.sqrt(2 * math.pi) * math.log(abs(1 + s * e) + 1e-300)

        pole = -1 / s
        edges = [-40.0, pole, 40.0] if abs(pole) < 40 else [-40.0, 40.0]
        edges = sorted({*edges, -8.0, 0.0, 8.0})
        spans = itertools.pairwise(edges)
        return -0.5 * log_a + sum(quad(integrand, a, b, limit=400)[0] for a, b in spans)

    grid = np.linspace(-8.0, 8.0, 33)
    # E log|eps| for a standard normal: the limit of exact() as alpha grows.
    limit = -0.5 * (math.log(2.0) + np.euler_gamma)
    reference = np.array([exact(a) for a in grid]) - limit
    error = np.abs(dropout_kl(torch.from_numpy(grid)).numpy() - reference)
    assert error.max() <= 0.01


def test_log_alpha_is_that_of_the_moments() -> None:
    q = VarianceNormal(number(0.5), number(0.04))
    a = log_alpha(q.loc, q.variance)
    assert float(a) == pytest.approx(math.log(0.04 / 0.25))
    assert float(kl_divergence(q, LogUniform())) == pytest.approx(float(dropout_kl(a)))


WRONG: dict[str, Callable[[Tensor, Tensor], dist.TorchDistribution | Tensor]] = {
    "wrong sign": lambda loc, scale: -kl_divergence(VarianceNormal(loc, scale**2), NORMAL),
    "wrong scale": lambda loc, scale: 1.01 * kl_divergence(VarianceNormal(loc, scale**2), NORMAL),
    "sigma for the variance": lambda loc, scale: kl_divergence(VarianceNormal(loc, scale), NORMAL),
    "log sigma for sigma": lambda loc, scale: kl_divergence(VarianceNormal(loc, scale.log().exp2()), NORMAL),
    "the other way round": lambda loc, scale: kl_divergence(NORMAL, dist.Normal(loc, scale)),
    "without the Jacobian": lambda loc, scale: kl_divergence(VarianceNormal(loc, scale**2), NORMAL) + loc,
}
NORMAL = dist.Normal(number(0.5), number(2.0))


@pytest.mark.parametrize("mutant", WRONG)
def test_wrong_rules_are_caught(mutant: str) -> None:
    """The comparison of test_closed_forms, applied to wrong numbers, fails for some of the moments."""
    caught = 0
    for loc, scale in MOMENTS:
        expected = integral(variance_normal(loc, scale), NORMAL, loc, scale)
        caught += float(WRONG[mutant](number(loc), number(scale))) != pytest.approx(expected, abs=1e-6, rel=1e-6)
    assert caught > 0
