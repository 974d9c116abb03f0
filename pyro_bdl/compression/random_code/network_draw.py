"""A network's weights as one draw of their posterior, coded by random indices."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.random_code.code import MAX_BITS, RandomCode, check_seed
from pyro_bdl.compression.random_code.coding_prior import CodingPrior, coding_prior
from pyro_bdl.compression.random_code.relative_entropy import decode, encode
from pyro_bdl.compression.random_code.retraining import Retraining, encode_retrained
from pyro_bdl.errors import InputError, UnsupportedModelError

EXTRA_BITS = 2.0
EXTRA_BITS_RETRAINED = 1.0


@dataclass(frozen=True)
class RandomDraw:
    r"""How `compress` codes the weights as a draw of their posterior (relative-entropy coding).

    Its cost is about the KL of the posterior from a Gaussian coding prior, whose scales by layer, row and column are
    stored (`coding_prior`), instead of the entropy of rounded means; see `pyro_bdl.compression.random_code` and Havasi,
    Peharz & Hernandez-Lobato 2019.

    Args:
        seed: shared by sender and receiver; another gives another draw.
        bits: of each block's index, 1 to 24: 2^bits candidates are tried of each. Default 16, as there are then seconds
            to minutes to wait.
        extra_bits: by how much an index is longer than its block's KL. Default: 2 for a draw of the posterior as it is,
            which keeps its law; 1 with `retraining`, which makes up for what is lost.
        retraining: training data, on which the weights that are not coded yet adapt to those that are. Default: none,
            and the draw is as much worse than the posterior mean as the posterior is wide.
        progress: show a bar.

    Raises:
        InputError: numbers out of range.

    >>> RandomDraw(seed=3, bits=12)
    RandomDraw(seed=3, bits=12, extra_bits=None, retraining=None, progress=False)
    """

    seed: int = 0
    bits: int = 16
    extra_bits: float | None = None
    retraining: Retraining | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not isinstance(self.bits, int) or not 1 <= self.bits <= MAX_BITS:
            raise InputError("RandomDraw.bits", expected=f"an integer from 1 to {MAX_BITS}", got=repr(self.bits))
        if not 0 <= self.extra < self.bits:
            raise InputError("RandomDraw.extra_bits", expected=f"in [0, {self.bits})", got=str(self.extra_bits))

    @property
    def overhead(self) -> float:
        """The share by which indices are longer than the KL."""
        return self.extra / (self.bits - self.extra)

    @property
    def extra(self) -> float:
        """`extra_bits` or its default."""
        if self.extra_bits is not None:
            return self.extra_bits
        return min(EXTRA_BITS if self.retraining is None else EXTRA_BITS_RETRAINED, self.bits - 1)


@dataclass(frozen=True, eq=False)
class Drawn:
    """One parameter of a draw.

    Attributes:
        levels: the values, float32, of the parameter's shape.
        prior: under which they are coded.
    """

    levels: Tensor
    prior: CodingPrior

    def value(self, like: Tensor) -> Tensor:
        """The parameter, of the dtype and on the device of another."""
        return self.levels.to(like)


Priors = Mapping[str, CodingPrior]


def priors_of(posterior: WeightPosterior, draw: RandomDraw) -> Priors:
    """The coding priors of the parameters that are random, all weights of them."""
    return {
        name: coding_prior(mean, posterior.variance[name], extra=draw.overhead)
        for name, mean in posterior.mean.items()
        if mean.numel() and bool((posterior.variance[name] > 0).all())
    }


def length_in_bits(posterior: WeightPosterior, priors: Priors, draw: RandomDraw) -> float:
    """About what a draw takes under these priors: the KL, the spare bits and the scales."""
    return sum(
        prior.bits() + (1 + draw.overhead) * prior.kl(posterior.mean[name], posterior.variance[name])
        for name, prior in priors.items()
    )


def code_draw(
    net: nn.Module, posterior: WeightPosterior, draw: RandomDraw, priors: Priors | None = None
) -> tuple[dict[str, Drawn], RandomCode]:
    """A draw of the random parameters of a network at the posterior mean, and its code.

    Args:
        net, posterior: at the mean, and of its parameters.
        draw: how.
        priors: what `priors_of` gave, if that is at hand.

    Raises:
        UnsupportedModelError: no parameter all of whose weights have a variance.
        NumericalError: a loss that is not finite while retraining.
    """
    priors = priors_of(posterior, draw) if priors is None else priors
    if not priors:
        raise UnsupportedModelError("the posterior", expected="a parameter all of whose weights are random", got="none")
    mean, variance = (torch.cat([m[n].detach().flatten().cpu() for n in priors]).float() for m in (
        posterior.mean, posterior.variance))  # fmt: skip
    scale = flat_scales(priors, posterior.mean)
    with warnings.catch_warnings():  # a block beyond its bits is a poorer draw, which validation tells
        warnings.filterwarnings("ignore", "the KL of block")
        if draw.retraining is None:
            code = encode(
                mean, variance, scale, seed=draw.seed, bits=draw.bits, extra_bits=draw.extra, on_excess="warn"
            )
        else:
            code = encode_retrained(
                net, mean, variance, scale, tuple(priors), draw.retraining,
                seed=draw.seed, bits=draw.bits, extra_bits=draw.extra, progress=draw.progress,
            )  # fmt: skip
    return drawn(code, priors, posterior.mean), code


def drawn(code: RandomCode, priors: Priors, like: Mapping[str, Tensor]) -> dict[str, Drawn]:
    """The values that a code tells, by parameter.

    Args:
        code: of all of them, in the order of `priors`.
        priors: by name.
        like: tensors of the parameters' shapes.

    Raises:
        InputError: a code for another number of weights.
    """
    sizes = [like[name].numel() for name in priors]
    values = decode(code, sum(sizes), flat_scales(priors, like)).split(sizes)
    return {n: Drawn(v.reshape(like[n].shape), prior) for (n, prior), v in zip(priors.items(), values, strict=True)}


def flat_scales(priors: Priors, like: Mapping[str, Tensor]) -> Tensor:
    """The deviation of each weight, in the order of the priors."""
    return torch.cat([prior.scales(like[name]).flatten() for name, prior in priors.items()])
