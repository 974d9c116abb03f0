r"""How many bits a weight needs, read off the spread of its posterior.

A weight that the data determine only up to a standard deviation sigma need not be written finer than that: rounding to
a grid of step d adds an error of variance d^2 / 12, which does as much harm as posterior noise of that variance
(Hinton & van Camp 1993; Louizos, Ullrich & Welling 2017, section 3.2). For weights i with steps d_i the rule here is

.. math:: \frac1n \sum_i \frac{d_i^2}{12\, \sigma_i^2} \le s^2

As near a minimum that variational inference fits :math:`1/\sigma_i^2` is the curvature of the loss, rounding then
raises it, to second order, by at most :math:`s^2 / 2` nats a weight on average over where the weights lie between two
neighbours, and by three times that at worst. `FixedPoint` and `SmallFloat` are the two formats; `fixed_point` and
`small_float` choose the narrowest that obeys the rule.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_bdl.errors import InputError

MAX_BITS = 32
MOST_SIGNIFICAND_BITS, MOST_EXPONENT_BITS = 24, 11
EXPONENTS = (-1022, 1023)  # of the normal numbers of float64, in which all is computed


@dataclass(frozen=True)
class FixedPoint:
    """Multiples of 2^exponent in two's complement: from -2^(bits - 1) to 2^(bits - 1) - 1 of them.

    Attributes:
        bits: the width, sign included, at most 32; 0 where all weights are zero.
        exponent: of the grid's step.

    >>> FixedPoint(bits=4, exponent=-2).round(torch.tensor([0.3, -5.0]))
    tensor([ 0.2500, -2.0000])
    """

    bits: int
    exponent: int

    @property
    def step(self) -> float:
        """The distance of neighbours on the grid."""
        return 2.0**self.exponent

    def levels(self, values: Tensor) -> Tensor:
        """The nearest multiples, int64, ties to even, clamped to the width."""
        if self.bits == 0:
            return torch.zeros_like(values, dtype=torch.int64)
        top = 2 ** (self.bits - 1)
        return (values.double() / self.step).round().clamp(-top, top - 1).long()

    def round(self, values: Tensor) -> Tensor:
        """The nearest numbers of the format."""
        return (self.levels(values).double() * self.step).to(values.dtype)

    def narrower(self) -> "FixedPoint":
        """The format of one bit less and twice the step, which has the same range."""
        return FixedPoint(max(self.bits - 1, 0), self.exponent + 1)


@dataclass(frozen=True)
class SmallFloat:
    """Sign, exponent and significand, with gradual underflow, without infinities: what is too large is the largest.

    Attributes:
        exponent_bits, significand_bits: the widths; the leading one of the significand is not stored.
        top: the exponent of the largest binade.

    >>> SmallFloat(exponent_bits=3, significand_bits=1, top=0).round(torch.tensor([0.3, -1.2, 9.0]))
    tensor([ 0.2500, -1.0000,  1.5000])
    """

    exponent_bits: int
    significand_bits: int
    top: int

    @property
    def bits(self) -> int:
        """The width, sign included."""
        return 1 + self.exponent_bits + self.significand_bits

    @property
    def bottom(self) -> int:
        """The exponent of the lowest binade; zero and the subnormal numbers share its step."""
        return self.top - 2**self.exponent_bits + 2

    @property
    def largest(self) -> float:
        """The largest number."""
        return 2.0**self.top * (2.0 - 2.0**-self.significand_bits)

    def steps(self, values: Tensor) -> Tensor:
        """The distance of neighbours at each value, float64."""
        binade = _binade(values).clamp(self.bottom, self.top)
        return _power_of_two(binade - self.significand_bits)

    def round(self, values: Tensor) -> Tensor:
        """The nearest numbers of the format, ties to even."""
        step = self.steps(values)
        return ((values.double() / step).round() * step).clamp(-self.largest, self.largest).to(values.dtype)

    def narrower(self) -> "SmallFloat":
        """The format of one bit less of significand, or of exponent where there is none left, up to the same binade."""
        exponent_bits = self.exponent_bits - (self.significand_bits == 0)
        return SmallFloat(max(exponent_bits, 1), max(self.significand_bits - 1, 0), self.top)

    def __str__(self) -> str:
        return f"e{self.exponent_bits}m{self.significand_bits}"


Format = FixedPoint | SmallFloat


def fixed_point(mean: Tensor, variance: Tensor, *, spread: float = 1.0) -> FixedPoint:
    r"""The coarsest fixed-point format whose rounding hides in the posterior of these weights.

    The step d is the largest power of two with

    .. math:: d^2 / 12 \le s^2 \Big/ \frac1n \sum_i \sigma_i^{-2}

    the rule of this file with one step for all, and the width is what the rounded means need, at most 32 bits (then,
    for weights known to more than nine digits, the step is larger than the rule's).

    Args:
        mean, variance: of the weights that are kept, any equal shape.
        spread: s, the rounding noise allowed in posterior deviations. Default 1.

    Raises:
        InputError: numbers that are not finite, a variance that is not positive, or a spread that is not.

    >>> fixed_point(torch.tensor([0.9, -0.5]), torch.tensor([1e-2, 1e-2]))
    FixedPoint(bits=4, exponent=-2)
    """
    _check(mean, variance, spread)
    if mean.numel() == 0 or not bool(mean.any()):
        return FixedPoint(bits=0, exponent=0)
    precision = _log2_mean(-variance.double().log2())
    largest = float(mean.abs().max())
    exponent = math.floor(math.log2(spread) + 0.5 * (math.log2(12.0) - precision))
    exponent = max(exponent, math.ceil(math.log2(largest)) - MAX_BITS + 2)
    exponent = min(max(exponent, EXPONENTS[0]), EXPONENTS[1])
    levels = FixedPoint(MAX_BITS, exponent).levels(mean)
    # Two's complement reaches one further down than up.
    reach = max(int(levels.max()), -int(levels.min()) - 1)
    return FixedPoint(bits=1 + reach.bit_length() if bool(levels.any()) else 0, exponent=exponent)


def small_float(mean: Tensor, variance: Tensor, *, spread: float = 1.0) -> SmallFloat:
    r"""The narrowest floating-point format whose rounding hides in the posterior of these weights.

    In binade e of a format with m bits of significand and its lowest binade b the step is
    :math:`d = 2^{\max(e, b) - m}`; of all formats that obey the rule of this file the one of fewest bits is taken, and
    of these the one of the longest significand. The largest mean does not overflow.

    Args:
        mean, variance, spread: as in `fixed_point`.

    Returns:
        At most 24 bits of significand and 11 of exponent; the widest where even that does not obey the rule.

    Raises:
        InputError: as `fixed_point`.

    >>> small_float(torch.tensor([0.9, -0.5, 1e-3]), torch.tensor([1e-2, 1e-2, 1e-7]))
    SmallFloat(exponent_bits=4, significand_bits=1, top=0)
    """
    _check(mean, variance, spread)
    if mean.numel() == 0 or not bool(mean.any()):
        return SmallFloat(exponent_bits=1, significand_bits=0, top=0)
    some = mean != 0
    binades, which = _binade(mean[some]).unique(return_inverse=True)
    # By binade the log2 of the sum of 1 / (12 sigma^2); the mean is over all weights, also those that are zero.
    weights = -variance[some].double().log2() - math.log2(12.0) - math.log2(mean.numel())
    sums = torch.stack([_log2_sum(weights[which == k]) for k in range(len(binades))])
    largest = float(mean.abs().max())
    widest = SmallFloat(MOST_EXPONENT_BITS, MOST_SIGNIFICAND_BITS, _top(largest, MOST_SIGNIFICAND_BITS))
    for bits in range(2, widest.bits):
        for significand in range(min(bits - 2, MOST_SIGNIFICAND_BITS), -1, -1):
            exponent_bits = bits - 1 - significand
            if exponent_bits > MOST_EXPONENT_BITS:
                break
            found = SmallFloat(exponent_bits, significand, _top(largest, significand))
            steps = binades.clamp_min(found.bottom) - significand
            if float(_log2_sum(sums + 2.0 * steps)) <= 2.0 * math.log2(spread):
                return found
    return widest


def _top(largest: float, significand: int) -> int:
    """The exponent of the largest binade, which rounding up may enter."""
    fraction, exponent = math.frexp(largest)
    return exponent - (round(fraction * 2 ** (significand + 1)) < 2 ** (significand + 1))


def _binade(values: Tensor) -> Tensor:
    """floor(log2 |x|), int64; that of zero is the lowest."""
    exponent = torch.frexp(values.double())[1].long() - 1
    return torch.where(values == 0, EXPONENTS[0], exponent)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^e in float64, exactly: its bits are those of e and zeros."""
    return (exponent.long().clamp(*EXPONENTS) - EXPONENTS[0] + 1 << 52).view(torch.float64)


def _log2_sum(logs: Tensor) -> Tensor:
    return torch.logsumexp(logs * math.log(2.0), dim=0) / math.log(2.0)


def _log2_mean(logs: Tensor) -> float:
    return float(_log2_sum(logs.reshape(-1))) - math.log2(logs.numel())


def _check(mean: Tensor, variance: Tensor, spread: float) -> None:
    if not (isinstance(spread, (int, float)) and 0 < spread < math.inf):
        raise InputError("spread", expected="a positive number", got=repr(spread))
    if mean.shape != variance.shape:
        raise InputError("the variance", expected=f"shape {tuple(mean.shape)}", got=f"shape {tuple(variance.shape)}")
    if not bool(torch.isfinite(mean).all() & torch.isfinite(variance).all()):
        raise InputError("the posterior", expected="finite numbers", got="NaN or infinity")
    if not bool((variance > 0).all()):
        raise InputError(
            "the posterior", expected="positive variances", got=f"a variance of {float(variance.min())}",
            remedy="A posterior without scales says nothing about precision; give the widths",
        )  # fmt: skip
