"""The helpers of the stochastic tests: right samples pass, samples wrong by the stated amount are caught."""

import numpy as np
import pytest
import torch

from tests import statistics
from tests.statistics import Mismatch
from tests.targets import ConjugateRegression, Gaussian, Mixture

N = 20_000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


def test_mean(rng: np.random.Generator) -> None:
    samples = rng.normal(2.0, 3.0, size=(N, 2))
    statistics.mean_is(samples, 2.0)
    statistics.mean_is(samples, [2.0, 2.0], sd=3.0)
    with pytest.raises(Mismatch):
        statistics.mean_is(samples, [2.0, 2.0 + 3.0 * 12 / N**0.5])


def test_means_agree(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(N, 3)), rng.normal(size=(N // 2, 3))
    statistics.means_agree(a, b)
    with pytest.raises(Mismatch):
        statistics.means_agree(a, b + np.array([0.0, 0.2, 0.0]))


@pytest.mark.parametrize("factor", [1.05, 1 / 1.05, 2**0.5])
def test_variance(rng: np.random.Generator, factor: float) -> None:
    samples = rng.normal(1.0, 2.0, size=N)
    statistics.variance_is(samples, 4.0, mean=1.0)
    with pytest.raises(Mismatch):
        statistics.variance_is(1.0 + factor * (samples - 1.0), 4.0, mean=1.0)


@pytest.mark.parametrize("mutant", ["scale", "one direction", "correlation", "mean"])
def test_covariance(rng: np.random.Generator, mutant: str) -> None:
    target = Gaussian.example()
    mean, covariance = target.mean.numpy(), target.covariance.numpy()
    samples = rng.multivariate_normal(mean, covariance, size=N)
    statistics.chi_squared_covariance(samples, mean=mean, covariance=covariance)
    if mutant == "scale":
        samples = mean + 1.05 * (samples - mean)
    elif mutant == "one direction":
        samples[:, 2] = mean[2] + 1.05 * (samples[:, 2] - mean[2])
    elif mutant == "correlation":
        samples[:, 0] = rng.permutation(samples[:, 0])
    else:
        samples = samples + 0.3
    with pytest.raises(Mismatch):
        statistics.chi_squared_covariance(samples, mean=mean, covariance=covariance)


def test_kolmogorov_smirnov(rng: np.random.Generator) -> None:
    statistics.ks_normal(rng.normal(1.0, 2.0, size=(N, 2)), mean=1.0, sd=2.0)
    statistics.ks_uniform(rng.uniform(size=(N, 2)))
    mixture = Mixture()
    with torch.random.fork_rng():
        torch.seed()
        draws = mixture.distribution().sample((N,))
    statistics.ks_cdf(draws, mixture.cdf)
    statistics.mean_is(draws, mixture.mean, sd=mixture.sd)
    with pytest.raises(Mismatch):
        statistics.ks_normal(rng.normal(size=N), sd=1.15)
    with pytest.raises(Mismatch):
        statistics.ks_uniform(rng.beta(1.3, 1.3, size=N))
    with pytest.raises(Mismatch):
        statistics.ks_cdf(draws + 0.1, mixture.cdf)


def test_proportion(rng: np.random.Generator) -> None:
    statistics.proportion_is(rng.binomial(N, 0.3), N, 0.3)
    with pytest.raises(Mismatch):
        statistics.proportion_is(rng.binomial(N, 0.34), N, 0.3)


def test_not_a_number_is_caught() -> None:
    with pytest.raises(Mismatch):
        statistics.mean_is(np.array([1.0, np.nan, 2.0]), 0.0)


def test_conjugate_regression_is_consistent() -> None:
    """log p(y) = log p(y, theta) - log p(theta | y) at any theta; the gradient is autograd's."""
    target = ConjugateRegression.example()
    theta = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    joint = target.log_joint(theta)
    posterior = torch.distributions.MultivariateNormal(target.mean, target.covariance)
    assert float((joint - posterior.log_prob(theta)).detach()) == pytest.approx(target.log_evidence, abs=1e-9)
    (gradient,) = torch.autograd.grad(joint, theta)
    assert torch.allclose(gradient, target.gradient(theta.detach()), atol=1e-10)
