"""Energy, entropy and free energy against closed forms of a conjugate regression."""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.diagnostics import chain_free_energy, free_energy
from pyro_bdl.diagnostics.energies import FreeEnergy
from pyro_bdl.diagnostics.entropy import gaussian_entropy, neighbour_entropy
from pyro_bdl.errors import InputError, NumericalError, UnsupportedModelError
from tests.targets import ConjugateRegression

TARGET = ConjugateRegression.example(n=12, d=3)
DATA = (TARGET.x, TARGET.y)
ERRORS = 5.0  # of a normal estimate: false alarms of 6e-7
LOG_2PIE = math.log(2 * math.pi * math.e)


def energy_at(mean: Tensor, covariance: Tensor) -> float:
    """-E log p(theta, y) for theta ~ N(mean, covariance): at the posterior mean, and the quadratic around it."""
    gap = mean - TARGET.mean
    spread = torch.trace(TARGET.precision @ covariance) + gap @ TARGET.precision @ gap
    return float(0.5 * spread - TARGET.log_joint(TARGET.mean))


def entropy_of(covariance: Tensor) -> float:
    return 0.5 * (len(covariance) * LOG_2PIE + float(torch.logdet(covariance)))


def mean_field() -> tuple[Any, Tensor]:
    guide = bdl.guides.AutoMeanField(TARGET.model)
    guide(*DATA)
    variance = 1 / TARGET.precision.diagonal()
    with torch.no_grad():
        guide.loc.copy_(TARGET.mean)
        guide.log_variance.copy_(variance.log())
    return guide, torch.diag(variance)


def pyros() -> tuple[Any, Tensor]:
    guide = AutoNormal(TARGET.model, init_loc_fn=lambda site: TARGET.mean, init_scale=0.1)
    guide(*DATA)
    return guide, 0.01 * torch.eye(3, dtype=torch.float64)


def by_hand() -> tuple[Any, Tensor]:
    law = dist.MultivariateNormal(TARGET.mean, TARGET.covariance)
    return (lambda *args: pyro.sample("theta", law)), TARGET.covariance


def full() -> tuple[Any, Tensor]:
    guide = AutoMultivariateNormal(TARGET.model, init_loc_fn=lambda site: TARGET.mean, init_scale=0.2)
    guide(*DATA)
    return guide, 0.04 * torch.eye(3, dtype=torch.float64)


GUIDES = {"AutoMeanField": mean_field, "AutoNormal": pyros, "AutoMultivariateNormal": full, "by hand": by_hand}


def check(found: FreeEnergy, energy: float, entropy: float) -> None:
    for value, error, right in (
        (found.energy, found.energy_error, energy),
        (found.entropy, found.entropy_error, entropy),
        (found.free_energy, found.free_energy_error, energy - found.temperature * entropy),
    ):
        assert abs(value - right) <= ERRORS * error + 1e-5 * abs(right)  # some autoguides are in float32


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_against_closed_forms(name: str, temperature: float) -> None:
    guide, covariance = GUIDES[name]()
    found = free_energy(TARGET.model, guide, *DATA, temperature=temperature)
    assert found.entropy_error < 1e-6  # in closed form
    check(found, energy_at(TARGET.mean, covariance), entropy_of(covariance))


def test_the_posterior_has_the_least_free_energy_and_it_is_that_of_the_data() -> None:
    """E - S has no variance there: -log p(y), draw by draw, up to the entropy's closed form."""
    guide, covariance = by_hand()
    found = free_energy(TARGET.model, guide, *DATA)
    assert abs(found.free_energy + TARGET.log_evidence) <= ERRORS * found.free_energy_error
    assert energy_at(TARGET.mean, covariance) - entropy_of(covariance) == pytest.approx(-TARGET.log_evidence)
    narrow = torch.diag(1 / TARGET.precision.diagonal())
    assert energy_at(TARGET.mean, narrow) - entropy_of(narrow) > -TARGET.log_evidence


@pytest.mark.parametrize("name", GUIDES)
def test_it_is_the_negative_elbo(name: str) -> None:
    guide, _ = GUIDES[name]()
    found = free_energy(TARGET.model, guide, *DATA)
    losses = torch.tensor([Trace_ELBO().loss(TARGET.model, guide, *DATA) for _ in range(1000)], dtype=torch.float64)
    error = math.hypot(found.free_energy_error, float(losses.std()) / math.sqrt(1000))
    assert abs(found.free_energy - float(losses.mean())) <= ERRORS * error + 1e-9


