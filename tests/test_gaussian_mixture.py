"""The mixture of Gaussians: its law, its M-step, scikit-learn's as an independent check, and the command."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

import pyro_bdl as bdl
from models.gaussian_mixture import __main__ as command
from models.gaussian_mixture.maximum import maximum
from models.gaussian_mixture.methods import Settings
from models.gaussian_mixture.mixture import Mixture, Values
from pyro_bdl.errors import NumericalError
from pyro_bdl.exact import factors_of
from pyro_bdl.inference.expectation import expect
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import mean_is


def fit(mixture: Mixture, x: Tensor, start: Values, **options: Any) -> bdl.EMFit:
    return bdl.fit_em(
        mixture, x, start=start, progress=False, maximise=lambda r, _: maximum(mixture, x, r["z"]), **options
    )


def start_of(mixture: Mixture, x: Tensor) -> Values:
    return mixture.start(x, torch.Generator().manual_seed(int(torch.randint(2**31, ()))))


def blobs(points: int, dimension: int) -> Tensor:
    """Three clusters one after another along a diagonal, sheared; as many points in each."""
    shear = torch.eye(dimension, dtype=torch.float64) + 0.3 * torch.randn(dimension, dimension, dtype=torch.float64)
    noise = torch.randn(points, dimension, dtype=torch.float64) @ shear
    return 3.0 * (torch.arange(points) % 3)[:, None] + noise


def one_of_each(x: Tensor) -> Tensor:
    """A mean in each of the clusters: from there no component collapses."""
    return x[:3].clone()


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("priors", [True, False])
def test_bound_never_falls(dimension: int, priors: bool) -> None:
    for _ in range(3):
        x = blobs(150, dimension)
        mixture = Mixture(3, dimension, priors=priors)
        start = start_of(mixture, x)
        if not priors:  # else there may be no maximum to rise to
            start["loc"] = one_of_each(x)
        bounds = fit(mixture, x, start, steps=15).bounds
        assert (np.diff(bounds) >= -1e-12 * np.abs(bounds[:-1])).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_same_path_as_scikit_learn(dimension: int) -> None:
    """Without priors, from the same start: the log likelihood after each of 20 steps, to 1e-6."""
    mixture = Mixture(3, dimension, priors=False)
    x = blobs(150, dimension)
    start = {**start_of(mixture, x), "loc": one_of_each(x)}
    root = mixture.root(start["squares"], start["above"])
    theirs = GaussianMixture(
        3, reg_covar=0.0, tol=0.0, max_iter=21, weights_init=start["weights"].numpy(), means_init=start["loc"].numpy(),
        precisions_init=torch.linalg.inv(root @ root.mT).numpy(),
    ).fit(x.numpy())  # fmt: skip
    ours = fit(mixture, x, start, steps=20, tolerance=0.0).bounds
    assert np.array(ours) == pytest.approx(np.array(theirs.lower_bounds_[: len(ours)]) * len(x), abs=1e-6)


@pytest.mark.parametrize("priors", [True, False])
def test_m_step_is_stationary(priors: bool) -> None:
    """The gradient of the expected complete log density vanishes there, along the simplex for the weights."""
    mixture, x = Mixture(3, 3, priors=priors), blobs(60, 3)
    start = start_of(mixture, x)
    expectation = expect(factors_of(pyro.condition(mixture, data=start), x))
    found = maximum(mixture, x, expectation.responsibilities["z"])
    leaves = {name: value.clone().requires_grad_() for name, value in found.items()}
    complete = expectation.complete(factors_of(pyro.condition(mixture, data=leaves), x))
    gradient = dict(zip(leaves, torch.autograd.grad(complete, list(leaves.values())), strict=True))
    assert float((gradient["weights"] - gradient["weights"].mean()).abs().max()) < 1e-8
    assert all(float(gradient[name].abs().max()) < 1e-8 for name in ("loc", "squares", "above"))


def test_covariances_without_priors_are_moments() -> None:
    mixture, x = Mixture(2, 2, priors=False), blobs(50, 2)
    r = torch.rand(50, 2, dtype=torch.float64)
    r = r / r.sum(1, keepdim=True)
    found = maximum(mixture, x, r)
    root = mixture.root(found["squares"], found["above"])
    for k in range(2):
        expected = np.cov(x.T.numpy(), aweights=r[:, k].numpy(), ddof=0)
        assert np.abs((root[k] @ root[k].T).numpy() - expected).max() < 1e-10


def test_prior_is_the_wishart_law() -> None:
    """By its mean I/s^2, and the mean of the log determinant, from the digamma function."""
    mixture = Mixture(20_000, 3)
    trace: Any = pyro.poutine.trace(mixture).get_trace(torch.zeros(1, 3, dtype=torch.float64))
    values = {name: trace.nodes[name]["value"] for name in ("squares", "above", "loc")}
    root = mixture.root(values["squares"], values["above"])
    precision = torch.cholesky_inverse(root)
    mean_is(precision.flatten(1), (torch.eye(3) / mixture.scale**2).flatten())
    degrees = torch.tensor([(mixture.degrees - i) / 2 for i in range(3)], dtype=torch.float64)
    mean = float(torch.digamma(degrees).sum()) + 3 * math.log(2 / (mixture.degrees * mixture.scale**2))
    mean_is(torch.logdet(precision), mean)
    white = torch.linalg.solve(root, values["loc"][:, :, None])[..., 0]
    mean_is(mixture.beta * white.square(), 1.0)


def test_densities_are_the_models() -> None:
    mixture, x = Mixture(3), blobs(20, 2)
    start = start_of(mixture, x)
    unpriored = Mixture(3, priors=False)
    total = factors_of(pyro.condition(unpriored, data=start), x).log_total()
    assert torch.allclose(mixture.densities({n: v[None] for n, v in start.items()}, x).sum(), total)


def test_summed_out_is_the_same_density() -> None:
    """What SGLD and SVI see is what EM climbs: with the priors, at any parameters, and with its gradient."""
    mixture, x = Mixture(3), blobs(20, 2)
    values = {name: value.requires_grad_() for name, value in start_of(mixture, x).items()}
    trace: Any = pyro.poutine.trace(pyro.condition(bdl.sum_out(mixture), data=values)).get_trace(x)
    by_hand: Any = pyro.poutine.trace(pyro.condition(mixture.summed, data=values)).get_trace(x)
    expected = factors_of(pyro.condition(mixture, data=values), x).log_total()

    def gradients(total: Tensor) -> Values:
        found = dict(zip(values, torch.autograd.grad(total, list(values.values())), strict=True))
        return {**found, "weights": found["weights"] - found["weights"].mean()}  # along the simplex

    wanted = gradients(expected)
    for found in (trace.log_prob_sum(), by_hand.log_prob_sum()):
        assert torch.allclose(found, expected)
        assert all(torch.allclose(value, wanted[name]) for name, value in gradients(found).items())


def uncentred(r: Tensor, x: Tensor, found: Values) -> Values:
    return {**found, "loc": found["loc"] + 0.3}


def transposed(r: Tensor, x: Tensor, found: Values) -> Values:
    return {**found, "above": -found["above"]}


def precision_for_covariance(r: Tensor, x: Tensor, found: Values) -> Values:
    return {**found, "squares": 1 / found["squares"]}


@pytest.mark.parametrize("mutant", [uncentred, transposed, precision_for_covariance])
def test_wrong_m_steps_are_caught(mutant: Any) -> None:
    mixture = Mixture(3)
    x, _ = command.petals(0)
    good = fit(mixture, x, start_of(mixture, x), steps=30).values

    def maximise(r: Any, _: Any) -> Values:
        return mutant(r["z"], x, maximum(mixture, x, r["z"]))

    with pytest.raises(NumericalError, match="lowered the bound"):
        bdl.fit_em(mixture, x, start=good, maximise=maximise, progress=False)


def test_collapse_is_an_error_without_priors_and_none_with() -> None:
    """A component that holds one place alone: copies of a point, far from all others."""
    x = torch.cat([blobs(30, 2), torch.full((5, 2), 50.0, dtype=torch.float64)])
    start = start_of(Mixture(2), x)
    start["loc"] = torch.tensor([[0.0, 0.0], [50.0, 50.0]], dtype=torch.float64)
    with pytest.raises(NumericalError, match="component 1 has collapsed: 5 data points"):
        fit(Mixture(2, priors=False), x, start)
    bounds = fit(Mixture(2), x, start, steps=30).bounds
    assert all(math.isfinite(bound) for bound in bounds)


def test_a_component_without_data_is_an_error_without_priors() -> None:
    x = blobs(30, 2)
    r = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(30, 2)
    with pytest.raises(NumericalError, match="component 1 has collapsed: 0 data points"):
        maximum(Mixture(2, priors=False), x, r)
    assert all(bool(torch.isfinite(v).all()) for v in maximum(Mixture(2), x, r).values())


def test_command(tmp_path: Path) -> None:
    settings = Settings(starts=2, em_steps=10, svi_steps=4, svi_draws=5, updates=6, warmup=2, chains=2)
    rows = command.main(command.Options(out=tmp_path, progress=False, settings=settings))
    written = json.loads((tmp_path / "gaussian_mixture.json").read_text())
    assert written["rows"] == rows
    assert written["least gain"] >= 0
    assert [row["method"].split(",")[0] for row in rows] == ["EM", "SVI", "SGLD"]
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    assert {path.name for path in tmp_path.glob("*.png")} == {"bounds.png", "components.png", "graph.png"}
