"""Small Pyro programs with random weights, and the laws that their outputs must have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

Network = Callable[..., Tensor]


@dataclass(frozen=True)
class Program:
    """A network of named random weights: `network(x, **weights)`, each site with its posterior."""

    sites: dict[str, dist.TorchDistribution]
    network: Network

    def guide(self, x: Tensor) -> dict[str, Tensor]:
        return {name: pyro.sample(name, fn.to_event(len(fn.shape()))) for name, fn in self.sites.items()}

    def model(self, x: Tensor) -> Tensor:
        # A prior far from the guide: a silent prior draw cannot pass for a draw of the guide.
        priors = {name: dist.Delta(torch.full(fn.shape(), 1e3).to(fn.mean)) for name, fn in self.sites.items()}
        drawn = {name: pyro.sample(name, fn.to_event(len(fn.batch_shape))) for name, fn in priors.items()}
        return self.network(x, **drawn)

    def run(self, estimator: Callable[..., Any], x: Tensor) -> Tensor:
        """One pass: the guide's trace, then the model replayed."""
        trace = poutine.trace(estimator).get_trace(x)
        return poutine.replay(self.model, trace=trace)(x)

    def draws(self, estimator: Callable[..., Any], x: Tensor, n: int) -> Tensor:
        """n passes, stacked."""
        with torch.no_grad():
            return torch.stack([self.run(estimator, x) for _ in range(n)])

    def ordinary(self, x: Tensor, n: int) -> Tensor:
        """n outputs with ordinary draws, drawn here without the package."""
        names = list(self.sites)
        weights = [self.sites[name].sample((n,)) for name in names]
        return torch.func.vmap(lambda *w: self.network(x, **dict(zip(names, w, strict=True))))(*weights)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Exact mean and variance of the outputs of a network that is linear in its normal weights."""
        names = list(self.sites)
        locs = tuple(self.sites[name].mean for name in names)

        def network(*weights: Tensor) -> Tensor:
            return self.network(x, **dict(zip(names, weights, strict=True)))

        mean = network(*locs)
        jacobians = torch.func.jacrev(network, argnums=tuple(range(len(names))))(*locs)
        parts = [
            (jacobian.square() * self.sites[name].variance).sum(tuple(range(mean.dim(), jacobian.dim())))
            for name, jacobian in zip(names, jacobians, strict=True)
        ]
        return mean, sum(parts[1:], parts[0])


def normal(*shape: int, seed: int = 0, spread: float = 1.0) -> dist.Normal:
    """A normal site of this shape with uneven means and deviations, float64."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(shape, generator=generator, dtype=torch.float64)
    return dist.Normal(loc, spread * (0.3 + torch.rand(shape, generator=generator, dtype=torch.float64)))


def log_normal(*shape: int, seed: int = 0) -> dist.LogNormal:
    """A log-normal site of this shape, of moderate spread, float64."""
    generator = torch.Generator().manual_seed(seed)
    loc = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return dist.LogNormal(loc, 0.15 + 0.2 * torch.rand(shape, generator=generator, dtype=torch.float64))


def inputs(*shape: int, seed: int = 1) -> Tensor:
    """Inputs of this shape, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
