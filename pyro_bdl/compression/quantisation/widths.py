"""The bit widths of parameters for fast prediction: the fewest bits whose validation error is within a limit."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.pruning import weight_log_alpha
from pyro_bdl.compression.quantisation.precision import FixedPoint, Format, SmallFloat, fixed_point

NOISE = 3.0  # log alpha above which a weight is dropped with a probability of more than 0.95 (Molchanov et al. 2017)
POINT_BITS = 12  # of a parameter that is not random: nothing says how precise it must be
SPREADS = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)
SPREAD = 0.5  # without validation data

Values = Mapping[str, Tensor]
Evaluate = Callable[[Values], float]
F = TypeVar("F", FixedPoint, SmallFloat)


@dataclass(frozen=True)
class Widths:
    """The formats of a network's parameters, by name.

    Attributes:
        fixed: in fixed point, one for each parameter.
        floats: as small floats, one for each parameter.
        units: in fixed point, one for each output unit, see `unit_widths`.
    """

    fixed: Mapping[str, FixedPoint]
    floats: Mapping[str, SmallFloat]
    units: Mapping[str, tuple[FixedPoint, ...]]


def choose_widths(
    posterior: WeightPosterior,
    gone: Values,
    *,
    evaluate: Evaluate | None,
    limit: float,
    spread: float | None,
    rule: Callable[..., F],
) -> dict[str, F]:
    """The format of each parameter.

    First one noise for all, in posterior deviations (`fixed_point`), the largest within the limit; then a parameter at
    a time, those that hold the most bits first, is given one bit less for as long as the error stays within the limit,
    and all again until none can. So with any one parameter a bit below its width the error is beyond the limit.

    Args:
        posterior: of the weights.
        gone: bool masks of those that are pruned.
        evaluate: the validation error of a network with these parameters; `None`: none is known.
        limit: the error allowed.
        spread: the noise, then for all. Default: the largest of 4, 2, ..., 1/16 within the limit; 0.5 without
            `evaluate`.
        rule: what tells a format: `fixed_point` or `small_float`.
    """
    if spread is not None or evaluate is None:
        return _widths(posterior, gone, SPREAD if spread is None else spread, rule)
    for candidate in SPREADS:
        widths = _widths(posterior, gone, candidate, rule)
        if evaluate(rounded(posterior, gone, widths)) <= limit:
            return _narrowed(posterior, gone, widths, evaluate, limit)
    return widths


def errors_one_bit_below(
    posterior: WeightPosterior, gone: Values, widths: Mapping[str, Format], *, evaluate: Evaluate
) -> dict[str, float]:
    """By parameter, the validation error when it alone has one bit less than its width."""
    return {
        name: evaluate(rounded(posterior, gone, {**widths, name: format.narrower()}))
        for name, format in widths.items()
        if format.narrower().bits < format.bits
    }


def rounded(posterior: WeightPosterior, gone: Values, widths: Mapping[str, Format]) -> dict[str, Tensor]:
    """The means in these formats, and zeros where they are pruned."""
    return {name: format.round(posterior.mean[name]).masked_fill(gone[name], 0) for name, format in widths.items()}


def rounded_by_unit(posterior: WeightPosterior, gone: Values, widths: Widths) -> dict[str, Tensor]:
    """The same with a format for each output unit, and for each parameter where there are no units."""
    values = rounded(posterior, gone, widths.fixed)
    for name, formats in widths.units.items():
        rows = [f.round(row) for f, row in zip(formats, posterior.mean[name], strict=True)]
        values[name] = torch.stack(rows).masked_fill(gone[name], 0)
    return values


def unit_widths(
    posterior: WeightPosterior, gone: Values, widths: Mapping[str, FixedPoint]
) -> dict[str, tuple[FixedPoint, ...]]:
    r"""The formats of a layer's output units, each with a step of its own, at the rounding noise of the layer's width.

    .. math:: s^2 = \frac{d^2}{12} \, \frac1n \sum_i \sigma_i^{-2}

    is the noise that a layer with the step d has by the rule of `fixed_point`; each of its units is given the width
    that this rule tells for its own weights. As integer arithmetic has it, with one step for each output.

    Returns:
        For each parameter of two dimensions or more, one format for each index of the first; without bits where all
        are pruned, and the layer's own for parameters that are not random.
    """
    return {
        name: tuple(_of_units(posterior, name, gone[name], widths[name]))
        for name, mean in posterior.mean.items()
        if mean.dim() >= 2
    }


def width(posterior: WeightPosterior, name: str, gone: Tensor, spread: float, rule: Callable[..., F]) -> F:
    """The format of one parameter, by the weights that are more than noise; at least by the least noisy."""
    mean, variance = posterior.mean[name], posterior.variance[name]
    if not bool((variance > 0).all()):
        return rule(mean, _point_variance(mean, spread), spread=spread)
    signal = _signal(mean, variance, gone)
    return rule(mean[signal], variance[signal], spread=spread)


def _signal(mean: Tensor, variance: Tensor, gone: Tensor) -> Tensor:
    """Which weights are kept and more than noise; the least noisy one if none is."""
    log_alpha = weight_log_alpha(WeightPosterior({"": mean}, {"": variance}))[""].masked_fill(gone, math.inf)
    return (log_alpha <= max(NOISE, float(log_alpha.min()) if log_alpha.numel() else NOISE)) & ~gone


def _point_variance(mean: Tensor, spread: float) -> Tensor:
    """Of a parameter that is not random: that which asks for `POINT_BITS` in fixed point."""
    largest = float(mean.abs().max()) if mean.numel() else 0.0
    step = 2.0 ** (math.frexp(largest)[1] - POINT_BITS + 1)
    return torch.full_like(mean, 1.001 * step**2 / 12 / spread**2, dtype=torch.float64)


def _of_units(posterior: WeightPosterior, name: str, gone: Tensor, layer: FixedPoint) -> Iterator[FixedPoint]:
    mean, variance = posterior.mean[name], posterior.variance[name]
    if layer.bits == 0 or not bool((variance > 0).all()):
        yield from [layer] * len(mean)
        return
    signal = _signal(mean, variance, gone)
    noise = layer.step * math.sqrt(float((1.0 / variance[signal].double()).mean()) / 12.0)
    for unit, some in enumerate(signal):
        yield fixed_point(mean[unit][some], variance[unit][some], spread=noise)


def _narrowed(
    posterior: WeightPosterior, gone: Values, widths: dict[str, F], evaluate: Evaluate, limit: float
) -> dict[str, F]:
    """Bits are taken from one parameter after the other until no other bit can go.

    After a success the parameters that had failed before are tried once more in the next round, not at once: with as
    many bits taken as there are parameters that would be quadratic in their number.
    """
    refused: dict[str, dict[str, F]] = {}  # at which widths of all a bit was too many: then nothing is new
    while True:
        before = widths
        for name in sorted(widths, key=lambda n: -widths[n].bits * int((~gone[n]).sum())):
            while widths[name].narrower().bits < widths[name].bits and refused.get(name) != widths:
                fewer = {**widths, name: widths[name].narrower()}
                if evaluate(rounded(posterior, gone, fewer)) <= limit:
                    widths = fewer
                else:
                    refused[name] = widths
        if widths == before:
            return widths


def _widths(posterior: WeightPosterior, gone: Values, spread: float, rule: Callable[..., F]) -> dict[str, F]:
    return {name: width(posterior, name, gone[name], spread, rule) for name in posterior.mean}
