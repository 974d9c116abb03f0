"""log_marginal against the closed form of a linear autoencoder, and what it says of itself."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.diagnostics import container
from pyro_bdl.errors import InputError, NumericalError, UnsupportedModelError
from pyro_bdl.latent import Gaussian
from pyro_bdl.particles import weighed
from tests.latent.programs import PIXELS, LinearGaussian, rows
from tests.statistics import Mismatch, mean_is, require, two_sided

X = rows(10)


def errors(problem: LinearGaussian, *, samples: int = 20_000, **options: Any) -> Tensor:
    """How far the estimate of each row is from its log evidence."""
    vae = problem.vae()
    found = bdl.log_marginal(vae.model, vae.guide, X, num_samples=samples, **options)
    return found.value - problem.evidence(X).detach()


def test_is_the_closed_form() -> None:
    """Within 0.01 nats, 7 standard errors, for a guide that is not the posterior (0.1 nats in its bound and more)."""
    problem = LinearGaussian.example()
    gap = (problem.evidence(X) - problem.bound(X)).detach()
    assert float(gap.min()) > 0.1
    assert abs(float(errors(problem, samples=100_000).mean())) < 0.01


@pytest.mark.parametrize("rows_at_once", [3, 70, 300, 10_000])
def test_does_not_depend_on_the_rows_at_once(rows_at_once: int) -> None:
    """Each row is right within its own standard error, from the effective sample size."""
    problem, samples = LinearGaussian.example(), 700
    vae = problem.vae()
    some = X[:3] if rows_at_once == 3 else X
    found = bdl.log_marginal(vae.model, vae.guide, some, num_samples=samples, rows_at_once=rows_at_once)
    error = (1 / found.effective_sample_size - 1 / samples).sqrt()
    z = (found.value - problem.evidence(some).detach()) / error
    assert found.value.shape == (len(some),)
    require(two_sided(0.7 * z), "log evidence")  # 0.7: at 700 draws the error is itself an estimate


def test_the_bound_is_the_closed_form() -> None:
    problem, many = LinearGaussian.example(), X.repeat(50, 1)
    vae = problem.vae()
    found = bdl.log_marginal(vae.model, vae.guide, many, num_samples=200).bound.double().reshape(50, 10)
    mean_is(found, problem.bound(X).detach())
    with pytest.raises(Mismatch):
        mean_is(found, problem.evidence(X).detach())


def test_the_order_of_rows_is_kept() -> None:
    problem = LinearGaussian.example().be_exact()
    vae = problem.vae()
    found = bdl.log_marginal(vae.model, vae.guide, X, num_samples=150, rows_at_once=200)
    torch.testing.assert_close(found.value, problem.evidence(X).detach().float())
    assert found.mean == pytest.approx(float(problem.evidence(X).mean().detach()), abs=1e-5)
    assert found.standard_error == pytest.approx(float(problem.evidence(X).std().detach()) / 10**0.5, rel=1e-4)


def test_the_exact_posterior_has_equal_weights() -> None:
    vae = LinearGaussian.example().be_exact().vae()
    found = bdl.log_marginal(vae.model, vae.guide, X, num_samples=500)
    torch.testing.assert_close(found.effective_sample_size, torch.full((10,), 500.0))
    assert (found.pareto_k == -torch.inf).all()


@pytest.mark.parametrize("narrow", [1.0, 0.2])
def test_the_effective_sample_size_and_pareto_k_tell_a_bad_guide(narrow: float) -> None:
    """A guide much narrower than the posterior has weights of infinite variance."""
    problem = LinearGaussian.example().be_exact()
    problem.encoder.bias.data[2:] += 2.0 * np.log(narrow) + 0.2
    vae = problem.vae()
    found = bdl.log_marginal(vae.model, vae.guide, X, num_samples=5_000)
    if narrow == 1.0:
        assert float(found.effective_sample_size.min()) > 4_000
        assert float(found.pareto_k.max()) < 0.5
    else:
        assert float(found.effective_sample_size.median()) < 2_000
        assert float(found.pareto_k.median()) > 0.7


def by_both_arvizes(monkeypatch: pytest.MonkeyPatch, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By the installed ArviZ, and as if it were the one without psislw."""
    import arviz

    pytest.importorskip("arviz_stats")
    first = container.pareto_k(log_weights)
    monkeypatch.delattr(arviz, "psislw", raising=False)
    return first, container.pareto_k(log_weights)


