"""The integers that parameters become: the shortest code whose validation error is within a limit."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.compression.codec import EXPONENT_OFFSET, Quantised
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.quantisation.precision import FixedPoint, fixed_point
from pyro_bdl.compression.quantisation.quantising import MOST_LEVEL, quantise
from pyro_bdl.compression.quantisation.widths import SPREAD, SPREADS, Evaluate, Values, width

PATIENCE = 2
FINE = 0.25  # a spread whose rounding does no harm by itself
TRADE = 0.03  # without validation data; see `choose_integers`
TRADES = (0.0, *(2.0 ** (k / 2) for k in range(-6, 15)))


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
    none is within the limit, the finest step and plain rounding. Without `evaluate`: spread 0.5, trade 0.03. A trade of
    1 would be the least description length, but draws all weights towards zero at once, which is more than as many
    deviations at random. Errors on validation data, posterior mean, then trades of 0, 0.03 and 0.2 at a spread of 0.5:
    1.76, 1.86, 1.90 and 2.90% (a sparse LeNet-300-100 on MNIST); a spread of 1 costs up to 8 points on the digits.
    """

    @cache
    def formats(step: float) -> dict[str, FixedPoint]:
        return {name: width(posterior, name, gone[name], step, fixed_point) for name in posterior.mean}

    def code(step: float, trade: float) -> dict[str, Quantised]:
        return {name: integers_at(posterior, name, gone[name], f, trade) for name, f in formats(step).items()}

    if evaluate is None:
        return code(SPREAD if spread is None else spread, TRADE if trade is None else trade)
    steps, trades = SPREADS if spread is None else (spread,), TRADES if trade is None else (trade,)
    found = fewest_bits(code, steps, trades, evaluate=evaluate, limit=limit, like=posterior.mean, bits=bits_of)
    return found if found is not None else code(steps[-1], trade or 0.0)


def fewest_bits(
    code: Callable[[Any, float], dict[str, Any]],
    sizes: Sequence[Any],
    trades: Sequence[float],
    *,
    evaluate: Evaluate,
    limit: float,
    like: Values,
    bits: Callable[[Any], float],
) -> dict[str, Any] | None:
    """Of the codes within the limit the one of the fewest bits; `None`: there is none.

    Args:
        code: parameters as a function of size and trade.
        sizes: in their order, until `PATIENCE` of them on end are worse than the best.
        trades: ascending; of a size the largest within the limit, by bisection, if the first is.
        evaluate, limit: the error of parameters' values, and what is allowed of it.
        like: tensors of the parameters' dtypes and devices.
        bits: what a code costs.
    """
    best: tuple[float, dict[str, Any]] | None = None
    worse = 0
    for size in sizes:
        found = _largest_trade(partial(code, size), trades, lambda coded: evaluate(values_of(coded, like)) <= limit)
        cost = math.inf if found is None else bits(found)
        if found is not None and (best is None or cost < best[0]):
            best, worse = (cost, found), 0
        elif best is not None:
            worse += 1
            if worse == PATIENCE:
                break
    return None if best is None else best[1]


def integers_at(posterior: WeightPosterior, name: str, gone: Tensor, format: FixedPoint, trade: float) -> Quantised:
    """One parameter on the grid of a format, by `quantise`."""
    mean, variance = posterior.mean[name], posterior.variance[name]
    if format.bits == 0 or bool(gone.all()):
        return Quantised(torch.zeros_like(mean, dtype=torch.int64), 0)
    # As fine as the posterior asks for, unless that is finer than `quantise` or the file takes.
    finest = math.ceil(math.log2(float(mean[~gone].abs().max()) / MOST_LEVEL))
    exponent = max(format.exponent, finest, -EXPONENT_OFFSET)
    random = bool((variance > 0).all())
    levels = quantise(mean, variance, step=2.0**exponent, trade=trade if random else 0.0, fixed=gone)
    return Quantised(levels, exponent)


def finely_rounded(posterior: WeightPosterior, name: str, gone: Tensor, spread: float | None = None) -> Quantised:
    """One parameter rounded to its grid, of a fine spread unless one is given: for what stands beside another code."""
    format = width(posterior, name, gone, FINE if spread is None else spread, fixed_point)
    return integers_at(posterior, name, gone, format, 0.0)


def values_of(integers: Mapping[str, Any], like: Values) -> dict[str, Tensor]:
    """The parameters that integers or places in a codebook stand for."""
    return {name: q.value(like[name]) for name, q in integers.items()}


def bits_of(integers: Mapping[str, Any]) -> float:
    """The entropies of parameters, integers or places in a codebook, each by itself."""
    return sum(entropy(q.levels) for q in integers.values())


def entropy(levels: Tensor) -> float:
    """The empirical entropy of integers in a range of some thousands, in bits, times their number."""
    flat = levels.flatten()
    counts = torch.bincount(flat - flat.min()).double() if len(flat) else torch.ones(1).double()
    counts = counts[counts > 0]
    return float(-(counts * (counts / counts.sum()).log2()).sum())


def _largest_trade(
    code: Callable[[float], dict[str, Any]], trades: Sequence[float], good: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    def tried(trade: float) -> dict[str, Any] | None:
        coded = code(trade)
        return coded if good(coded) else None

    found, low, high = tried(trades[0]), 0, len(trades)
    while found is not None and high - low > 1:
        middle = (low + high) // 2
        other = tried(trades[middle])
        if other is None:
            high = middle
        else:
            found, low = other, middle
    return found
