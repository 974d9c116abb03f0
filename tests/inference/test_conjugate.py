"""Regression whose posterior is known: what each fit must converge to, and that the bound is a bound."""

import math
from dataclasses import replace
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.inference.steps import FlatStep
from pyro_bdl.minibatches import Batch
from tests.statistics import Mismatch, mean_is
from tests.targets import ConjugateRegression

TARGET = ConjugateRegression.example(n=40, d=3)
DATA = (TARGET.x, TARGET.y)


def adam(rate: float) -> Any:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99))


def falling(t: float) -> float:
    """A constant rate at first, then one that falls by a factor of a thousand."""
    return 1.0 if t < 0.3 else 10 ** (-3.0 * (t - 0.3) / 0.7)


def assert_mean_field(loc: Tensor, sd: Tensor) -> None:
    """N(mu, 1/diag P): the mean-field optimum."""
    best = TARGET.precision.diagonal().rsqrt()
    assert float(((loc - TARGET.mean) / best).abs().max()) <= 0.01
    assert float((sd / best - 1.0).abs().max()) <= 0.01


# The mean of T draws' gradients leaves an error of 1 / sqrt(T) deviations: 1% needs a quarter of a million draws. A
# local estimator has them in one pass; the others are slow, and by default asked whether the optimum is stationary.
@pytest.mark.parametrize(
    ("estimator", "epochs", "num_particles"),
    [
        ("local", 2000, 100),
        pytest.param("flipout", 5000, 60, marks=pytest.mark.slow),
        pytest.param("plain", 5000, 60, marks=pytest.mark.slow),
    ],
)
def test_mean_field_guide(estimator: Any, epochs: int, num_particles: int) -> None:
    guide = bdl.guides.AutoMeanField(TARGET.model, init_scale=0.1)
    bdl.fit_svi(
        TARGET.model, guide, DATA, epochs=epochs, batch_size=40, optimizer=adam(0.03), schedule=falling,
        estimator=estimator, num_particles=num_particles, progress=False,
    )  # fmt: skip
    (moments,) = guide.moments()
    assert_mean_field(moments.loc.detach(), moments.variance.sqrt().detach())


def at_the_optimum(shift: float = 0.0, factor: float = 1.0, of: ConjugateRegression = TARGET) -> Any:
    """A guide at N(mu, 1/diag P), or beside it by so many deviations, with a deviation wrong by a factor."""
    guide = bdl.guides.AutoMeanField(TARGET.model)
    guide(*DATA)
    with torch.no_grad():
        guide.loc.copy_(of.mean + shift * of.precision.diagonal().rsqrt())
        guide.log_variance.copy_(-of.precision.diagonal().log() + 2 * math.log(factor))
    return guide


def gradients(guide: Any, estimator: str, *, kl_weight: float = 1.0, count: int = 1000) -> Tensor:
    wrapped: Any = {"plain": lambda g: None, "local": bdl.local_reparameterization, "flipout": bdl.flipout}[estimator]
    plate, batch = SubsampleIndices(size=40), Batch(DATA, torch.arange(40))
    step = FlatStep(TARGET.model, guide, wrapped(guide), plate, batch)
    rows = []
    for _ in range(count):
        step(batch, kl_weight)
        rows.append(torch.cat([p.grad for p in step.parameters]))  # type: ignore[misc]
    return torch.stack(rows)


@pytest.mark.parametrize("estimator", ["local", "flipout", "plain"])
def test_the_optimum_is_stationary(estimator: str) -> None:
    mean_is(gradients(at_the_optimum(), estimator), 0.0)


@pytest.mark.parametrize("beside", [{"shift": 0.3}, {"factor": 1.2}])
def test_beside_the_optimum_it_is_not(beside: dict[str, float]) -> None:
    for estimator in ("local", "flipout", "plain"):
        with pytest.raises(Mismatch):
            mean_is(gradients(at_the_optimum(**beside), estimator), 0.0)


@pytest.mark.parametrize("estimator", ["local", "flipout", "plain"])
def test_the_optimum_of_a_weighted_kl_is_that_of_a_likelihood_to_a_power(estimator: str) -> None:
    """-E log p(y) + b KL is b times the bound of the likelihood p(y)^(1/b)."""
    tempered = replace(TARGET, noise_sd=TARGET.noise_sd * math.sqrt(0.25))
    mean_is(gradients(at_the_optimum(of=tempered), estimator, kl_weight=0.25), 0.0)
    with pytest.raises(Mismatch):
        mean_is(gradients(at_the_optimum(of=tempered), estimator, kl_weight=1.0), 0.0)


@pytest.mark.parametrize("mutant", ["KL twice", "deviation for variance", "plate left out"])
def test_mutants_miss_the_optimum(mutant: str) -> None:
    """What the test above would see of a wrong bound, in closed form."""
    precision = TARGET.precision.clone()
    if mutant == "KL twice":
        precision += torch.eye(3)
    sd = precision.diagonal().rsqrt()
    sd = {"deviation for variance": sd.square(), "plate left out": sd * math.sqrt(2)}.get(mutant, sd)
    mean = torch.linalg.solve(precision, TARGET.x.T @ TARGET.y / TARGET.noise_sd**2)
    with pytest.raises(AssertionError):
        assert_mean_field(mean, sd)