def test_constrained_sites_and_batches() -> None:
    """A log-normal site through a Delta of Pyro's, as a log-normal law of ours; N/B of a batch counts."""

    def model(y: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", size=10, subsample_size=len(y)):
            pyro.sample("y", dist.Normal(0.0, scale), obs=y)

    y = torch.ones(5)
    for make in (AutoNormal, bdl.guides.AutoMeanField):
        guide = make(model, init_loc_fn=lambda site: torch.tensor(1.0), init_scale=0.5)
        guide(y)
        found = free_energy(model, guide, y, num_samples=1000)
        # u ~ N(0, 1/4): E log p(scale) = -log sqrt(2 pi) - E u^2 / 2, E log p(y) = 10 (-log sqrt(2 pi) - e^(2/4) / 2).
        root = 0.5 * math.log(2 * math.pi)
        energy = root + 0.125 + 10 * (root + 0.5 * math.exp(0.5))
        check(found, energy, 0.5 * LOG_2PIE + math.log(0.5))


@dataclass
class Mutant:
    """What a wrong decomposition would say."""

    energy: float
    entropy: float


@pytest.mark.parametrize("mutant", ["prior twice", "sigma for log sigma", "entropy of the unconstrained"])
def test_wrong_numbers_are_caught(mutant: str) -> None:
    guide, covariance = mean_field()
    found = free_energy(TARGET.model, guide, *DATA)
    energy, entropy = energy_at(TARGET.mean, covariance), entropy_of(covariance)
    if mutant == "prior twice":
        energy += 1.5 * math.log(2 * math.pi) + 0.5 * float(TARGET.mean.square().sum() + covariance.trace())
    elif mutant == "sigma for log sigma":
        entropy += float((covariance.diag().sqrt() - covariance.diag().sqrt().log()).sum())
    else:
        entropy += 0.1
    with pytest.raises(AssertionError):
        check(found, energy, entropy)


def test_a_point_has_no_entropy() -> None:
    guide = AutoDelta(TARGET.model)
    with pytest.raises(UnsupportedModelError, match="points"):
        free_energy(TARGET.model, guide, *DATA, num_samples=2)


def chain(kernel: Any, draws: int = 600) -> MCMC:
    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=50, disable_progbar=True)
    mcmc.run(*DATA)
    return mcmc


def langevin(**options: Any) -> Any:
    return bdl.Langevin(TARGET.model, step_size=0.5 / float(torch.linalg.eigvalsh(TARGET.precision)[-1]), **options)


def test_a_chain_against_closed_forms() -> None:
    found = chain_free_energy(chain(langevin(thinning=4)))
    check(found, energy_at(TARGET.mean, TARGET.covariance), entropy_of(TARGET.covariance))
    assert found.free_energy == pytest.approx(-TARGET.log_evidence, abs=0.5)
    assert found.free_energy_error < 0.15


def test_many_chains_at_once_are_as_good_as_one() -> None:
    found = chain_free_energy(
        bdl.sample_chains(
            langevin(thinning=4), num_samples=150, warmup_steps=50, num_chains=4, model_args=DATA, progress=False
        )
    )
    check(found, energy_at(TARGET.mean, TARGET.covariance), entropy_of(TARGET.covariance))


def test_a_tempered_chain_has_its_own_temperature() -> None:
    """Its draws are those of N(mean, T covariance)."""
    found = chain_free_energy(chain(langevin(thinning=4, temperature=0.5)))
    assert found.temperature == 0.5
    check(found, energy_at(TARGET.mean, 0.5 * TARGET.covariance), entropy_of(0.5 * TARGET.covariance))


def test_a_chain_with_a_constrained_site_is_that_of_the_site_itself() -> None:
    """LogNormal(0.3, 0.5), without data: F = -log 1, E = S, as the model has the site."""
    mcmc = MCMC(
        bdl.Langevin(lambda: pyro.sample("scale", dist.LogNormal(0.3, 0.5)), step_size=0.4, thinning=3),
        num_samples=800, warmup_steps=50, disable_progbar=True,
    )  # fmt: skip
    mcmc.run()
    entropy = 0.5 * LOG_2PIE + math.log(0.5) + 0.3
    for kind in ("gaussian", "neighbours"):
        found = chain_free_energy(mcmc, entropy=kind)  # type: ignore[arg-type]
        assert abs(found.entropy - entropy) <= ERRORS * found.entropy_error + (0.05 if kind == "neighbours" else 0.0)
        assert abs(found.energy - entropy) <= ERRORS * found.energy_error


def test_entropies_of_known_laws() -> None:
    """A uniform square of entropy 0: the normal law says log(2 pi e / 12), the neighbours 0, with errors of 0.02."""
    draws = torch.rand(4000, 2, dtype=torch.float64)
    assert neighbour_entropy(draws) == pytest.approx(0.0, abs=0.15)
    assert gaussian_entropy(draws) == pytest.approx(math.log(2 * math.pi * math.e / 12), abs=0.1)
    few = torch.stack([torch.tensor(gaussian_entropy(torch.randn(15, 10))) for _ in range(2000)])
    error = float(few.std()) / math.sqrt(2000)
    assert abs(float(few.mean()) - 5 * LOG_2PIE) <= ERRORS * error  # without bias for few draws, too


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(InputError, match="num_samples"):
        free_energy(TARGET.model, by_hand()[0], *DATA, num_samples=1)
    with pytest.raises(InputError, match="temperature"):
        free_energy(TARGET.model, by_hand()[0], *DATA, temperature=-1.0)
    with pytest.raises(InputError, match="theta"):
        free_energy(TARGET.model, lambda *args: pyro.sample("other", dist.Normal(0.0, 1.0)), *DATA, num_samples=2)
    with pytest.raises(InputError, match="draws"):
        chain_free_energy(chain(langevin(), draws=30))
    with pytest.raises(InputError, match="entropy"):
        chain_free_energy(None, entropy="exact")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="parameters"):
        gaussian_entropy(torch.randn(3, 5))
    with pytest.raises(InputError, match="neighbour"):
        neighbour_entropy(torch.randn(30, 2), neighbour=30)
    with pytest.raises(InputError, match="lp"):
        chain_free_energy(NoRecords())


class NoRecords:
    def get_samples(self, *, group_by_chain: bool) -> dict[str, Tensor]:
        return {"theta": torch.randn(1, 100, 3)}


def test_energies_that_are_not_finite_are_refused() -> None:
    def model() -> None:
        pyro.factor("wall", pyro.sample("theta", dist.Normal(0.0, 1.0)) * torch.inf)

    with pytest.raises(NumericalError, match="energy"):
        free_energy(model, lambda: pyro.sample("theta", dist.Normal(0.0, 1.0)), num_samples=5)
