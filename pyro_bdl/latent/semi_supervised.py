"""Semi-supervised learning with deep generative models: a class and a style behind each observation."""

from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_bdl.errors import InputError
from pyro_bdl.latent.likelihoods import Bernoulli, Likelihood
from pyro_bdl.latent.networks import (
    check_labels,
    check_numbers,
    check_shown,
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


class Code(NamedTuple):
    """What makes an observation: its style (\\*batch, D) and its class (\\*batch, C)."""

    style: Tensor
    label: Tensor

    @property
    def batch(self) -> torch.Size:
        """The shape of both together."""
        return torch.broadcast_shapes(self.style.shape[:-1], self.label.shape[:-1])

    @property
    def rank(self) -> int:
        """How many dimensions that has."""
        return len(self.batch)


class SemiSupervisedVAE(nn.Module):
    r"""The model M2 of Kingma, Rezende, Mohamed & Welling (2014): a class y and a style z make x.

    .. math:: y_n \sim \mathrm{Cat}(\pi), \quad z_n \sim N(0, I), \quad x_n \sim p(x \mid \mathrm{decoder}(z_n, y_n));
              \qquad q(y \mid x) = \mathrm{Cat}(\mathrm{softmax}\,\mathrm{classifier}(x)), \quad
              q(z \mid x, y) = N(\mathrm{encoder}(x, y))

    Three pairs of model and guide, for any Pyro ELBO:

    - `model(x, y)`, `guide(x, y)` for labelled data: the bound is :math:`-\mathcal L(x, y)` of equation 6;
    - `model(x)`, `guide(x)` without labels: the guide marks y to be enumerated, all classes at once, so that
      `MeanFieldELBO` and Pyro's `TraceEnum_ELBO` give the exact expectation :math:`-\mathcal U(x)` of equation 7;
    - those of a `SemiSupervisedPair` for both at once: :math:`\mathcal J^\alpha`, equations 8 and 9.

    M1+M2 is this model of another VAE's latent variables, with the `Gaussian` likelihood.

    The classifier may be `shown` something else of each data point than x, and the bounds hold with q(y | shown) as
    well: x distorted anew each time, so that it learns what does not matter for the class, or the image whose features
    x are.

    Args:
        classifier: takes x (B, \*shape), or what is shown of it, (B, ...), and gives logits (B, C).
        encoder: takes x and the class as C zeros and ones, (B, C), and gives (B, 2 D), means and log-variances of z.
        decoder: takes z (B, D) and the class (B, C), and gives the outputs that `likelihood` wants.
        latent_size: D, the numbers of z.
        classes: C.
        likelihood: of x given the decoder's outputs. Default `Bernoulli()`, black and white.
        class_probabilities: pi (C,). Default: all equal.
        size: N, the number of data points of which a call sees B. Default: what `fit_svi` says it is; B itself where
            nobody says.
        name: put before the names of the parameters in Pyro's store.

    Raises:
        InputError: sizes or probabilities out of range or of another number, Bayesian networks; in a call, networks
            whose outputs have another size than told, labels outside [0, C), observations outside the support,
            numbers that are not finite, more rows than `size`, other data points shown than observed.

    >>> from pyro_bdl.latent import Concatenated
    >>> encoder, decoder = Concatenated(nn.Linear(6 + 3, 4)), Concatenated(nn.Linear(2 + 3, 6))
    >>> vae = SemiSupervisedVAE(nn.Linear(6, 3), encoder, decoder, 2, classes=3)
    >>> x, y = torch.bernoulli(torch.full((20, 6), 0.5)), torch.randint(3, (5,))
    >>> import pyro_bdl as bdl
    >>> both = bdl.SemiSupervisedPair(vae, size=5)
    >>> data = bdl.data.BesideLabelled(x, x[:5], y, batch_size=10, labelled_batch_size=5)
    >>> fit = bdl.fit_svi(both.model, both.guide, data, epochs=2, progress=False, seed=0)
    >>> vae.classify(x).shape
    torch.Size([20])
    """

    def __init__(
        self,
        classifier: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_size: int,
        *,
        classes: int,
        likelihood: Likelihood | None = None,
        class_probabilities: Tensor | None = None,
        size: int | None = None,
        name: str = "vae",
    ) -> None:
        super().__init__()
        require_count("classes", classes, least=2)
        require_count("latent_size", latent_size)
        probabilities = torch.full((classes,), 1.0 / classes) if class_probabilities is None else class_probabilities
        if probabilities.shape != (classes,) or not bool(((probabilities > 0) & probabilities.isfinite()).all()):
            raise InputError("class_probabilities", expected=f"{classes} positive numbers", got=f"{probabilities}")
        if any(bayesian_modules(classifier, encoder)):
            raise InputError(
                "classifier and encoder", expected="ordinary networks, whose weights are the guide's own parameters",
                got="a BayesianModule",
            )  # fmt: skip
        if size is not None:
            require_count("size", size)
        self.classifier, self.encoder, self.decoder = classifier, encoder, decoder
        self.latent_size, self.classes, self.size, self.name = latent_size, classes, size, name
        self.likelihood = Bernoulli() if likelihood is None else likelihood
        self.weights = RandomWeights(decoder)
        self.log_probabilities: Tensor
        self.register_buffer("log_probabilities", (probabilities / probabilities.sum()).log())

    def model(self, x: Tensor, y: Tensor | None = None, shown: Tensor | None = None) -> None:
        """x (B, \\*shape), observed given its class, y (B,) or latent, and a latent style; `shown` is the guide's."""
        plate = self._plate(x, y, shown)
        with plate:
            code = self.code(len(x), y)
        (outputs,) = self.decoded(code)
        with plate:
            observe("x", self.likelihood(outputs, x.shape[1:], code.rank), x)

    def guide(self, x: Tensor, y: Tensor | None = None, shown: Tensor | None = None) -> None:
        """The style of x (B, \\*shape), and its class unless y (B,) tells it, by what is `shown` of x, or x itself."""
        check_numbers(x, y, shown)
        self.weights()
        with self._plate(x, y, shown):
            self.recognise(x, y, shown)

    @torch.no_grad()
    def classify(self, shown: Tensor) -> Tensor:
        """The most probable class of each data point, by x or by what the classifier is shown of it."""
        return self.logits(shown).argmax(-1)

    @torch.no_grad()
    def style(self, x: Tensor, y: Tensor) -> dist.TorchDistribution:
        """q(z | x, y), a normal with event shape (D,)."""
        check_labels(y, self.classes)
        return normal_of(self._encoded(x, y), self.latent_size, "the encoder")

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The mean of x given style z (\\*batch, D) and class y (\\*batch); one draw of random weights.

        With a style held and the label varied: analogies.
        """
        code = Code(z, self.one_hot(y))
        return self.likelihood.mean(self.weights.drawn(lambda: run(self.decoder, *code, ranks=[1, 1])), code.rank)

    def one_hot(self, y: Tensor) -> Tensor:
        """Classes y (\\*batch) as C zeros and ones each, (\\*batch, C).

        Raises:
            InputError: labels that are not integers in [0, C).
        """
        check_labels(y, self.classes)
        return self._indicators(y)

    def code(self, rows: int, y: Tensor | None, prefix: str = "") -> Code:
        """Class and style of `rows` data points, sampled from their priors within the plate that is open."""
        prior = dist.Categorical(logits=self.log_probabilities)
        label = pyro.sample(f"{prefix}y", prior) if y is None else observe(f"{prefix}y", prior.expand([rows]), y)
        style = pyro.sample(f"{prefix}z", standard_normal(rows, self.latent_size, self.log_probabilities))
        return Code(style, self._indicators(label))

    def decoded(self, *codes: Code) -> list[Tensor]:
        """What the decoder puts out for each group of codes; in one call if its weights are random, and drawn once."""
        register(self.decoder, f"{self.name}.decoder")
        if self.weights.guide is None or len(codes) == 1:
            return [run(self.decoder, *code, ranks=[1, 1]) for code in codes]
        shapes = [code.batch for code in codes]
        rows = [
            [part.expand(*shape, part.shape[-1]).reshape(-1, part.shape[-1]) for part in code]
            for code, shape in zip(codes, shapes, strict=True)
        ]
        outputs = self.decoder(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        each = outputs.split([shape.numel() for shape in shapes])
        return [part.reshape(*shape, *part.shape[1:]) for part, shape in zip(each, shapes, strict=True)]

    def recognise(self, x: Tensor, y: Tensor | None, shown: Tensor | None = None, prefix: str = "") -> None:
        """Class (unless y tells it) and style of x, sampled from their posteriors within the plate that is open."""
        register(self.encoder, f"{self.name}.encoder")
        if y is None:
            register(self.classifier, f"{self.name}.classifier")
            law = dist.Categorical(logits=self.logits(x if shown is None else shown))
            y = pyro.sample(f"{prefix}y", law, infer={"enumerate": "parallel"})
        pyro.sample(f"{prefix}z", normal_of(self._encoded(x, y), self.latent_size, "the encoder"))

    def __getstate__(self) -> dict[str, Any]:
        return picklable_state(self)

    def _plate(self, x: Tensor, y: Tensor | None, shown: Tensor | None) -> pyro.plate:
        if y is not None:
            check_labels(y, self.classes, len(x))
        check_shown("shown", shown, len(x))
        return data_plate(len(x), self.size)

    def _encoded(self, x: Tensor, y: Tensor) -> Tensor:
        return run(self.encoder, x, self._indicators(y), ranks=[x.dim() - 1, 1])

    def _indicators(self, y: Tensor) -> Tensor:
        """One-hot classes, without a look at them: those of a fit were checked, or are enumerated."""
        return F.one_hot(y.long(), self.classes).to(self.log_probabilities)

    def logits(self, shown: Tensor) -> Tensor:
        """Of the classes, by x (B, \\*shape) or what is shown of it, (B, ...).

        Raises:
            InputError: a classifier with other outputs than one for each class.
        """
        logits, shape = self.classifier(shown), (len(shown), self.classes)
        if logits.shape != shape:
            raise InputError("the classifier's output", expected=f"shape {shape}", got=f"{tuple(logits.shape)}")
        return logits
