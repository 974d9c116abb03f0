r"""Errors of an average over Langevin chains: measured, and those of the chains' exact law.

The posterior is normal, of known moments: y_n ~ N(theta, diag(VARIANCES)), theta ~ N(0, PRIOR_VARIANCE I). What is
estimated is the posterior variance, as the average over a chain's draws of

.. math:: f(\theta) = \frac1d \sum_k \lambda_k (\theta_k - m_k)^2, \qquad E[f(\theta) \mid y] = 1

with m and lambda the posterior's mean and precisions. Each chain begins at a draw of the posterior, as one that begins
at a good fit; so no error is that of the start.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_bdl.sgmcmc.updates import langevin

VARIANCES = (1.0, 4.0)  # of a data point's coordinates
PRIOR_VARIANCE = 100.0


class Posterior:
    """The data and the normal posterior, all of shape (d,) but for the data (N, d)."""

    def __init__(self, points: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.variances = torch.tensor(VARIANCES, dtype=torch.float64)
        noise = torch.randn(points, len(VARIANCES), generator=generator, dtype=torch.float64)
        self.y = 1.0 + self.variances.sqrt() * noise
        self.precision = points / self.variances + 1 / PRIOR_VARIANCE
        self.mean = self.y.sum(0) / self.variances / self.precision

    def gradient(self, theta: Tensor, batch_size: int | None) -> Tensor:
        """The gradient of the log joint density for chains theta (chains, d), by a batch for each, or all data."""
        if batch_size is None:
            return (self.mean - theta) * self.precision
        chosen = torch.randint(len(self.y), (len(theta), batch_size))
        batch_mean = self.y[chosen].mean(1)
        return (batch_mean - theta) * (len(self.y) / self.variances) - theta / PRIOR_VARIANCE

    def gradient_variance(self, batch_size: int | None) -> Tensor:
        """That of a batch's gradient, the same everywhere: N^2/B times that of a data point."""
        if batch_size is None:
            return torch.zeros_like(self.mean)
        return len(self.y) ** 2 / batch_size * self.y.var(0, correction=0) / self.variances**2


@dataclass(frozen=True, eq=False)
class Curve:
    """What the estimates of E f = 1 are like for each step size, all of shape (step sizes,).

    Attributes:
        name: what gives the gradient.
        updates: of a chain.
        steps: e times the largest posterior precision.
        bias, variance: of the chains' estimates.
        exact_bias, exact_variance: of their law.
        chains: how many.
    """

    name: str
    updates: int
    steps: Tensor
    bias: Tensor
    variance: Tensor
    exact_bias: Tensor
    exact_variance: Tensor
    chains: int

    @property
    def risk(self) -> Tensor:
        """The mean squared error."""
        return self.bias**2 + self.variance

    @property
    def exact_risk(self) -> Tensor:
        """The mean squared error of the law."""
        return self.exact_bias**2 + self.exact_variance


@torch.inference_mode()
def estimates(posterior: Posterior, *, step_size: float, updates: int, batch_size: int | None, chains: int) -> Tensor:
    """The average of f over each chain's draws, (chains,)."""
    deviation = posterior.precision.rsqrt()
    theta = posterior.mean + deviation * torch.randn(chains, len(deviation), dtype=deviation.dtype)
    total = torch.zeros(chains, dtype=deviation.dtype)
    for _ in range(updates):
        noise = torch.randn_like(theta)
        theta = langevin(theta, posterior.gradient(theta, batch_size), noise, step_size=step_size, out=noise)
        total += ((theta - posterior.mean).square() * posterior.precision).mean(-1)
    return total / updates


def exact_moments(
    posterior: Posterior, *, step_size: float, updates: int, batch_size: int | None
) -> tuple[float, float]:
    """Bias and variance of `estimates` by the law of the chain.

    1. z = theta - m has z' = rho z + noise of variance q, rho = 1 - e lambda / 2, q = e + e^2/4 Var(gradient); so
       v' = rho^2 v + q, from 1 / lambda.
    2. For normal z, Cov(z_s^2, z_t^2) = 2 (rho^(t-s) v_s)^2 with s < t.

    The bias is exact. So is the variance with all data; batches are not quite normal and shared by the coordinates.
    """
    lam = posterior.precision
    rho = 1 - 0.5 * step_size * lam
    added = step_size + 0.25 * step_size**2 * posterior.gradient_variance(batch_size)
    v, before = 1 / lam, torch.zeros_like(lam)
    total, spread = torch.zeros_like(lam), torch.zeros_like(lam)
    for _ in range(updates):
        v = rho**2 * v + added
        total += lam * v
        spread += (lam * v) ** 2 + 2 * before
        before = rho**2 * (before + (lam * v) ** 2)
    return float(total.mean()) / updates - 1, 2 * float(spread.mean()) / (len(lam) * updates**2)