@pytest.mark.slow
@pytest.mark.parametrize("elbo", [bdl.MeanFieldELBO, Trace_ELBO])
@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal])
def test_pyros_mean_field_guides(kind: Any, elbo: Any) -> None:
    guide = kind(TARGET.model, init_scale=0.1)
    bdl.fit_svi(
        TARGET.model, guide, DATA, epochs=5000, batch_size=40, optimizer=adam(0.03), schedule=falling,
        estimator="plain", elbo=elbo(60), progress=False,
    )  # fmt: skip
    quantiles = guide.quantiles([0.5, 0.841344746], *DATA)["theta"]
    assert_mean_field(quantiles[0].detach(), (quantiles[1] - quantiles[0]).detach())


@pytest.mark.parametrize("elbo", [bdl.MeanFieldELBO, Trace_ELBO])
def test_full_covariance_is_exact(elbo: Any) -> None:
    """At the exact posterior each single draw's bound is the evidence, and a fit comes near it.

    Its last hundred draws on average: a single one is off by more than half a nat now and then.
    """
    guide = AutoMultivariateNormal(TARGET.model, init_scale=0.1)
    fit = bdl.fit_svi(
        TARGET.model, guide, DATA, epochs=800, batch_size=40, optimizer=adam(0.03), schedule=falling,
        estimator="plain", elbo=elbo(), progress=False,
    )  # fmt: skip
    assert -sum(fit.losses[-100:]) / 100 == pytest.approx(TARGET.log_evidence, abs=0.2)  # .01 to .04 below
    factor = torch.linalg.cholesky(TARGET.covariance)
    with torch.no_grad():
        guide.loc.copy_(TARGET.mean)
        guide.scale = factor.diagonal()
        guide.scale_tril = factor / factor.diagonal()[:, None]
    for _ in range(5):
        assert -elbo().loss(TARGET.model, guide, *DATA) == pytest.approx(TARGET.log_evidence, abs=1e-8)
    with torch.no_grad():
        guide.loc.add_(0.01)
    bounds = [-elbo().loss(TARGET.model, guide, *DATA) for _ in range(5)]
    assert max(abs(bound - TARGET.log_evidence) for bound in bounds) > 1e-6


def exact_bound(loc: Tensor, variance: Tensor) -> float:
    """The bound of N(loc, diag variance), in closed form."""
    spread = -0.5 * float((TARGET.precision.diagonal() * variance).sum())
    entropy = 0.5 * float((variance.log() + 1 + math.log(2 * math.pi)).sum())
    return float(TARGET.log_joint(loc)) + spread + entropy


@pytest.mark.parametrize("wrap", ["plain", "local", "flipout"])
def test_the_elbo_is_the_closed_form_and_a_lower_bound(wrap: str) -> None:
    guide = bdl.guides.AutoMeanField(TARGET.model, init_scale=0.15)
    guide(*DATA)
    with torch.no_grad():
        guide.loc.copy_(TARGET.mean + 0.05)
    (moments,) = guide.moments()
    expected = exact_bound(moments.loc.detach(), moments.variance.detach())
    assert expected < TARGET.log_evidence
    around: Any = {"plain": lambda g: g, "local": bdl.local_reparameterization, "flipout": bdl.flipout}[wrap](guide)
    elbo = bdl.MeanFieldELBO()
    draws = torch.tensor([-elbo.loss(TARGET.model, around, *DATA) for _ in range(600)])
    error = draws.std() / math.sqrt(600)
    assert abs(float(draws.mean()) - expected) < 5.0 * float(error)
    assert float(draws.mean()) < TARGET.log_evidence + 5.0 * float(error)


def test_auto_normal_has_the_analytic_kl() -> None:
    """AutoNormal's bound varies only by its likelihood; Trace_ELBO's by the KL as well."""
    guide = AutoNormal(TARGET.model, init_scale=0.15)
    guide(*DATA)
    elbo = bdl.MeanFieldELBO()
    torch.manual_seed(0)
    full = elbo.loss(TARGET.model, guide, *DATA)
    torch.manual_seed(0)
    without = bdl.MeanFieldELBO(kl_weight=0.0).loss(TARGET.model, guide, *DATA)
    loc = guide.locs.theta.detach()
    q = torch.distributions.Normal(loc, torch.full_like(loc, 0.15))
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    assert full - without == pytest.approx(float(kl), rel=1e-6)


@pytest.mark.parametrize("batch_size", [10, 40])
def test_svi_steps_of_minibatches(batch_size: int) -> None:
    """Pyro's own SVI with the bound of a minibatch has the same mean whatever the batch size."""
    guide = bdl.guides.AutoMeanField(TARGET.model, init_scale=0.15)
    guide(*DATA)
    svi = SVI(TARGET.model, guide, pyro.optim.Adam({"lr": 0.0}), bdl.MeanFieldELBO())
    batches = [torch.randperm(40)[:batch_size] for _ in range(500)]
    losses = torch.tensor([svi.step(TARGET.x[i], TARGET.y[i]) for i in batches])
    (moments,) = guide.moments()
    expected = -exact_bound(moments.loc.detach(), moments.variance.detach())
    assert abs(float(losses.mean()) - expected) < 5.0 * float(losses.std()) / math.sqrt(500)
