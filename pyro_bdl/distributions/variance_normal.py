"""A normal distribution told by its variance."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution


class VarianceNormal(dist.Normal):
    """N(loc, variance): the normal of Pyro, without a square root until the scale is asked for.

    Local reparameterisation and the KL need variances only; a mean-field guide of a million weights hands these over.

    Args:
        loc: the mean.
        variance: the variance, of the same shape and positive (not checked: this is made in the hot loop).

    >>> q = VarianceNormal(torch.zeros(2), torch.tensor([1.0, 4.0]))
    >>> q.scale
    tensor([1., 2.])
    """

    def __init__(self, loc: Tensor, variance: Tensor) -> None:
        self.loc, self._variance = loc, variance
        Distribution.__init__(self, loc.shape, validate_args=False)

    @property
    def variance(self) -> Tensor:
        """The variance as it was given."""
        return self._variance

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """The standard deviation, computed at each call."""
        return self._variance.sqrt()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A reparameterised draw: loc + scale * noise."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, self.scale, noise)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "VarianceNormal":
        """The same normal for each of `batch_shape` variables."""
        return VarianceNormal(self.loc.expand(batch_shape), self._variance.expand(batch_shape))
