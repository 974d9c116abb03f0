"""The Metropolis-Hastings test of a Langevin step: the law it leaves alone, and what it refuses."""

import copy
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_bdl.errors import InputError, NumericalError, UnsupportedModelError
from pyro_bdl.sgmcmc import SVRG, Cyclical, Langevin, Minibatch, langevin
from pyro_bdl.sgmcmc.updates import log_acceptance
from tests import statistics
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import Mismatch
from tests.targets import ConjugateRegression, Gaussian, Mixture

TARGET = Mixture()
CHAINS = 1500


def draws_from_exact_ones(**options: Any) -> Tensor:
    """Where chains are after some large steps, each of which began at an independent exact draw."""
    starts = TARGET.distribution().sample((CHAINS,))
    kernel = Langevin(TARGET.model, step_size=2.2, thinning=5, **options)
    kernel.setup(0)
    return torch.stack([kernel.sample({"theta": start})["theta"] for start in starts])


def test_exact_draws_stay_exact() -> None:
    statistics.ks_cdf(draws_from_exact_ones(), TARGET.cdf)


def test_a_ratio_that_takes_every_step_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(langevin, "log_acceptance", lambda *args, **rest: torch.tensor(0.0))
    draws = draws_from_exact_ones()
    with pytest.raises(Mismatch):
        statistics.ks_cdf(draws, TARGET.cdf)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_ratio_is_that_of_the_densities_there_and_back(temperature: float) -> None:
    """p(x')^(1/T) q(x | x') / (p(x)^(1/T) q(x' | x)), with the proposal's own densities."""
    law = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), Gaussian.example().covariance)
    points = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    density = law.log_prob(points)
    (x, y), (g, h) = points.detach(), torch.autograd.grad(density.sum(), points)[0]
    e, (here, there) = 0.7, density.detach()

    def proposal(start: Tensor, gradient: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Normal(start + e / 2 * gradient, math.sqrt(e * temperature))

    way, back = proposal(x, g).log_prob(y).sum(), proposal(y, h).log_prob(x).sum()
    found = log_acceptance(x, g, y, h, gain=there - here, step_size=e, temperature=temperature)
    torch.testing.assert_close(found, (there - here) / temperature + back - way)


def test_without_the_test_the_law_is_another() -> None:
    draws = draws_from_exact_ones(metropolis=False)
    with pytest.raises(Mismatch):
        statistics.ks_cdf(draws, TARGET.cdf)


def test_temperature() -> None:
    """Of N(0, 1) at T = 0.25 the deviation is 0.5: chains that begin there stay there."""
    kernel = Langevin(lambda: pyro.sample("x", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)), step_size=1.0,
                      temperature=0.25, thinning=6)  # fmt: skip
    kernel.setup(0)
    draws = [kernel.sample({"x": start})["x"] for start in 0.5 * torch.randn(CHAINS, dtype=torch.float64)]
    statistics.ks_normal(torch.stack(draws), sd=0.5)


def test_a_refused_step_stays_and_is_a_draw() -> None:
    kernel = Langevin(TARGET.model, step_size=400.0)
    kernel.setup(0)
    start = float(kernel.initial_params["theta"])
    draws = [float(kernel.sample(kernel.initial_params)["theta"]) for _ in range(20)]
    assert len(set(draws)) < 20
    stats = kernel.sample_stats()
    assert stats["acceptance"].shape == (20,)
    assert float(stats["acceptance"].mean()) < 0.5
    assert stats["kinetic_temperature"].isnan().all()
    assert stats["noise_ratio"].isnan().all()
    for before, after, acceptance in zip([start, *draws], draws, stats["acceptance"].tolist(), strict=False):
        assert acceptance > 0 or before == after


def test_lp_is_that_of_the_draw() -> None:
    target = ConjugateRegression.example()
    kernel = Langevin(target.model, step_size=1e-3)
    kernel.setup(0, target.x, target.y)
    draws = torch.stack([kernel.sample(kernel.initial_params)["theta"] for _ in range(10)])
    torch.testing.assert_close(kernel.sample_stats()["lp"], target.log_joint(draws))


def test_a_gradient_that_is_no_number_is_told() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.factor("corner", torch.where(x < 9.0, 0.0 * x, math.nan * x))  # 0, and the gradient 0 * NaN

    with pytest.raises(NumericalError, match="gradient of x"):
        Langevin(model).setup(0)


def between_walls() -> Langevin:
    """A chain where the density is no number beyond -1 and 1."""

    def model() -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.factor("wall", 0.0 * x + torch.where(x.abs() < 1.0, 0.0, math.nan))

    kernel = Langevin(model, step_size=0.5, init={"x": torch.tensor(0.2, dtype=torch.float64)})
    kernel.setup(0)
    return kernel


def test_a_jump_out_of_the_world_leaves_the_chain_where_it_was() -> None:
    kernel, other = between_walls(), between_walls()
    other.chain.noise = copy.deepcopy(kernel.chain.noise)
    with pytest.raises(NumericalError, match="wall"):
        kernel.sample({"x": torch.tensor(2.0, dtype=torch.float64)})
    assert kernel.state["x"] == 0.2
    for _ in range(20):
        assert torch.equal(*(k.sample(k.initial_params)["x"] for k in (kernel, other)))


def test_a_proposal_out_of_the_world_is_refused() -> None:
    """Where the density is no number the step is not taken, and the chain goes on."""
    kernel = between_walls()
    draws = torch.stack([kernel.sample(kernel.initial_params)["x"] for _ in range(200)])
    assert draws.abs().max() < 1.0
    assert len(draws.unique()) > 50


def test_the_same_seed_gives_the_same_bits() -> None:
    def chain() -> Tensor:
        torch.manual_seed(3)
        kernel = Langevin(TARGET.model, step_size=1.0)
        kernel.setup(0)
        return torch.stack([kernel.sample(kernel.initial_params)["theta"] for _ in range(30)])

    assert chain().equal(chain())


def test_what_is_not_all_data_is_refused() -> None:
    target = ConjugateRegression.example()
    with pytest.raises(InputError, match="one batch"):
        Langevin(target.model, data=(target.x, target.y), batch_size=5)
    with pytest.raises(InputError, match="one batch"):
        Langevin(target.model, data=(target.x, target.y), gradient=SVRG(2))
    with pytest.raises(InputError, match="exploration"):
        Langevin(target.model, step_size=Cyclical(0.1, cycle=10))
    with pytest.raises(InputError, match="temperature"):
        Langevin(target.model, temperature=0.0)
    with pytest.raises(InputError, match="one batch"):
        Langevin(target.model, data=[(target.x[:20], target.y[:20]), (target.x[20:], target.y[20:])]).setup(0)
    with pytest.raises(UnsupportedModelError, match=r"data.* subsamples"):
        Langevin(target.subsampled_model(5)).setup(0)
    Langevin(target.model, data=(target.x, target.y), gradient=Minibatch()).setup(0)
