"""The precision of each parameter and its integers: the fewest bits whose validation error is within a limit."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pyro_bdl.compression.codec import EXPONENT_OFFSET, Quantised
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.precision import FixedPoint, fixed_point
from pyro_bdl.compression.pruning import weight_log_alpha
from pyro_bdl.compression.quantising import MOST_LEVEL, quantise

NOISE = 3.0  # log alpha above which a weight is dropped with a probability of more than 0.95 (Molchanov et al. 2017)
PATIENCE = 2
POINT_BITS = 12  # of a parameter that is not random: nothing says how precise it must be
TRADE = 0.2  # without validation data; see `choose_integers`
SPREADS = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)
TRADES = (0.0, *(2.0 ** (k / 2) for k in range(-6, 15)))

Values = Mapping[str, Tensor]
Evaluate = Callable[[Values], float]


def choose_widths(
    posterior: WeightPosterior, gone: Values, *, evaluate: Evaluate | None, limit: float, spread: float | None
) -> dict[str, FixedPoint]:
    """The fixed-point format of each parameter.

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
    """
    if spread is not None or evaluate is None:
        return _widths(posterior, gone, 0.5 if spread is None else spread)
    for candidate in SPREADS:
        widths = _widths(posterior, gone, candidate)
        if evaluate(rounded(posterior, gone, widths)) <= limit:
            return _narrowed(posterior, gone, widths, evaluate, limit)
    return widths


def errors_one_bit_below(
    posterior: WeightPosterior, gone: Values, widths: Mapping[str, FixedPoint], *, evaluate: Evaluate
) -> dict[str, float]:
    """By parameter, the validation error when it alone has one bit less than its width."""
    return {
        name: evaluate(rounded(posterior, gone, {**widths, name: width.narrower()}))
        for name, width in widths.items()
        if width.bits
    }


def choose_integers(
    posterior: WeightPosterior,
    gone: Values,
    *,
    evaluate: Evaluate | None,
    limit: float,
    spread: float | None,
    trade: float | None,
) -> dict[str, Quantised]:
    """The integers of each parameter, by `quantise`.

    For each step (a `spread` of 4, 2, ..., 1/16 unless it is given) the largest trade within the limit is found by
    bisection; the step whose integers have the least entropy is taken, looked for until two finer ones are worse. If
    none is within the limit, the finest step and plain rounding. Without `evaluate`: spread 1, trade 0.2. A trade of 1
    would be the least description length, but draws all weights towards zero at once, which is more than as many
    deviations at random: for 64-32 units on digits the error went from 3.9% (plain rounding) to 32%, and to 7% for a
    fit with half the KL; with 0.2 it did not grow.
    """
    if evaluate is None:
        widths = _widths(posterior, gone, 1.0 if spread is None else spread)
        return _integers(posterior, gone, widths, TRADE if trade is None else trade)
    best: tuple[float, dict[str, Quantised]] | None = None
    worse = 0
    for step in SPREADS if spread is None else (spread,):
        found = _largest_trade(posterior, gone, step, TRADES if trade is None else (trade,), evaluate, limit)
        bits = math.inf if found is None else sum(entropy(q.levels) for q in found.values())
        if found is not None and (best is None or bits < best[0]):
            best, worse = (bits, found), 0
        elif best is not None:
            worse += 1
            if worse == PATIENCE:
                break
    finest = SPREADS[-1] if spread is None else spread
    return best[1] if best is not None else _integers(posterior, gone, _widths(posterior, gone, finest), trade or 0.0)


def values_of(integers: Mapping[str, Quantised], like: Values) -> dict[str, Tensor]:
    """The parameters that integers stand for."""
    return {name: q.value(like[name]) for name, q in integers.items()}


def rounded(posterior: WeightPosterior, gone: Values, widths: Mapping[str, FixedPoint]) -> dict[str, Tensor]:
    """The means in these formats, and zeros where they are pruned."""
    return {name: width.round(posterior.mean[name]).masked_fill(gone[name], 0) for name, width in widths.items()}


def entropy(levels: Tensor) -> float:
    """The empirical entropy of integers in a range of some thousands, in bits, times their number."""
    flat = levels.flatten()
    counts = torch.bincount(flat - flat.min()).double() if len(flat) else torch.ones(1).double()
    counts = counts[counts > 0]
    return float(-(counts * (counts / counts.sum()).log2()).sum())


def _narrowed(
    posterior: WeightPosterior, gone: Values, widths: dict[str, FixedPoint], evaluate: Evaluate, limit: float
) -> dict[str, FixedPoint]:
    """Bits are taken from one parameter after the other until no other bit can go.

    After a success the parameters that had failed before are tried once more in the next round, not at once: with as
    many bits taken as there are parameters that would be quadratic in their number.
    """
    refused: dict[str, dict[str, FixedPoint]] = {}  # at which widths of all a bit was too many: then nothing is new
    while True:
        before = widths
        for name in sorted(widths, key=lambda n: -widths[n].bits * int((~gone[n]).sum())):
            while widths[name].bits and refused.get(name) != widths:
                fewer = {**widths, name: widths[name].narrower()}
                if evaluate(rounded(posterior, gone, fewer)) <= limit:
                    widths = fewer
                else:
                    refused[name] = widths
        if widths == before:
            return widths


def _largest_trade(
    posterior: WeightPosterior,
    gone: Values,
    spread: float,
    trades: tuple[float, ...],
    evaluate: Evaluate,
    limit: float,
) -> dict[str, Quantised] | None:
    widths = _widths(posterior, gone, spread)

    def tried(trade: float) -> dict[str, Quantised] | None:
        integers = _integers(posterior, gone, widths, trade)
        return integers if evaluate(values_of(integers, posterior.mean)) <= limit else None

    found, low, high = tried(trades[0]), 0, len(trades)
    while found is not None and high - low > 1:
        middle = (low + high) // 2
        other = tried(trades[middle])
        if other is None:
            high = middle
        else:
            found, low = other, middle
    return found


def _widths(posterior: WeightPosterior, gone: Values, spread: float) -> dict[str, FixedPoint]:
    return {name: _width(posterior, name, gone[name], spread) for name in posterior.mean}


def _width(posterior: WeightPosterior, name: str, gone: Tensor, spread: float) -> FixedPoint:
    """The format of one parameter, by the weights that are more than noise; at least by the least noisy."""
    mean, variance = posterior.mean[name], posterior.variance[name]
    if not bool((variance > 0).all()):
        largest = float(mean.abs().max()) if mean.numel() else 0.0
        return FixedPoint(POINT_BITS if largest else 0, math.frexp(largest)[1] - POINT_BITS + 1)
    log_alpha = weight_log_alpha(WeightPosterior({name: mean}, {name: variance}))[name].masked_fill(gone, math.inf)
    signal = log_alpha <= max(NOISE, float(log_alpha.min()) if log_alpha.numel() else NOISE)
    return fixed_point(mean[signal & ~gone], variance[signal & ~gone], spread=spread)


def _integers(
    posterior: WeightPosterior, gone: Values, widths: Mapping[str, FixedPoint], trade: float
) -> dict[str, Quantised]:
    return {name: _of_one(posterior, name, gone[name], width, trade) for name, width in widths.items()}


def _of_one(posterior: WeightPosterior, name: str, gone: Tensor, width: FixedPoint, trade: float) -> Quantised:
    mean, variance = posterior.mean[name], posterior.variance[name]
    if width.bits == 0 or bool(gone.all()):
        return Quantised(torch.zeros_like(mean, dtype=torch.int64), 0)
    # As fine as the posterior asks for, unless that is finer than `quantise` or the file takes.
    finest = math.ceil(math.log2(float(mean[~gone].abs().max()) / MOST_LEVEL))
    exponent = max(width.exponent, finest, -EXPONENT_OFFSET)
    random = bool((variance > 0).all())
    levels = quantise(mean, variance, step=2.0**exponent, trade=trade if random else 0.0, fixed=gone)
    return Quantised(levels, exponent)
