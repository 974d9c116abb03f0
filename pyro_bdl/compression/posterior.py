"""What compression is told of a posterior: mean and variance of each weight."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class WeightPosterior:
    r"""Mean and variance of each parameter of a network under a factorised posterior.

    For a weight with a node scale, :math:`w_{ij} = z_i \tilde w_{ij}` with independent factors, these are

    .. math:: E[w] = E[z] E[\tilde w], \qquad V[w] = V[z] (E[\tilde w]^2 + V[\tilde w]) + E[z]^2 V[\tilde w]

    (Louizos, Ullrich & Welling 2017, eq. 11 and appendix).

    Attributes:
        mean, variance: by the network's own parameter names, each of the parameter's shape.

    Raises:
        InputError: names or shapes that differ, numbers that are not finite, a variance that is negative.

    >>> posterior = WeightPosterior({"weight": torch.ones(1, 2)}, {"weight": torch.full((1, 2), 0.01)})
    >>> posterior.mean["weight"].shape
    torch.Size([1, 2])
    """

    mean: Mapping[str, Tensor]
    variance: Mapping[str, Tensor]

    @property
    def has_scales(self) -> bool:
        """Whether any weight is random: a posterior of point values says nothing about what can be left out."""
        return any(bool(variance.any()) for variance in self.variance.values())

    def __post_init__(self) -> None:
        if list(self.mean) != list(self.variance):
            raise InputError(
                "the posterior", expected=f"a variance for each of {list(self.mean)}", got=f"{list(self.variance)}"
            )
        for name, mean in self.mean.items():
            variance = self.variance[name]
            if variance.shape != mean.shape:
                raise InputError(
                    f"the variance of {name}",
                    expected=f"shape {tuple(mean.shape)}",
                    got=f"shape {tuple(variance.shape)}",
                )
            if not bool(torch.isfinite(mean).all() & torch.isfinite(variance).all()):
                raise InputError(f"the posterior of {name}", expected="finite numbers", got="NaN or infinity")
            if bool((variance < 0).any()):
                raise InputError(
                    f"the variance of {name}", expected="no negative numbers", got=f"{float(variance.min())}"
                )
