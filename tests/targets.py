"""Posteriors whose law is known exactly, each with its Pyro program.

All numbers are float64. A target is immutable; its `model` is an ordinary Pyro model, whose latent site the
docstring names.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance) in d dimensions; site "theta" of shape (d,), or (replicates, d) with replicates."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def example(cls) -> "Gaussian":
        """Three correlated dimensions of different scale."""
        factor = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.3, 0.2, 0.4]], dtype=torch.float64)
        return cls(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), factor @ factor.T)

    @property
    def precision(self) -> Tensor:
        """The inverse of the covariance."""
        return torch.linalg.inv(self.covariance)

    def gradient(self, theta: Tensor) -> Tensor:
        """The gradient of the log density at theta (..., d)."""
        return (self.mean - theta) @ self.precision

    def model(self, replicates: int | None = None) -> None:
        """The law as a prior without data; replicates are independent copies in one site."""
        law = dist.MultivariateNormal(self.mean, self.covariance)
        pyro.sample("theta", (law if replicates is None else law.expand([replicates])).to_event())


@dataclass(frozen=True)
class ConjugateRegression:
    """y ~ N(x theta, noise_sd^2), theta ~ N(0, prior_sd^2): x (N, d), y (N,); site "theta" of shape (d,)."""

    x: Tensor
    y: Tensor
    noise_sd: float = 0.5
    prior_sd: float = 1.0

    @classmethod
    def example(cls, n: int = 40, d: int = 3, *, seed: int = 0) -> "ConjugateRegression":
        """Data from the model itself; the seed fixes the problem, not the fit."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, d, generator=generator, dtype=torch.float64)
        theta = torch.randn(d, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, generator=generator, dtype=torch.float64)
        return cls(x, x @ theta + 0.5 * noise)

    @property
    def precision(self) -> Tensor:
        """The posterior precision: x'x / noise_sd^2 + 1 / prior_sd^2."""
        eye = torch.eye(self.x.shape[1], dtype=self.x.dtype)
        return self.x.T @ self.x / self.noise_sd**2 + eye / self.prior_sd**2

    @property
    def covariance(self) -> Tensor:
        """The posterior covariance."""
        return torch.linalg.inv(self.precision)

    @property
    def mean(self) -> Tensor:
        """The posterior mean."""
        return self.covariance @ (self.x.T @ self.y) / self.noise_sd**2

    @property
    def log_evidence(self) -> float:
        """log p(y), the marginal likelihood."""
        eye = torch.eye(len(self.y), dtype=self.x.dtype)
        covariance = self.noise_sd**2 * eye + self.prior_sd**2 * self.x @ self.x.T
        law = torch.distributions.MultivariateNormal(torch.zeros_like(self.y), covariance)
        return float(law.log_prob(self.y))

    def log_joint(self, theta: Tensor) -> Tensor:
        """log p(y, theta) for theta (..., d)."""
        likelihood = torch.distributions.Normal(theta @ self.x.T, self.noise_sd).log_prob(self.y).sum(-1)
        return likelihood + torch.distributions.Normal(0.0, self.prior_sd).log_prob(theta).sum(-1)

    def gradient(self, theta: Tensor) -> Tensor:
        """The gradient of the log joint at theta (..., d)."""
        return (self.mean - theta) @ self.precision

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """The program for a batch: the data plate has size N and subsample_size len(x)."""
        theta = self._prior()
        with pyro.plate("data", size=len(self.y), subsample_size=len(x)):
            pyro.sample("y", dist.Normal(x @ theta, self.noise_sd), obs=y)

    def full_model(self) -> None:
        """The program for all data, without arguments."""
        theta = self._prior()
        with pyro.plate("data", size=len(self.y)):
            pyro.sample("y", dist.Normal(self.x @ theta, self.noise_sd), obs=self.y)

    def subsampled_model(self, batch_size: int) -> Callable[[], None]:
        """The program that draws its own batch, through its plate."""

        def model() -> None:
            theta = self._prior()
            with pyro.plate("data", size=len(self.y), subsample_size=batch_size) as indices:
                pyro.sample("y", dist.Normal(self.x[indices] @ theta, self.noise_sd), obs=self.y[indices])

        return model

    def _prior(self) -> Tensor:
        zeros = torch.zeros(self.x.shape[1], dtype=self.x.dtype)
        return pyro.sample("theta", dist.Normal(zeros, self.prior_sd).to_event(1))


@dataclass(frozen=True)
class Mixture:
    """A mixture of normal laws on the line; site "theta", a number, or (replicates,) with replicates."""

    weights: tuple[float, ...] = (0.3, 0.7)
    means: tuple[float, ...] = (-1.5, 1.0)
    sds: tuple[float, ...] = (0.5, 0.8)
    _dtype: torch.dtype = field(default=torch.float64, repr=False)

    @property
    def mean(self) -> float:
        """The mean of the law."""
        return sum(w * m for w, m in zip(self.weights, self.means, strict=True))

    @property
    def sd(self) -> float:
        """The standard deviation of the law."""
        parts = zip(self.weights, self.means, self.sds, strict=True)
        return math.sqrt(sum(w * (s * s + m * m) for w, m, s in parts) - self.mean**2)

    def cdf(self, theta: object) -> object:
        """The distribution function."""
        parts = zip(self.weights, self.means, self.sds, strict=True)
        return sum(w * stats.norm.cdf(theta, m, s) for w, m, s in parts)

    def distribution(self) -> torch.distributions.Distribution:
        """The law as a distribution object."""
        tensors = [torch.tensor(values, dtype=self._dtype) for values in (self.weights, self.means, self.sds)]
        return dist.MixtureSameFamily(dist.Categorical(tensors[0]), dist.Normal(tensors[1], tensors[2]))

    def model(self, replicates: int | None = None) -> None:
        """The law as a prior without data; replicates are independent copies in one site."""
        law = self.distribution()
        pyro.sample("theta", law if replicates is None else law.expand([replicates]).to_event(1))
