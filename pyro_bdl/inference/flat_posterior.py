"""The numbers of a mean-field guide as the fit loop wants them: flat, and allocated once.

A step needs the variance of each weight once, for the forward pass and the KL alike, and two gradients of the weights'
size. Made anew at each step these are megabytes of fresh memory, which cost more than the arithmetic. Here they are
buffers that live as long as the fit:

1. `begin`: variance := exp(log_variance); the gradient buffers := the KL's gradient where it is known in closed form
   (a normal posterior under a fixed normal prior), else zero.
2. The model runs on `leaves`, views of mean and variance whose `.grad` are views of the buffers, so that backward
   passes add to them in place.
3. `finish`: the gradient with respect to the variance becomes one with respect to its logarithm,
   d/d log v = v d/dv.

`loc.grad` and `log_variance.grad` of the guide are these buffers: the optimizer finds its gradients in place.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_bdl.guides.mean_field import AutoMeanField, Moments, Site


@dataclass(frozen=True)
class NormalRun:
    """Consecutive numbers [start, stop) under the same normal prior N(loc, scale^2)."""

    start: int
    stop: int
    loc: float
    scale: float


class FlatPosterior:
    """Variances, gradient buffers and leaves of a guide that was called once."""

    def __init__(self, guide: AutoMeanField) -> None:
        self.loc, self.log_variance = guide.loc, guide.log_variance
        self.sites: tuple[Site, ...] = guide.sites
        with torch.no_grad():
            self.variance = self.log_variance.exp()
        self.grad_loc, self.grad_variance = torch.zeros_like(self.variance), torch.zeros_like(self.variance)
        self.leaves = {
            site.name: Moments(_leaf(self.loc, self.grad_loc, site), _leaf(self.variance, self.grad_variance, site))
            for site in self.sites
        }
        self.runs: list[NormalRun] = []
        self._priors: dict[str, Any] = {}
        self._weights: tuple[float | Tensor, ...] = ()

    @property
    def known(self) -> frozenset[str]:
        """The sites whose KL `begin` and `kl` account for."""
        return frozenset(self._priors)

    def set_priors(self, priors: dict[str, Any]) -> None:
        """Take over the sites whose prior is one fixed normal; `priors` are those that are the same at each step."""
        self.runs, self._priors = [], {}
        for site in self.sites:
            numbers = _one_normal(priors.get(site.name)) if site.family == "normal" else None
            if numbers is None:
                continue
            self._priors[site.name] = priors[site.name]
            last = self.runs[-1] if self.runs else None
            start, stop = site.start, site.start + site.size
            if last is not None and last.stop == start and (last.loc, last.scale) == numbers:
                self.runs[-1] = NormalRun(last.start, stop, *numbers)
            else:
                self.runs.append(NormalRun(start, stop, *numbers))

    def has_changed(self, priors: dict[str, Any]) -> bool:
        """Whether the model gave another prior than `set_priors` was told: then the closed forms do not hold."""
        return any(priors.get(name) is not prior for name, prior in self._priors.items())

    @torch.no_grad()
    def begin(self, kl_weight: float | Tensor) -> None:
        """New variances, and the known KL's gradient in the buffers (that of the variance without its -1/2v).

        Args:
            kl_weight: of all numbers, or of each number whose KL is known, in the order of `kl_each`.
        """
        lengths = [run.stop - run.start for run in self.runs]
        if isinstance(kl_weight, Tensor):
            self._weights = kl_weight.to(self.loc).split(lengths)
        else:
            self._weights = (kl_weight,) * len(lengths)
        torch.exp(self.log_variance, out=self.variance)
        if not (len(self.runs) == 1 and lengths[0] == len(self.loc)):
            self.grad_loc.zero_()
            self.grad_variance.zero_()
        for run, weight in zip(self.runs, self._weights, strict=True):
            part, scaled = slice(run.start, run.stop), weight / run.scale**2
            torch.mul(self.loc[part], scaled, out=self.grad_loc[part])
            if run.loc != 0.0:
                self.grad_loc[part].sub_(scaled * run.loc)
            self.grad_variance[part] = 0.5 * scaled

    @torch.no_grad()
    def kl(self) -> Tensor:
        """The KL of the known sites, in nats."""
        total = self.loc.new_zeros(())
        for run in self.runs:
            part, precision = slice(run.start, run.stop), 1.0 / run.scale**2
            loc, variance, log_variance = self.loc[part], self.variance[part], self.log_variance[part]
            square = torch.dot(loc, loc)
            if run.loc != 0.0:
                square = square - 2.0 * run.loc * loc.sum() + len(loc) * run.loc**2
            constant = len(loc) * (2.0 * math.log(run.scale) - 1.0)
            total += 0.5 * (precision * (square + variance.sum()) - log_variance.sum() + constant)
        return total

    @torch.no_grad()
    def kl_each(self) -> Tensor:
        """The KL of each number whose KL is known, run by run, in nats: shape (their number,)."""
        return torch.cat([self.loc.new_zeros(0), *map(self._kl_of_run, self.runs)])

    def _kl_of_run(self, run: NormalRun) -> Tensor:
        part, precision = slice(run.start, run.stop), 1.0 / run.scale**2
        square = (self.loc[part] - run.loc).square_().add_(self.variance[part]).mul_(precision)
        return square.sub_(self.log_variance[part]).add_(2.0 * math.log(run.scale) - 1.0).mul_(0.5)

    @torch.no_grad()
    def finish(self) -> None:
        """Hand the gradients to the guide's parameters."""
        self.grad_variance.mul_(self.variance)
        for run, weight in zip(self.runs, self._weights, strict=True):
            self.grad_variance[run.start : run.stop].sub_(0.5 * weight)
        self.loc.grad, self.log_variance.grad = self.grad_loc, self.grad_variance

    def views(self, flat: Tensor) -> Iterator[tuple[Site, Tensor]]:
        """Each site's part of a flat tensor, in its own shape."""
        for site in self.sites:
            yield site, flat[site.start : site.start + site.size].view(site.shape)


def _leaf(flat: Tensor, gradient: Tensor, site: Site) -> Tensor:
    part = slice(site.start, site.start + site.size)
    leaf = flat.detach()[part].view(site.shape).requires_grad_()
    leaf.grad = gradient[part].view(site.shape)
    return leaf


def _one_normal(fn: Any) -> tuple[float, float] | None:
    """Location and scale, if the distribution is one fixed normal for all elements."""
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    if type(fn) is not dist.Normal or fn.loc.requires_grad or fn.scale.requires_grad:
        return None
    loc, scale = fn.loc.reshape(-1), fn.scale.reshape(-1)
    if not (bool((loc == loc[0]).all()) and bool((scale == scale[0]).all())):
        return None
    return float(loc[0]), float(scale[0])
