"""Times of which some are only known to be larger than what was observed."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_bdl.errors import InputError


class RightCensored(TorchDistribution):
    r"""The likelihood of times under right censoring: the density at an event, the survival at a censoring.

    .. math:: \log p(t_n) = \delta_n \log f(t_n) + (1 - \delta_n) \log S(t_n)

    For censoring that tells nothing more about the time of the event (Kalbfleisch & Prentice 2002, section 3.2). As a
    density it is that of the data given who is censored; `sample` draws the times of the events themselves.

    Args:
        base: the law of the time, f, with a `log_survival`, or a `cdf` (S = 1 - cdf, which is
            -inf in the logarithm where the cdf rounds to 1).
        event: delta, True or 1 where the event was observed, broadcast over the batch shape; None: everywhere.

    Raises:
        InputError: a law of vectors.

    >>> import pyro.distributions as dist
    >>> p = RightCensored(dist.Exponential(torch.tensor([2.0, 2.0])), torch.tensor([True, False]))
    >>> p.log_prob(torch.tensor([3.0, 3.0]))  # log 2 - 6 and -6
    tensor([-5.3069, -6.0000])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, base: Any, event: Tensor | None = None, *, validate_args: bool | None = None) -> None:
        if base.event_dim:
            raise InputError("base", expected="a law of numbers", got=f"one of shape {tuple(base.event_shape)}")
        shape = base.batch_shape if event is None else torch.broadcast_shapes(base.batch_shape, event.shape)
        self.base, self.event = base.expand(shape), None if event is None else event.bool()
        super().__init__(shape, torch.Size(), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """As the base."""
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        """As the base."""
        return self.base.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RightCensored":
        """The same for each of `batch_shape` variables."""
        shape = torch.Size(batch_shape)
        event = None if self.event is None else self.event.expand(shape)
        return RightCensored(self.base.expand(shape), event, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log f where there was an event, log S elsewhere."""
        density = self.base.log_prob(value)
        if self.event is None:
            return density
        return torch.where(self.event, density, self._log_survival(value, unused=self.event))

    def log_survival(self, value: Tensor) -> Tensor:
        """log P(T > t) of the base."""
        return self._log_survival(value)

    def _log_survival(self, value: Tensor, unused: Tensor | None = None) -> Tensor:
        """log P(T > t); where it is not used and the base has only a cdf 0, whose gradient is a number."""
        if hasattr(self.base, "log_survival"):
            return self.base.log_survival(value)
        cdf = self.base.cdf(value)
        return torch.log1p(-(cdf if unused is None else torch.where(unused, 0.0, cdf)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Times of events, as if nothing were censored."""
        return self.base.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The same with gradients, where the base has them."""
        return self.base.rsample(torch.Size(sample_shape))
