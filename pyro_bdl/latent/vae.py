"""Variational autoencoders: a latent variable for each data point, whose posterior a network makes of the point."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_bdl.errors import InputError
from pyro_bdl.latent.baseline import RunningAverage
from pyro_bdl.latent.likelihoods import Bernoulli, Likelihood
from pyro_bdl.latent.networks import (
    PlainNormal,
    as_layers,
    check_numbers,
    data_plate,
    normal_of,
    observe,
    register,
    run,
    standard_normal,
)
from pyro_bdl.latent.random_weights import RandomWeights, bayesian_modules
from pyro_bdl.number_checks import require_count
from pyro_bdl.parameters import picklable_state

Gradient = Literal["reparameterised", "score-function"]


class VariationalAutoencoder(nn.Module):
    r"""A model :math:`p(z)\, p_\theta(x \mid z)` and its guide :math:`q_\phi(z \mid x)` (Kingma & Welling 2014).

    .. math:: z_n \sim N(0, I), \quad x_n \sim p(x \mid \mathrm{decoder}(z_n)); \qquad
              q(z_n \mid x_n) = N(\mu_n, \mathrm{diag}\, \sigma^2_n), \quad
              (\mu_n, \log \sigma^2_n) = \mathrm{encoder}(x_n)

    `model` and `guide` are an ordinary Pyro pair with a data plate: any `SVI` takes them, and `fit_svi`.

    With L stochastic layers all networks are listed from the data upwards (Burda, Grosse & Salakhutdinov 2016, section
    2): :math:`q(z_l \mid z_{l-1})` by `encoder[l]`, :math:`p(z_{l-1} \mid z_l)` by `decoder[l]`, normals as above, and
    :math:`z_L \sim N(0, I)`. The sites are then `z.1`, next to the data, to `z.L`.

    *Conditional*: what comes after x in a call goes to every encoder and decoder as further arguments, for
    :math:`p(x \mid c)` (Sohn, Lee & Yan 2015). *Bayesian decoders*: of a decoder that is, or contains, a
    `BayesianModule` the model draws the weights, and the guide has an `AutoMeanField` of them, `weights.guide`; under a
    node prior the units and latent numbers that are not needed are switched off, and
    `compress(vae.decoder[0], vae.weights.guide, example_input=z)` cuts them out.

    Args:
        encoder: takes x (B, \*shape) and gives (B, 2 D), means and log-variances; a list of L for L layers.
        decoder: takes z (B, D) and gives the outputs that `likelihood` wants; a list of L for L layers.
        latent_size: D, the numbers of z; a list of L for L layers.
        likelihood: of x given the decoder's outputs. Default `Bernoulli()`, black and white.
        gradient: how the encoder's gradient is estimated. "reparameterised": through the draws of z. "score-function":
            by the log-density of draws through which no gradient passes (REINFORCE), with `baseline`; for Pyro's
            `TraceGraph_ELBO`. Default "reparameterised", which has less variance.
        baseline: for "score-function" a network that takes x and predicts what its draws of z are worth (B,), the bound
            times N/B (Mnih & Gregor 2014, section 2.3). Default: the running average of that.
        size: N, the number of data points of which a call sees B. Default: what `fit_svi` says it is; B itself where
            nobody says.
        name: put before the names of the parameters in Pyro's store, so that two can live in one program.

    Raises:
        InputError: lists of different lengths, sizes out of range, a Bayesian encoder, a baseline without the score
            function; in a call, networks whose outputs have another size than told, observations outside the
            likelihood's support, numbers that are not finite, more rows than `size`.

    >>> import pyro_bdl as bdl
    >>> vae = VariationalAutoencoder(nn.Linear(6, 4), nn.Linear(2, 6), 2)
    >>> x = torch.bernoulli(torch.full((20, 6), 0.5))
    >>> fit = bdl.fit_svi(vae.model, vae.guide, x, epochs=2, progress=False, seed=0)
    >>> vae.encode(x).mean.shape, vae.generate(3).shape
    (torch.Size([20, 2]), torch.Size([3, 6]))
    """

    def __init__(
        self,
        encoder: nn.Module | Sequence[nn.Module],
        decoder: nn.Module | Sequence[nn.Module],
        latent_size: int | Sequence[int],
        *,
        likelihood: Likelihood | None = None,
        gradient: Gradient = "reparameterised",
        baseline: nn.Module | None = None,
        size: int | None = None,
        name: str = "vae",
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = as_layers("encoder", encoder), as_layers("decoder", decoder)
        self.latent_sizes = list(latent_size) if isinstance(latent_size, Sequence) else [latent_size]
        counts = len(self.encoder), len(self.decoder), len(self.latent_sizes)
        whole = all(isinstance(size, int) and size >= 1 for size in self.latent_sizes)
        if len(set(counts)) != 1 or not whole or not self.latent_sizes:
            raise InputError(
                "encoder, decoder and latent_size", expected="as many of each, and whole sizes of at least 1",
                got=f"{counts[0]}, {counts[1]} and the sizes {self.latent_sizes}",
            )  # fmt: skip
        if any(bayesian_modules(self.encoder)):
            raise InputError(
                "the encoder", expected="an ordinary network, whose weights are the guide's own parameters",
                got="a BayesianModule",
            )  # fmt: skip
        if gradient not in ("reparameterised", "score-function") or (baseline and gradient == "reparameterised"):
            raise InputError(
                "gradient", expected='"reparameterised", or "score-function" (with a baseline or without)',
                got=repr(gradient) + (" with a baseline" if baseline else ""),
            )  # fmt: skip
        if size is not None:
            require_count("size", size)
        self.likelihood = Bernoulli() if likelihood is None else likelihood
        if gradient == "score-function" and baseline is None:
            baseline = RunningAverage()
        self.gradient, self.baseline, self.size, self.name = gradient, baseline, size, name
        layers = len(self.latent_sizes)
        self.latents = ["z"] if layers == 1 else [f"z.{layer + 1}" for layer in range(layers)]
        self.weights = RandomWeights(self.decoder)

    def model(self, x: Tensor, *context: Tensor) -> Tensor:
        """x (B, \\*shape), observed given latent variables that are drawn."""
        plate = data_plate(len(x), self.size)
        outputs, rank = self._decoded(plate, *context)
        with plate:
            return observe("x", self.likelihood(outputs, x.shape[1:], rank), x)

    def guide(self, x: Tensor, *context: Tensor) -> None:
        """The latent variables of x (B, \\*shape)."""
        check_numbers(x, *context)
        self.weights()
        register(self.encoder, f"{self.name}.encoder")
        with data_plate(len(x), self.size):
            below, rank, infer = x, x.dim() - 1, self._infer(x)
            kind = dist.Normal if self.gradient == "reparameterised" else PlainNormal
            for encoder, size, site in zip(self.encoder, self.latent_sizes, self.latents, strict=True):
                law = normal_of(_run(encoder, below, rank, *context), size, "the encoder", kind)
                below, rank = pyro.sample(site, law, infer=infer), 1

    @torch.no_grad()
    def encode(self, x: Tensor, *context: Tensor) -> dist.TorchDistribution:
        """q(z | x), that of the lowest layer: a normal with event shape (D,)."""
        return normal_of(_run(self.encoder[0], x, x.dim() - 1, *context), self.latent_sizes[0], "the encoder")

    @torch.no_grad()
    def decode(self, z: Tensor, *context: Tensor) -> Tensor:
        """The mean of x given z (\\*batch, D) of the lowest layer; random weights are one draw of their posterior."""
        outputs = self.weights.drawn(lambda: _run(self.decoder[0], z, 1, *context))
        return self.likelihood.mean(outputs, z.dim() - 1)

    @torch.no_grad()
    def generate(self, rows: int, *context: Tensor) -> Tensor:
        """The means of `rows` new observations: z from the prior; random weights are one draw of their posterior."""
        plate = data_plate(rows, None)
        return self.likelihood.mean(*self.weights.drawn(lambda: self._decoded(plate, *context)))

    def __getstate__(self) -> dict[str, Any]:
        return picklable_state(self)

    def _decoded(self, plate: pyro.plate, *context: Tensor) -> tuple[Tensor, int]:
        """Draw the latent variables from the top down: what the decoder puts out at the bottom, and its batch rank.

        The networks are run outside the plate: their weights, where they are random, are not of single data points.
        """
        register(self.decoder, f"{self.name}.decoder")
        law = standard_normal(plate.subsample_size, self.latent_sizes[-1], next(self.parameters()))
        for layer in reversed(range(len(self.decoder))):
            with plate:
                z = pyro.sample(self.latents[layer], law)
            outputs = _run(self.decoder[layer], z, 1, *context)
            if layer > 0:
                law = normal_of(outputs, self.latent_sizes[layer - 1], "the decoder")
        return outputs, z.dim() - 1

    def _infer(self, x: Tensor) -> Any:
        """What Pyro's ELBO is told of the latent sites."""
        if self.baseline is None:
            return {}
        register(self.baseline, f"{self.name}.baseline")
        return {"baseline": {"nn_baseline": self.baseline, "nn_baseline_input": x}}


def _run(network: nn.Module, value: Tensor, rank: int, *context: Tensor) -> Tensor:
    """A network of a value whose event has this rank, and of the context of each data point."""
    return run(network, value, *context, ranks=[rank, *(c.dim() - 1 for c in context)])
