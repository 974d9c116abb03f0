"""Positive times with a hazard that is constant between given times."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_bdl.errors import InputError


class PiecewiseExponential(TorchDistribution):
    r"""A time :math:`t > 0` whose hazard is :math:`h(t) = h_j` for :math:`c_{j-1} < t \le c_j`.

    .. math:: p(t) = h(t)\, e^{-H(t)}, \quad H(t) = \sum_j h_j \max(0, \min(t, c_j) - c_{j-1}),
        \quad S(t) = P(T > t) = e^{-H(t)}

    with :math:`c_0 = 0` and a last interval without an end (Friedman 1982, "Piecewise exponential models for survival
    data with covariates"). One interval is the exponential distribution.

    Args:
        log_hazard: log h, of shape (..., J), in one over the unit of time.
        cuts: c_1 to c_{J-1}, of shape (J - 1,), positive and increasing, in the unit of time.

    Raises:
        InputError: cuts that are not one fewer than the hazards, or (looked at where Pyro's validation is on) not
            positive and increasing.

    >>> p = PiecewiseExponential(torch.tensor([0.0, 1.0]), torch.tensor([2.0]))
    >>> p.log_survival(torch.tensor(3.0))  # -(2 * 1 + 1 * e)
    tensor(-4.7183)
    >>> p.icdf(p.cdf(torch.tensor(2.0)))
    tensor(2.)
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)
    support = constraints.positive
    has_rsample = True

    def __init__(self, log_hazard: Tensor, cuts: Tensor, *, validate_args: bool | None = None) -> None:
        _check_shapes(log_hazard, cuts)
        self.log_hazard, self.cuts = log_hazard, cuts
        zero = cuts.new_zeros(1)
        self._starts = torch.cat([zero, cuts])
        self._widths = torch.cat([self._starts.diff(), zero + torch.inf])
        super().__init__(log_hazard.shape[:-1], torch.Size(), validate_args=validate_args)
        if self._validate_args:
            check_increasing(cuts)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PiecewiseExponential":
        """The same hazards for each of `batch_shape` variables."""
        shape = torch.Size(batch_shape)
        return PiecewiseExponential(
            self.log_hazard.expand((*shape, self.log_hazard.shape[-1])), self.cuts, validate_args=False
        )

    def cumulative_hazard(self, value: Tensor) -> Tensor:
        """H at times of a shape that broadcasts with the batch shape."""
        inside = (value[..., None] - self._starts).clamp_min(0.0).minimum(self._widths)
        reached = inside > 0  # what is not reached counts 0, also where its hazard overflows
        log_terms = torch.where(reached, inside, 1.0).log() + self.log_hazard
        return log_terms.masked_fill(~reached, -torch.inf).exp().sum(-1)

    def log_survival(self, value: Tensor) -> Tensor:
        """log P(T > t) = -H(t)."""
        return -self.cumulative_hazard(value)

    def log_prob(self, value: Tensor) -> Tensor:
        """log h(t) - H(t), -inf at times that are not positive."""
        if self._validate_args:
            self._validate_sample(value)
        interval = torch.searchsorted(self.cuts, value.detach().contiguous())  # c_j itself belongs to what it ends
        one_hot = interval[..., None] == torch.arange(len(self.cuts) + 1, device=value.device)
        log_hazard = torch.where(one_hot, self.log_hazard, 0.0).sum(-1)
        return (log_hazard - self.cumulative_hazard(value)).masked_fill(value <= 0, -torch.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """P(T <= t)."""
        return -torch.expm1(self.log_survival(value))

    def icdf(self, value: Tensor) -> Tensor:
        """The time by which a fraction `value` of events has happened."""
        return self._time_of(-torch.log1p(-value))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A reparameterised draw: the time at which H reaches an Exponential(1) draw."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self._time_of(torch.empty(shape, dtype=self.log_hazard.dtype, device=self.cuts.device).exponential_())

    def _time_of(self, hazard: Tensor) -> Tensor:
        """The time at which the cumulative hazard has this value."""
        rates = self.log_hazard.exp()
        spent = (rates[..., :-1] * self._widths[:-1]).cumsum(-1)  # H at the cuts
        begin = torch.cat([torch.zeros_like(rates[..., :1]), spent], -1)
        left = (hazard[..., None] - begin).clamp_min(0.0)
        tiny = torch.finfo(rates.dtype).tiny  # a hazard that underflows is waited for, not divided by
        return (left / rates.clamp_min(tiny)).minimum(self._widths).sum(-1)


def _check_shapes(log_hazard: Tensor, cuts: Tensor) -> None:
    if cuts.dim() != 1 or log_hazard.dim() == 0 or log_hazard.shape[-1] != len(cuts) + 1:
        raise InputError(
            "log_hazard and cuts", expected="shapes (..., J) and (J - 1,)",
            got=f"{tuple(log_hazard.shape)} and {tuple(cuts.shape)}",
        )  # fmt: skip


def check_increasing(cuts: Tensor) -> None:
    """Refuse cuts that are not finite, positive and increasing."""
    fine = cuts.isfinite() & (cuts.diff(prepend=cuts.new_zeros(1)) > 0)
    if not bool(fine.all()):
        raise InputError("cuts", expected="finite positive times, each above the one before", got=str(cuts.tolist()))
