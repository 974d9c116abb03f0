"""A small regression, and the kernels on it."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_bdl as bdl

N, B = 60, 20
X = torch.linspace(-2.0, 2.0, N, dtype=torch.float64)[:, None] * torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
Y = torch.sin(X[:, 0]) + 0.05 * torch.cos(7 * X[:, 1])
NETWORK = bdl.BayesianModule(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(), bdl.priors.Gaussian())


def regression(x: Tensor, y: Tensor) -> None:
    """A network, and a positive noise that is a latent site, too."""
    scale = pyro.sample("scale", dist.Gamma(torch.tensor(3.0, dtype=torch.float64), 6.0))
    f = NETWORK(x)[:, 0]
    with pyro.plate("data", size=N, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(f, scale), obs=y)


def kernel(kind: type[Any], **options: Any) -> Any:
    """One on minibatches, or on all data for Langevin."""
    size = {} if kind is bdl.Langevin else {"batch_size": B}
    return kind(regression, **{"step_size": 1e-4, "data": (X, Y), **size, **options})


KERNELS: dict[str, Callable[..., Any]] = {
    "SGLD": lambda **k: kernel(bdl.SGLD, **k),
    "pSGLD": lambda **k: kernel(bdl.PreconditionedSGLD, **{"step_size": None, **k}),
    "SGHMC": lambda **k: kernel(bdl.SGHMC, **k),
    "SGNHT": lambda **k: kernel(bdl.SGNHT, **k),
    "MALA": lambda **k: kernel(bdl.Langevin, **k),
    "ULA": lambda **k: kernel(bdl.Langevin, metropolis=False, **k),
    "SVRG": lambda **k: kernel(bdl.SGLD, gradient=bdl.SVRG(7), **k),
    "cyclical": lambda **k: kernel(bdl.SGLD, **{"step_size": bdl.Cyclical(1e-4, cycle=5), **k}),
}