@pytest.mark.parametrize("shape", [0.3, 0.6, 0.9])
def test_pareto_k_finds_the_tail(shape: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a generalised Pareto law: both fits find its shape, and agree."""
    uniform = np.random.default_rng().uniform(size=(40, 10_000))
    old, new = by_both_arvizes(monkeypatch, -shape * np.log(uniform))
    np.testing.assert_allclose(old, new, atol=0.1)
    for found in (old, new):
        assert abs(float(found.mean()) - shape) < 0.1  # 18 standard errors of the mean, and the prior of the fit


@pytest.mark.parametrize("draws", [1, 2, 24, 25, 100])
def test_pareto_k_of_few_draws_and_of_equal_weights(draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    varied = np.random.default_rng().normal(size=(1, draws))
    for found in by_both_arvizes(monkeypatch, np.concatenate([varied, 0.0 * varied, varied - 1e4])):
        assert found[1] == -np.inf
        if draws < 25:
            assert found[0] == (np.inf if draws > 1 else -np.inf)
        else:
            assert np.isfinite(found[0])
            assert found[0] == pytest.approx(found[2], abs=1e-6)  # the scale of the weights is nothing to it


def test_random_weights_are_drawn_once_for_a_batch_of_draws() -> None:
    """With a posterior of no spread the result is that of the weights themselves."""
    problem = LinearGaussian.example()
    decoder = nn.Linear(2, PIXELS).double()
    decoder.load_state_dict(problem.decoder.state_dict())
    vae = bdl.VariationalAutoencoder(problem.encoder, bdl.BayesianModule(decoder), 2, likelihood=Gaussian(0.7))
    bdl.MeanFieldELBO().loss(vae.model, vae.guide, X)
    vae.weights.guide.log_variance.data.fill_(-60.0)
    found = bdl.log_marginal(vae.model, vae.guide, X, num_samples=20_000)
    torch.testing.assert_close(
        found.value.double(), problem.evidence(X).detach(), atol=0.15, rtol=0
    )  # 10 standard errors


def sowing(change: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """`weighed` with an error in the weights."""

    def mutant(model_trace: Any, guide_trace: Any) -> Any:
        draws = weighed(model_trace, guide_trace)
        node, posterior = draws.latent[0]
        return draws._replace(log_weights=change(draws.log_weights, (node, posterior)))

    return mutant


MUTANTS: dict[str, tuple[str, Any]] = {
    "no prior": ("weighed", sowing(lambda w, z: w - z[0]["fn"].log_prob(z[0]["value"]))),
    "no posterior": ("weighed", sowing(lambda w, z: w + z[1]["fn"].log_prob(z[1]["value"]))),
    "posterior added": ("weighed", sowing(lambda w, z: w + 2 * z[1]["fn"].log_prob(z[1]["value"]))),
    "mean of logarithms": ("log_mean_exp", lambda w: w.mean(0)),
    "sum for mean": ("log_mean_exp", lambda w: w.logsumexp(0)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, mutant = MUTANTS[name]
    monkeypatch.setattr(import_module("pyro_bdl.diagnostics.log_marginal"), target, mutant)
    assert abs(float(errors(LinearGaussian.example(), samples=4_000).mean())) > 0.05


def test_the_false_alarms_of_the_row_test_are_bounded() -> None:
    """The statistic of `test_does_not_depend_on_the_rows_at_once` catches 0.5 nats on one row."""
    z = torch.zeros(10)
    z[3] = 0.5 / (0.002**0.5)
    with pytest.raises(Mismatch):
        require(two_sided(0.7 * z), "log evidence")


def nan_weights(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + (x[:, 0] - 2.0).sqrt(), 1.0, validate_args=False), obs=x[:, 0])


def no_weight(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z * 1e-30, 1e-30).mask(True), obs=x[:, 0])


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def two_plates(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        with pyro.plate("numbers", 2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.sum(0), 1.0), obs=x[:, 0])


def guide_of_two_plates(x: Tensor) -> None:
    with pyro.plate("data", len(x)), pyro.plate("numbers", 2):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def masked(x: Tensor) -> None:
    with pyro.plate("data", len(x)), pyro.poutine.mask(mask=x[:, 0] > 0):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def good(x: Tensor, *_: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[:, 0])


def guide_of_more(x: Tensor) -> None:
    guide(x)
    pyro.sample("w", dist.Normal(0.0, 1.0))


ROWS = torch.tensor([[3.0], [2.5], [1.0]])
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "NaN": (lambda: bdl.log_marginal(nan_weights, guide, ROWS, num_samples=9), NumericalError, "of row 2 is nan"),
    "NaN in a later batch": (
        lambda: bdl.log_marginal(nan_weights, guide, ROWS, num_samples=9, rows_at_once=9), NumericalError,
        "row 2 is nan",
    ),
    "no weight": (lambda: bdl.log_marginal(no_weight, guide, ROWS, num_samples=9), NumericalError, "of row 0 is -inf"),
    "no rows": (lambda: bdl.log_marginal(good, guide, ROWS[:0]), InputError, "at least one row, got none"),
    "no data": (lambda: bdl.log_marginal(good, guide), InputError, "at least one row, got none"),
    "no draws": (lambda: bdl.log_marginal(good, guide, ROWS, num_samples=0), InputError, "num_samples: expected"),
    "no rows at once": (lambda: bdl.log_marginal(good, guide, ROWS, rows_at_once=0), InputError, "rows_at_once: exp"),
    "lengths": (lambda: bdl.log_marginal(good, guide, ROWS, ROWS[:2]), InputError, "as many rows, got 3, 2"),
    "a guide of more": (lambda: bdl.log_marginal(good, guide_of_more, ROWS), UnsupportedModelError, r"alone \['w'\]"),
    "two plates": (
        lambda: bdl.log_marginal(two_plates, guide_of_two_plates, ROWS), UnsupportedModelError,
        "no more than one plate",
    ),
    "a mask": (lambda: bdl.log_marginal(masked, guide, ROWS), UnsupportedModelError, "data and a mask"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    run, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        run()


def test_one_row() -> None:
    """The dimension of the draws is not taken for that of the data."""
    problem = LinearGaussian.example()
    vae = problem.vae()
    found = bdl.log_marginal(vae.model, vae.guide, X[:1], num_samples=40_000)
    torch.testing.assert_close(found.value.double(), problem.evidence(X[:1]).detach(), atol=0.1, rtol=0)


def test_the_random_state_alone_decides() -> None:
    vae = LinearGaussian.example().vae()
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(bdl.log_marginal(vae.model, vae.guide, X, num_samples=50).value)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert all(parameter.grad is None for parameter in vae.parameters())
