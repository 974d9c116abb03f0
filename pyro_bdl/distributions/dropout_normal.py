"""A normal distribution whose deviation is a share of its mean."""

from typing import Any

from torch import Tensor

from pyro_bdl.distributions.variance_normal import VarianceNormal


class DropoutNormal(VarianceNormal):
    r"""N(loc, alpha loc^2), told by its mean and its log dropout rate log alpha.

    The posterior of Gaussian dropout. The rate is kept as it was given, so that the KL with a log-uniform prior holds
    also where loc^2 underflows, and has no gradient with respect to the mean.

    Args:
        loc: the mean.
        log_alpha: log alpha, of a shape that broadcasts to that of the mean.

    >>> import torch
    >>> DropoutNormal(torch.tensor([2.0, -1.0]), torch.tensor(0.25).log()).scale
    tensor([1.0000, 0.5000])
    """

    def __init__(self, loc: Tensor, log_alpha: Tensor) -> None:
        super().__init__(loc, log_alpha.exp() * loc.square())
        self.log_alpha = log_alpha.expand(loc.shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DropoutNormal":
        """The same normal for each of `batch_shape` variables."""
        return DropoutNormal(self.loc.expand(batch_shape), self.log_alpha.expand(batch_shape))
