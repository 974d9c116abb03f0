"""On a small tanh network the kernels' predictions agree with those of Pyro's NUTS (RELIABILITY 9)."""

from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_bdl.sgmcmc import SGHMC, SGLD, SGNHT, PreconditionedSGLD

HIDDEN, NOISE = 3, 0.3
X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
Y = (1.5 * X).sin().squeeze(-1)
GRID = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None]


def network(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Tensor:
    """(..., points) for weights (..., 1, H), (..., 1, H), (..., H, 1)."""
    return ((x @ w1 + b1).tanh() @ w2).squeeze(-1)


def model(chains: tuple[int, ...] = ()) -> None:
    shapes = {"w1": (1, HIDDEN), "b1": (1, HIDDEN), "w2": (HIDDEN, 1)}
    weights = {
        name: pyro.sample(name, dist.Normal(torch.zeros(*chains, *s, dtype=X.dtype), 1.0).to_event(len(chains) + 2))
        for name, s in shapes.items()
    }
    with pyro.plate("data", len(X)):
        pyro.sample("y", dist.Normal(network(X, **weights), NOISE), obs=Y.expand(*chains, -1))


@cache
def reference() -> Tensor:
    """Predictions by NUTS, of 30 independent copies of the problem side by side, as one model."""
    nuts = MCMC(NUTS(model), num_samples=200, warmup_steps=200, disable_progbar=True)
    nuts.run((30,))
    return network(GRID, **nuts.get_samples()).flatten(0, 1)


KERNELS: dict[str, Any] = {
    "SGLD": SGLD(model, step_size=1e-3, thinning=2000),
    # Of 800 copies of 12 points, 9,600 in all, the gradients' size over their number is about 1/2000.
    "PreconditionedSGLD": PreconditionedSGLD(model, step_size=5e-7, thinning=2000, adapt=4000),
    "SGHMC": SGHMC(model, step_size=1e-3, thinning=400),
    "SGNHT": SGNHT(model, step_size=1e-3, thinning=400),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_predictive_mean_and_deviation(name: str) -> None:
    """Means within 0.1 deviations, deviations within 10%, at each of nine inputs.

    Of 800 copies side by side. Both give some 5,000 effective draws or more, so that the errors are about 0.02
    deviations, a fifth of the bounds; the kernel's own bias at this step size is of order 0.01.
    """
    with torch.random.fork_rng():
        torch.seed()
        exact = reference()
        chains = MCMC(KERNELS[name], num_samples=10, warmup_steps=10, disable_progbar=True)
        chains.run((800,))
        draws = network(GRID, **chains.get_samples()).flatten(0, 1)
    deviation = exact.std(0)
    assert ((draws.mean(0) - exact.mean(0)).abs() / deviation).max() <= 0.1
    ratio = draws.std(0) / deviation
    assert ratio.min() >= 0.9
    assert ratio.max() <= 1.1
