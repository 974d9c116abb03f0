"""Small autoencoders of which much is known exactly, in float64."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.latent import Concatenated, Gaussian

NOISE = 0.7
PIXELS, LATENT, CLASSES = 4, 2, 3


def seeded(make: Callable[[], Any], seed: int = 1) -> Any:
    """What a function makes with the global generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def rows(count: int, size: int = PIXELS, *, seed: int = 2) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def black_and_white(count: int, *shape: int, seed: int = 2) -> Tensor:
    return (rows(count, math.prod(shape), seed=seed) > 0).double().reshape(count, *shape)


@dataclass
class LinearGaussian:
    r"""The autoencoder :math:`x \sim N(W z + b, s^2 I)` with a linear encoder: all is normal, and known.

    Its bound and evidence are tensors, through which a gradient passes to the parameters of both networks.
    """

    encoder: nn.Linear
    decoder: nn.Linear

    @classmethod
    def example(cls) -> "LinearGaussian":
        return seeded(lambda: cls(nn.Linear(PIXELS, 2 * LATENT).double(), nn.Linear(LATENT, PIXELS).double()))

    def vae(self, **options: Any) -> bdl.VariationalAutoencoder:
        return bdl.VariationalAutoencoder(self.encoder, self.decoder, LATENT, likelihood=Gaussian(NOISE), **options)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x) of each row."""
        w = self.decoder.weight
        covariance = w @ w.T + NOISE**2 * torch.eye(PIXELS, dtype=w.dtype)
        return torch.distributions.MultivariateNormal(self.decoder.bias, covariance).log_prob(x)

    def likelihood(self, x: Tensor) -> Tensor:
        """The expected log-likelihood of each row."""
        w = self.decoder.weight
        mean, log_variance = self.encoder(x).chunk(2, -1)
        squares = (x - self.decoder(mean)).square().sum(-1) + (log_variance.exp() * w.square().sum(0)).sum(-1)
        return -0.5 * (squares / NOISE**2 + PIXELS * math.log(2 * math.pi * NOISE**2))

    def kl(self, x: Tensor) -> Tensor:
        """The KL of each number of each row."""
        mean, log_variance = self.encoder(x).chunk(2, -1)
        return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)

    def bound(self, x: Tensor) -> Tensor:
        """The evidence lower bound of each row."""
        return self.likelihood(x) - self.kl(x).sum(-1)

    def draws_bound(self, x: Tensor, count: int) -> Tensor:
        """One draw of the importance-weighted bound of each row, by hand."""
        mean, log_variance = self.encoder(x).chunk(2, -1)
        noise = torch.randn(count, *mean.shape, dtype=mean.dtype)
        z = mean + (0.5 * log_variance).exp() * noise
        normal = torch.distributions.Normal
        log_w = normal(self.decoder(z), NOISE).log_prob(x).sum(-1) + normal(0.0, 1.0).log_prob(z).sum(-1)
        log_w = log_w - normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum(-1)
        return log_w.logsumexp(0) - math.log(count)

    @torch.no_grad()
    def be_exact(self) -> "LinearGaussian":
        """Let the encoder be the exact posterior; W gets orthogonal columns, so that it factorises."""
        w = torch.linalg.qr(self.decoder.weight).Q * torch.tensor([1.0, 0.5], dtype=torch.float64)
        self.decoder.weight.copy_(w)
        precision = 1.0 + w.square().sum(0) / NOISE**2
        gain = w.T / NOISE**2 / precision[:, None]
        self.encoder.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        self.encoder.bias.copy_(torch.cat([-gain @ self.decoder.bias, -precision.log()]))
        return self


def semi_supervised(**options: Any) -> bdl.SemiSupervisedVAE:
    """Of black and white rows, with networks that are a linear map each, or some other."""

    def make() -> bdl.SemiSupervisedVAE:
        networks = {
            "classifier": nn.Linear(PIXELS, CLASSES),
            "encoder": Concatenated(nn.Linear(PIXELS + CLASSES, 2 * LATENT)),
            "decoder": Concatenated(nn.Linear(LATENT + CLASSES, PIXELS)),
        }
        settings = networks | {"latent_size": LATENT, "classes": CLASSES} | options
        return bdl.SemiSupervisedVAE(**settings).double()

    return seeded(make)


def hierarchical(**options: Any) -> bdl.VariationalAutoencoder:
    """Two stochastic layers, of 2 numbers and of 1."""

    def make() -> bdl.VariationalAutoencoder:
        encoder = [nn.Linear(PIXELS, 4), nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))]
        decoder = [nn.Linear(2, PIXELS), nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 4))]
        return bdl.VariationalAutoencoder(encoder, decoder, [2, 1], likelihood=Gaussian(NOISE), **options).double()

    return seeded(make)


def conditional(**options: Any) -> bdl.VariationalAutoencoder:
    """Of rows, given two more numbers of each."""

    def make() -> bdl.VariationalAutoencoder:
        encoder, decoder = Concatenated(nn.Linear(PIXELS + 2, 4)), Concatenated(nn.Linear(2 + 2, PIXELS))
        return bdl.VariationalAutoencoder(encoder, decoder, 2, likelihood=Gaussian(NOISE), **options).double()

    return seeded(make)
