"""The gradient of the log joint: against Pyro's potential, finite differences, and the mean over all minibatches."""

import itertools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.minibatches import Batch
from pyro_bdl.sgmcmc import log_joint
from pyro_bdl.sgmcmc.log_joint import LogJointGradient, random_subset
from pyro_bdl.sgmcmc.sites import FirstRun
from tests import statistics
from tests.targets import ConjugateRegression

DOUBLE = torch.float64


def log_joint_gradient(
    model: Callable[..., Any], *, batch: Batch | None = None, plate: SubsampleIndices | None = None
) -> tuple[LogJointGradient, Tensor, Callable[[Tensor], float]]:
    """The target, a flat position drawn from the prior, and a function that evaluates (with all checks)."""
    first = FirstRun(None)
    if plate is not None and batch is not None:
        plate.set(batch)
        with first, plate:
            model(*batch.args)
    else:
        with first:
            model()
    position = {name: site.unconstrain(first.values[name]) for name, site in first.sites.items()}
    target = LogJointGradient(model, first.sites, position, plate=plate)

    def evaluate(flat: Tensor) -> float:
        return target.evaluate(flat, target.layout.views(flat), batch, check=True)

    return target, target.layout.flatten(position), evaluate


def hierarchy() -> None:
    """Normal priors of several kinds, and a normal one whose numbers are another site's values."""
    scale = pyro.sample("scale", dist.Gamma(torch.tensor(3.0, dtype=DOUBLE), 2.0))
    a = pyro.sample("a", dist.Normal(torch.zeros(3, 2, dtype=DOUBLE), 0.7).to_event(2))
    b = pyro.sample("b", dist.Normal(torch.ones(2, dtype=DOUBLE), 0.7).to_event(1))
    c = pyro.sample("c", dist.Normal(torch.zeros(2, dtype=DOUBLE), torch.tensor([0.5, 2.0], dtype=DOUBLE)).to_event(1))
    d = pyro.sample("d", dist.Normal(b, scale).to_event(1))
    e = pyro.sample("e", dist.Normal(torch.zeros(2, dtype=DOUBLE), 0.7))
    y = torch.tensor([[0.3, -1.0], [0.2, 0.4], [1.5, 0.0]], dtype=DOUBLE)
    with pyro.plate("rows", 3):
        pyro.sample("y", dist.Normal(a.tanh() + b * c + d - e, scale).to_event(1), obs=y)


def constrained() -> None:
    """Supports with and without event dimensions, a mask, a scale, a factor, a deterministic site."""
    positive = pyro.sample("positive", dist.HalfCauchy(torch.ones(2, dtype=DOUBLE)).to_event(1))
    simplex = pyro.sample("simplex", dist.Dirichlet(torch.full((3,), 1.5, dtype=DOUBLE)))
    interval = pyro.sample("interval", dist.Uniform(torch.tensor(-1.0, dtype=DOUBLE), 2.0))
    cholesky = pyro.sample("cholesky", dist.LKJCholesky(3, torch.tensor(2.0, dtype=DOUBLE)))
    with pyro.poutine.scale(scale=2.5):
        tail = pyro.sample("tail", dist.StudentT(torch.tensor(4.0, dtype=DOUBLE)))
    with pyro.poutine.mask(mask=torch.tensor([True, False, True])):
        normal = pyro.sample("normal", dist.Normal(torch.zeros(3, dtype=DOUBLE), 1.0))
    pyro.deterministic("sum", positive.sum() + tail)
    pyro.factor("penalty", -(interval**2) - cholesky[2, 0] ** 4 - (normal**4).sum())
    labels = torch.tensor([0, 2, 1, 1])
    with pyro.plate("data", 4):
        pyro.sample("labels", dist.Categorical(logits=(simplex * tail).expand(4, 3)), obs=labels)


MODELS = {"hierarchy": hierarchy, "constrained": constrained}


