"""Geweke's joint test (2004) of each kernel: parameters by the kernel given data, data given parameters, in turn.

Begun at a draw of the joint law, both stay draws of it, if the kernel leaves the posterior of whatever data alone. The
20,000 replicates are copies in one site, so that the kernels' bias of order e must be small against their error: the
steps are 0.01, at a posterior precision of 9, which makes the posterior's variance 2% too large and the marginal one
1%, an error of the estimate; seven are caught.
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_bdl.sgmcmc import log_joint
from pyro_bdl.sgmcmc.noise import Noise
from tests import statistics
from tests.fresh_state import fresh_state  # noqa: F401
from tests.sgmcmc.every_kernel import KERNELS
from tests.statistics import Mismatch

REPLICATES, POINTS, NOISE, STEP = 20_000, 2, 0.5, 0.01


def joint_draws(name: str, *, sweeps: int = 60, updates: int = 10) -> tuple[Tensor, Tensor]:
    """Parameters and the mean of their data, one draw of each replicate."""
    theta = torch.randn(REPLICATES, dtype=torch.float64)
    y = theta + NOISE * torch.randn(POINTS, REPLICATES, dtype=torch.float64)

    def model() -> None:
        prior = dist.Normal(torch.zeros(REPLICATES, dtype=torch.float64), 1.0).to_event(1)
        value = pyro.sample("theta", prior)
        with pyro.plate("data", POINTS):
            pyro.sample("y", dist.Normal(value, NOISE).to_event(1), obs=y)

    step = STEP * (1e3 if name == "PreconditionedSGLD" else 1.0)
    kernel = KERNELS[name](model, step_size=step, init={"theta": theta}, thinning=updates)
    kernel.setup(10**9)  # nothing is recorded
    for _ in range(sweeps):
        theta = kernel.sample({"theta": theta.clone()})["theta"]
        y.copy_(theta + NOISE * torch.randn(POINTS, REPLICATES, dtype=torch.float64))
    return theta, y.mean(0)


def check(theta: Tensor, y: Tensor) -> None:
    for draws, variance in ((theta, 1.0), (y, 1 + NOISE**2 / POINTS)):
        statistics.ks_normal(draws, sd=math.sqrt(variance))
        statistics.variance_is(draws, variance, mean=0.0)


@pytest.mark.parametrize("name", KERNELS)
def test_the_joint_law_stays(name: str) -> None:
    check(*joint_draws(name))


def more_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    density = log_joint.log_density
    monkeypatch.setattr(log_joint, "log_density", lambda *args, **rest: 1.8 * density(*args, **rest))


def more_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "draw", lambda self, draw=Noise.draw: draw(self).mul_(1.2))


def shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "draw", lambda self, draw=Noise.draw: draw(self).add_(0.05))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("mutant", [more_likelihood, more_noise, shifted])
def test_mutants_are_caught(name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant is more_noise and name in ("SGNHT", "Langevin"):
        pytest.skip("of which the thermostat, and the Metropolis test, take care")
    mutant(monkeypatch)
    draws = joint_draws(name)
    with pytest.raises(Mismatch):
        check(*draws)
