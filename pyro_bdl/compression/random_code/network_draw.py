"""A network's weights as one draw of their posterior, coded by random indices."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.random_code.code import RandomCode
from pyro_bdl.compression.random_code.coding_prior import CodingPrior, coding_prior
from pyro_bdl.compression.random_code.random_draw import RandomDraw
from pyro_bdl.compression.random_code.relative_entropy import decode, encode
from pyro_bdl.compression.random_code.retrained_draw import encode_retrained
from pyro_bdl.compression.retraining import Retraining
from pyro_bdl.errors import UnsupportedModelError


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
    net: nn.Module,
    posterior: WeightPosterior,
    draw: RandomDraw,
    *,
    retraining: Retraining | None = None,
    priors: Priors | None = None,
    progress: bool = False,
) -> tuple[dict[str, Drawn], RandomCode]:
    """A draw of the random parameters of a network at the posterior mean, and its code.

    Args:
        net, posterior: at the mean, and of its parameters.
        draw: how.
        retraining: of the weights that are not coded yet, in between.
        priors: what `priors_of` gave, if that is at hand.
        progress: show a bar while retraining.

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
        if retraining is None:
            code = encode(
                mean, variance, scale, seed=draw.seed, bits=draw.bits, extra_bits=draw.extra, on_excess="warn"
            )
        else:
            code = encode_retrained(net, mean, variance, scale, tuple(priors), draw, retraining, progress=progress)
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