@pytest.mark.parametrize("model", MODELS)
def test_agrees_with_pyros_potential(model: str) -> None:
    """Value and gradient are those of the potential energy that NUTS would use."""
    target, position, evaluate = log_joint_gradient(MODELS[model])
    params = {name: value.clone().requires_grad_() for name, value in target.layout.views(position).items()}
    _, potential, _, _ = initialize_model(MODELS[model])
    energy = potential(params)
    expected = target.layout.flatten(dict(zip(params, torch.autograd.grad(energy, list(params.values())), strict=True)))
    assert evaluate(position) == pytest.approx(-float(energy.detach()), rel=1e-12, abs=1e-10)
    torch.testing.assert_close(target.gradient, -expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("model", MODELS)
def test_agrees_with_finite_differences(model: str) -> None:
    target, position, evaluate = log_joint_gradient(MODELS[model])
    evaluate(position)
    gradient, h = target.gradient.clone(), 1e-5
    for i in range(len(position)):
        step = torch.zeros_like(position)
        step[i] = h
        difference = (evaluate(position + step) - evaluate(position - step)) / (2 * h)
        assert difference == pytest.approx(float(gradient[i]), rel=1e-6, abs=1e-6)


def test_only_fixed_normal_priors_are_done_in_closed_form() -> None:
    target, position, evaluate = log_joint_gradient(hierarchy)
    evaluate(position)
    assert set(target._priors._normals) == {"a", "b", "c", "e"}
    assert len(target._priors._runs or ()) == 2  # a and e; b has a mean, c two scales


def test_a_prior_that_changes_between_runs_is_followed() -> None:
    """A new scale, the same tensor changed in place, and one that comes to depend on another site."""
    numbers = {"scale": torch.tensor(1.0, dtype=DOUBLE), "free": False}

    def model() -> None:
        top = pyro.sample("top", dist.Normal(torch.tensor(0.0, dtype=DOUBLE), 1.0))
        scale = top.exp() if numbers["free"] else numbers["scale"]
        pyro.sample("w", dist.Normal(torch.zeros(2, dtype=DOUBLE), scale).to_event(1))

    target, position, evaluate = log_joint_gradient(model)

    def gradient() -> Tensor:
        evaluate(position)
        return target.gradient.clone()

    top, w = position[0], position[1:]
    torch.testing.assert_close(gradient(), torch.cat([-top[None], -w]))
    numbers["scale"] = torch.tensor(2.0, dtype=DOUBLE)
    torch.testing.assert_close(gradient(), torch.cat([-top[None], -w / 4]))
    numbers["scale"].mul_(2)
    torch.testing.assert_close(gradient(), torch.cat([-top[None], -w / 16]))
    numbers["free"] = True
    by_top = -top - 2 + (w**2).sum() * (-2 * top).exp()
    torch.testing.assert_close(gradient(), torch.cat([by_top[None], -w * (-2 * top).exp()]))
    numbers["free"] = False
    torch.testing.assert_close(gradient(), torch.cat([-top[None], -w / 16]))


def all_batches(target: ConjugateRegression) -> list[Batch]:
    pairs = itertools.combinations(range(len(target.y)), 2)
    return [Batch((target.x[list(p)], target.y[list(p)]), torch.tensor(p)) for p in pairs]


def test_mean_over_all_minibatches_is_the_full_gradient() -> None:
    """N = 8, B = 2: the mean over all 28 batches, to 1e-12."""
    regression = ConjugateRegression.example(n=8)
    plate = SubsampleIndices(size=8)
    total = torch.zeros(3, dtype=DOUBLE)
    theta = torch.tensor([0.4, -1.1, 0.2], dtype=DOUBLE)
    for batch in all_batches(regression):
        target, _, evaluate = log_joint_gradient(regression.model, batch=batch, plate=plate)
        evaluate(theta)
        total += target.gradient / 28
    torch.testing.assert_close(total, regression.gradient(theta), rtol=1e-12, atol=1e-12)


def test_mean_over_all_subsamples_of_the_models_own_plate(monkeypatch: pytest.MonkeyPatch) -> None:
    regression = ConjugateRegression.example(n=8)
    target, _, evaluate = log_joint_gradient(regression.subsampled_model(2))
    total = torch.zeros(3, dtype=DOUBLE)
    theta = torch.tensor([0.4, -1.1, 0.2], dtype=DOUBLE)
    for batch in all_batches(regression):
        monkeypatch.setattr(log_joint, "random_subset", lambda size, subset, device, i=batch.indices: i)
        evaluate(theta)
        total += target.gradient / 28
    torch.testing.assert_close(total, regression.gradient(theta), rtol=1e-12, atol=1e-12)


def test_scale_missing_is_seen_in_the_mean_over_minibatches(monkeypatch: pytest.MonkeyPatch) -> None:
    density = log_joint.log_density
    monkeypatch.setattr(log_joint, "log_density", lambda fn, value, *, scale, mask: density(fn, value, mask=mask))
    with pytest.raises(AssertionError):
        test_mean_over_all_minibatches_is_the_full_gradient()


@pytest.mark.parametrize(("size", "subset_size"), [(5, 2), (50, 5), (3, 3)])
def test_random_subset_is_uniform(size: int, subset_size: int) -> None:
    """Different indices, each as probable at each place: by rejection (50, 5) and by permutation (the others)."""
    with torch.random.fork_rng():
        torch.seed()
        draws = torch.stack([random_subset(size, subset_size) for _ in range(5000)])
    assert all(len(set(row)) == subset_size for row in draws.tolist())
    statistics.require(
        [
            statistics.stats.chisquare(torch.bincount(column, minlength=size).numpy()).pvalue
            for column in (draws[:, 0], draws[:, -1])
        ],
        "uniform indices",
    )
