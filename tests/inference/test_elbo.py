"""MeanFieldELBO: what it refuses, and that guides of any kind count in full."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoIAFNormal, AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.errors import BDLError, InputError, NumericalError, UnsupportedModelError
from tests.inference.programs import program
from tests.statistics import means_agree

X, Y = torch.linspace(-1, 1, 8)[:, None], torch.linspace(-1, 1, 8)


def model(x: Tensor, y: Tensor | None = None) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.Gamma(2.0, 2.0))
    with pyro.plate("data", size=80, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(x[:, 0] * w, s), obs=y)


@pytest.mark.parametrize("kind", [AutoNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal, AutoIAFNormal])
def test_same_mean_as_pyros_bound(kind: Any) -> None:
    """With positive sites and coupled ones, the bound of Pyro's guides is that of Trace_ELBO."""
    guide = kind(model)
    guide(X, Y)
    losses = [
        torch.tensor([elbo.loss(model, guide, X, Y) for _ in range(600)])
        for elbo in (bdl.MeanFieldELBO(), Trace_ELBO())
    ]
    means_agree(*losses)


def guide_lacks_a_site(x: Tensor, y: Tensor | None = None) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))


def not_reparameterised(x: Tensor, y: Tensor | None = None) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
    rate = pyro.param("rate", torch.tensor(100.0))  # never 0, which the model would refuse before
    pyro.sample("s", dist.Poisson(rate).mask(True))


def infinite(x: Tensor, y: Tensor | None = None) -> None:
    pyro.sample("w", dist.Normal(0.0, 1e30))
    pyro.sample("s", dist.LogNormal(0.0, 1.0))


REFUSED: dict[str, tuple[Callable[[], Any], type[BDLError], str]] = {
    "a site the guide lacks": (
        lambda: bdl.MeanFieldELBO().loss(model, guide_lacks_a_site, X, Y), InputError, "expected a site 's'",
    ),
    "no gradient through draws": (
        lambda: bdl.MeanFieldELBO().loss(model, not_reparameterised, X, Y), UnsupportedModelError, "site s: expected",
    ),
    "a weight below 0": (lambda: bdl.MeanFieldELBO(kl_weight=-1.0), InputError, "kl_weight: expected a finite number"),
    "a weight that is no number": (
        lambda: bdl.MeanFieldELBO(kl_weight=lambda: math.nan).loss(model, AutoNormal(model), X, Y), InputError,
        r"kl_weight\(\): expected a finite number, 0 or more, got nan",
    ),
    "half a particle": (lambda: bdl.MeanFieldELBO(2.5), InputError, "num_particles: expected an integer, got 2.5"),  # type: ignore[arg-type]
    "no particles": (lambda: bdl.MeanFieldELBO(0), InputError, "num_particles: expected at least 1, got 0"),
    "infinite likelihood": (
        lambda: bdl.MeanFieldELBO().loss(model, infinite, X, Y), NumericalError, "the log-likelihood of y is -?inf",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    run, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        run()


@pytest.mark.parametrize("weight", [0.0, 0.3, lambda: 0.3])
def test_kl_weight(weight: Any) -> None:
    bench, (x, y) = program("Gaussian")
    guide = bdl.guides.AutoMeanField(bench)
    guide(x, y)
    losses = []
    for beta in (0.0, 1.0, weight):
        torch.manual_seed(0)
        losses.append(bdl.MeanFieldELBO(kl_weight=beta).loss(bench, guide, x, y))
    number = weight() if callable(weight) else weight
    assert losses[2] == pytest.approx(losses[0] + number * (losses[1] - losses[0]))


def test_particles_are_averaged() -> None:
    guide = AutoNormal(model)
    guide(X, Y)
    one, five = (torch.tensor([bdl.MeanFieldELBO(k).loss(model, guide, X, Y) for _ in range(300)]) for k in (1, 5))
    means_agree(one, five)
    assert float(five.var()) < 0.5 * float(one.var())


def test_gradients_reach_the_network_that_is_not_random() -> None:
    net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    half = bdl.Regressor(bdl.BayesianModule(net, select=["2.*"]), noise=0.5)
    guide = bdl.guides.AutoMeanField(half)
    bdl.MeanFieldELBO().loss_and_grads(half, guide, X, Y)
    assert net[0].weight.grad is not None
    assert math.isfinite(float(net[0].weight.grad.sum()))
    assert net[2].weight.grad is None
