"""Survival data of which the law is known: a hazard that falls off from a point like a Gaussian."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class GaussianRisk:
    r"""The nonlinear simulation of Katzman et al. (2018, "DeepSurv", section 3.1).

    .. math:: h(t \mid x) = \frac1\tau\, e^{g(x)}, \qquad
        g(x) = \log\lambda \; e^{-(x_1^2 + x_2^2) / 2r^2}, \quad x \sim U[-1, 1]^D

    Only the first two covariates matter, and a linear log hazard cannot tell them from noise. Subjects still without
    an event are censored at the end of the study.

    Attributes:
        peak: lambda, the largest hazard ratio. Default 5, theirs.
        width: r. Default 0.5, theirs.
        mean_time: tau, the mean time where g = 0. Default 5, theirs.
        covariates: D. Default 10, theirs.
        censored: the share of subjects censored at the end of the study. Default 0.1, theirs.

    >>> law = GaussianRisk()
    >>> law.log_hazard_ratio(torch.zeros(1, 10)).exp()
    tensor([5.])
    >>> x, time, event = law.sample(1000, seed=0)
    >>> f"{float(event.float().mean()):.2f}"
    '0.90'
    """

    peak: float = 5.0
    width: float = 0.5
    mean_time: float = 5.0
    covariates: int = 10
    censored: float = 0.1

    def __post_init__(self) -> None:
        if not (self.peak > 0 and self.width > 0 and self.mean_time > 0 and 0 <= self.censored < 1):
            raise InputError(
                "the law", expected="positive peak, width and mean time, a share in [0, 1)", got=repr(self)
            )
        if self.covariates < 2:
            raise InputError("covariates", expected="at least 2", got=str(self.covariates))

    def log_hazard_ratio(self, x: Tensor) -> Tensor:
        """g, (N,), of covariates (N, D)."""
        return math.log(self.peak) * (-x[:, :2].square().sum(1) / (2 * self.width**2)).exp()

    def survival(self, x: Tensor, times: Tensor) -> Tensor:
        """P(T > t | x), (N, T)."""
        return (-self.log_hazard_ratio(x).exp()[:, None] * times / self.mean_time).exp()

    def sample(self, size: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Covariates (N, D), times (N,) and events (N,), the caller's random state left as it was.

        Raises:
            InputError: no subjects.
        """
        if size < 1:
            raise InputError("size", expected="at least 1", got=repr(size))
        source = torch.Generator().manual_seed(seed)
        x = 2 * torch.rand(size, self.covariates, generator=source) - 1
        waited = torch.empty(size).exponential_(generator=source)
        time = self.mean_time * waited * (-self.log_hazard_ratio(x)).exp()
        end = time.sort().values[max(0, math.ceil((1 - self.censored) * size) - 1)]
        tiny = torch.finfo(time.dtype).tiny
        return x, time.minimum(end).clamp_min(tiny), time <= end
