"""Simulation-based calibration (Talts et al. 2018) of the kernels, and of a mean field, which must fail it.

Parameters are drawn from the prior, data from the parameters, L = 99 nearly independent draws from the posterior of
these data. If they are draws of the posterior, the rank of the true value among them is uniform on 0 to 99: of
each parameter, of the log-likelihood (which sees data that are not used, Modrak et al. 2023) and of a prediction. Many
simulations are copies in one site, so that the kernel itself is what is tested. With 2,000 of them in ten bins a
deviation wrong by a fifth is found.
"""

import math
from functools import cache, partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.sgmcmc import SGHMC, SGLD, SGNHT, Langevin, PreconditionedSGLD, flat, log_joint
from pyro_bdl.sgmcmc.noise import Noise
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import Mismatch, require

SIMULATIONS, DRAWS, BINS, NOISE = 2000, 99, 10, 0.7
X = torch.tensor([[1.0, 0.6], [1.0, 1.4], [0.6, 1.0], [1.0, 0.2]], dtype=torch.float64)  # a correlated posterior
NEW = torch.tensor([1.0, -1.0], dtype=torch.float64)  # the prediction's input
STIFF = float(torch.linalg.eigvalsh(X.T @ X / NOISE**2 + torch.eye(2, dtype=X.dtype))[-1])


@cache
def simulated(seed: int) -> tuple[Tensor, Tensor]:
    """Parameters (simulations, 2) and their data (points, simulations)."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(SIMULATIONS, 2, generator=generator, dtype=X.dtype)
    return theta, X @ theta.T + NOISE * torch.randn(len(X), SIMULATIONS, generator=generator, dtype=X.dtype)


def model(x: Tensor, y: Tensor) -> None:
    """All simulations side by side, for a batch of the points."""
    theta = pyro.sample("theta", dist.Normal(torch.zeros(SIMULATIONS, 2, dtype=X.dtype), 1.0).to_event(2))
    with pyro.plate("data", size=len(X), subsample_size=len(x)):
        pyro.sample("y", dist.Normal(x @ theta.T, NOISE).to_event(1), obs=y)


def quantities(theta: Tensor, y: Tensor) -> Tensor:
    """What is ranked, for theta (..., simulations, 2): (..., simulations, 4)."""
    likelihood = -0.5 * ((y - (theta @ X.T).mT) / NOISE).square().sum(-2)
    return torch.stack([theta[..., 0], theta[..., 1], likelihood, theta @ NEW], dim=-1)


def ranks(theta: Tensor, y: Tensor, draws: Tensor) -> Tensor:
    """(simulations, 4) for draws (DRAWS, simulations, 2)."""
    return (quantities(draws, y) < quantities(theta, y)).sum(0)


def check_uniform(found: Tensor) -> np.ndarray:
    """A chi-squared test in bins for each quantity; the counts (4, bins)."""
    bins = (found * BINS // (DRAWS + 1)).numpy()
    counts = np.stack([np.bincount(column, minlength=BINS) for column in bins.T])
    require([stats.chisquare(row).pvalue for row in counts], "ranks")
    return counts


KERNELS: dict[str, Any] = {  # with a step at which variances are about 1% too large, and updates from draw to draw
    "SGLD": (partial(SGLD, step_size=0.08 / STIFF), 650),
    "PreconditionedSGLD": (partial(PreconditionedSGLD, step_size=80 / STIFF, adapt=0, offset=1e3), 650),
    "SGHMC": (partial(SGHMC, step_size=0.08 / STIFF, friction=0.3), 80),
    "SGNHT": (partial(SGNHT, step_size=0.08 / STIFF, friction=0.3), 80),
    "Langevin without the test": (partial(Langevin, step_size=0.08 / STIFF, metropolis=False), 650),
}


def ranks_of(name: str, **options: Any) -> Tensor:
    """Begun at the prior; a hundred draws' time later the chain is in the posterior for good."""
    theta, y = simulated(int(torch.randint(2**31, ())))
    make, thinning = KERNELS[name]
    kernel = make(model, thinning=thinning, **({"data": (X, y)} | options))
    kernel.setup(10**9)  # nothing is recorded
    draws = [kernel.sample(kernel.initial_params)["theta"] for _ in range(DRAWS + 3)]
    return ranks(theta, y, torch.stack(draws[3:]))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in ("SGHMC",) else pytest.mark.slow) for n in KERNELS])
def test_ranks_are_uniform(name: str) -> None:
    check_uniform(ranks_of(name))


def test_exact_draws_are_calibrated() -> None:
    """The test itself, with draws of the posterior in closed form."""
    theta, y = simulated(int(torch.randint(2**31, ())))
    check_uniform(ranks(theta, y, exact_draws(y)))


def exact_draws(y: Tensor, *, factor: float = 1.0) -> Tensor:
    precision = X.T @ X / NOISE**2 + torch.eye(2, dtype=X.dtype)
    covariance = torch.linalg.inv(precision)
    mean = y.T @ X @ covariance / NOISE**2
    root = factor * torch.linalg.cholesky(covariance)
    return mean + torch.randn(DRAWS, SIMULATIONS, 2, dtype=X.dtype) @ root.T


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_draws_too_narrow_or_too_wide_are_caught(factor: float) -> None:
    theta, y = simulated(int(torch.randint(2**31, ())))
    with pytest.raises(Mismatch):
        check_uniform(ranks(theta, y, exact_draws(y, factor=factor)))


def more_noise(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(Noise, "draw", lambda self, draw=Noise.draw: draw(self).mul_(math.sqrt(2)))
    return {}


def prior_twice(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    add = flat.GaussianPriors.add_gradient
    monkeypatch.setattr(flat.GaussianPriors, "add_gradient", lambda *a: add(*a) + add(*a))
    return {}


def scale_missing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    density = log_joint.log_density
    monkeypatch.setattr(log_joint, "log_density", lambda fn, value, *, scale, mask: density(fn, value, mask=mask))
    return {"batch_size": 1}


@pytest.mark.parametrize(
    "mutant",
    [more_noise, *(pytest.param(other, marks=pytest.mark.slow) for other in (prior_twice, scale_missing))],
)
def test_mutants_are_caught(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = mutant(monkeypatch)
    found = ranks_of("SGHMC", **options)
    with pytest.raises(Mismatch):
        check_uniform(found)


def test_a_mean_field_of_a_correlated_posterior_is_too_narrow() -> None:
    """Its deviations are 1 / sqrt(P_ii), too small: true values are in its tails too often, the ranks U-shaped."""
    theta, y = simulated(int(torch.randint(2**31, ())))
    guide = bdl.guides.AutoMeanField(model, init_scale=0.5)
    bdl.fit_svi(
        model, guide, (X, y), epochs=400, batch_size=len(X), optimizer=lambda p: torch.optim.Adam(p, lr=0.03),
        num_particles=1, progress=False,
    )  # fmt: skip
    with torch.no_grad():
        (moments,) = guide.moments()
        draws = moments.loc + moments.variance.sqrt() * torch.randn(DRAWS, SIMULATIONS, 2, dtype=X.dtype)
    found = ranks(theta, y, draws)
    with pytest.raises(Mismatch):
        check_uniform(found)
    for parameter in (0, 1):
        tails = int(((found[:, parameter] < 10) | (found[:, parameter] >= 90)).sum())
        p_value = stats.binomtest(tails, SIMULATIONS, 0.2, alternative="greater").pvalue
        assert p_value < 1e-6, f"{tails} of {SIMULATIONS} in the tails"
