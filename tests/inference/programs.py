"""Small Pyro programs with which inference is tried: all kinds of priors, sites and observations, in float64."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.priors import ByName, Gaussian, GroupNormalJeffreys, Laplace, ScaleMixture, StudentT

N, B = 30, 10
Program = Callable[..., Any]


def network(outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


def data(*, classes: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(N, generator=generator, dtype=torch.float64)
    y = x[:, 0] - 0.5 * x[:, 1].square() + 0.3 * noise
    return x, ((y > 0).long() % classes if classes else y)


class ShiftedGaussian(Gaussian):
    """A prior whose mean is not zero."""

    def distribution(self, weight: Any) -> dist.TorchDistribution:
        return dist.Normal(weight.value.new_tensor(0.7), weight.value.new_tensor(self.scale))


def classifier(prior: Any) -> Callable[[], Program]:
    return lambda: bdl.Classifier(bdl.BayesianModule(network(2), prior), size=N)


def regressor(noise: Any, outputs: int = 1) -> Callable[[], Program]:
    return lambda: bdl.Regressor(bdl.BayesianModule(network(outputs)), noise=noise, size=N)


def f64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def groups() -> Program:
    """An intercept for each of two groups, within a plate that is not subsampled."""
    net = bdl.BayesianModule(network(1))

    def model(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("groups", 2):
            intercept = pyro.sample("intercept", dist.Normal(f64(0.0), f64(2.0)))
        mean = net(x)[:, 0] + intercept[(x[:, 2] > 0).long()]
        with pyro.plate("data", size=N, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return model


def hierarchy() -> Program:
    """A prior whose scale is itself random, made anew in each run."""

    def model(x: Tensor, y: Tensor | None = None) -> None:
        tau = pyro.sample("tau", dist.Gamma(f64(2.0), f64(2.0)))
        w = pyro.sample("w", dist.Normal(torch.zeros(1, 3, dtype=x.dtype), tau).to_event(2))
        b = pyro.sample("b", dist.Normal(f64(0.5), f64(2.0)))
        mean = nn.functional.linear(x, w)[:, 0] + b
        with pyro.plate("data", size=N, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return model


def scaled_prior() -> Program:
    """A prior whose log density is tempered by a handler."""
    net = bdl.BayesianModule(network(1))

    def model(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.poutine.scale(scale=0.3):
            weights = net.sample()
        mean = torch.func.functional_call(net.net, weights, (x,))[:, 0]
        with pyro.plate("data", size=N, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return model


def constrained() -> Program:
    """A probability and a point of the simplex, besides a weight."""

    def model(x: Tensor, y: Tensor | None = None) -> None:
        share = pyro.sample("share", dist.Beta(f64(2.0), f64(3.0)))
        mix = pyro.sample("mix", dist.Dirichlet(torch.ones(3, dtype=x.dtype)))
        w = pyro.sample("w", dist.Normal(torch.zeros(3, dtype=x.dtype), 1.0).to_event(1))
        mean = share * (x @ w) + (1 - share) * (x @ mix)
        with pyro.plate("data", size=N, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return model


PROGRAMS: dict[str, tuple[Callable[[], Program], int]] = {
    "Gaussian": (classifier(Gaussian(0.8)), 2),
    "fan-in": (classifier(Gaussian(1.5, fan_in=True)), 2),
    "by layer": (classifier(ByName({"0.*": Gaussian(0.3), "*.bias": Laplace(0.4), "*": Gaussian(2.0)})), 2),
    "prior mean": (classifier(ShiftedGaussian(0.6)), 2),
    "Laplace": (classifier(Laplace(0.5)), 2),
    "StudentT": (classifier(StudentT(4.0, 0.5)), 2),
    "ScaleMixture": (classifier(ScaleMixture(0.4, 1.0, 0.1)), 2),
    "GroupNormalJeffreys": (classifier(GroupNormalJeffreys()), 2),
    "known noise": (regressor(0.4), 0),
    "learned noise": (regressor("learned"), 0),
    "random noise": (regressor(dist.LogNormal(f64(-1.0), f64(0.7))), 0),
    "gamma noise": (regressor(dist.Gamma(f64(2.0), f64(3.0))), 0),
    "heteroscedastic": (regressor("heteroscedastic", 2), 0),
    "groups": (groups, 0),
    "hierarchy": (hierarchy, 0),
    "scaled prior": (scaled_prior, 0),
    "constrained": (constrained, 0),
}


def program(name: str) -> tuple[Program, tuple[Tensor, Tensor]]:
    """A new program of this name with its data, in a clean parameter store."""
    make, classes = PROGRAMS[name]
    return make(), data(classes=classes)
