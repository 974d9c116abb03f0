"""The integers that parameters become: the shortest code whose validation error is within a limit."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_bdl.compression.codec import EXPONENT_OFFSET, Quantised
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.precision import fixed_point
from pyro_bdl.compression.quantising import MOST_LEVEL, quantise
from pyro_bdl.compression.widths import SPREADS, Evaluate, Values, width

PATIENCE = 2
TRADE = 0.2  # without validation data; see `choose_integers`
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
    none is within the limit, the finest step and plain rounding. Without `evaluate`: spread 1, trade 0.2. A trade of 1
    would be the least description length, but draws all weights towards zero at once, which is more than as many
    deviations at random: for 64-32 units on digits the error went from 3.9% (plain rounding) to 32%, and to 7% for a
    fit with half the KL; with 0.2 it did not grow.
    """
    if evaluate is None:
        return _integers(posterior, gone, 1.0 if spread is None else spread, TRADE if trade is None else trade)
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
    return best[1] if best is not None else _integers(posterior, gone, finest, trade or 0.0)


def values_of(integers: Mapping[str, Quantised], like: Values) -> dict[str, Tensor]:
    """The parameters that integers stand for."""
    return {name: q.value(like[name]) for name, q in integers.items()}


def entropy(levels: Tensor) -> float:
    """The empirical entropy of integers in bits, times their number."""
    counts = levels.unique(return_counts=True)[1].double()
    return float(-(counts * (counts / counts.sum()).log2()).sum())


def _largest_trade(
    posterior: WeightPosterior,
    gone: Values,
    spread: float,
    trades: tuple[float, ...],
    evaluate: Evaluate,
    limit: float,
) -> dict[str, Quantised] | None:
    def tried(trade: float) -> dict[str, Quantised] | None:
        integers = _integers(posterior, gone, spread, trade)
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


def _integers(posterior: WeightPosterior, gone: Values, spread: float, trade: float) -> dict[str, Quantised]:
    return {name: _of_one(posterior, name, gone[name], spread, trade) for name in posterior.mean}


def _of_one(posterior: WeightPosterior, name: str, gone: Tensor, spread: float, trade: float) -> Quantised:
    mean, variance = posterior.mean[name], posterior.variance[name]
    format = width(posterior, name, gone, spread, fixed_point)
    if format.bits == 0 or bool(gone.all()):
        return Quantised(torch.zeros_like(mean, dtype=torch.int64), 0)
    # As fine as the posterior asks for, unless that is finer than `quantise` or the file takes.
    finest = math.ceil(math.log2(float(mean[~gone].abs().max()) / MOST_LEVEL))
    exponent = max(format.exponent, finest, -EXPONENT_OFFSET)
    random = bool((variance > 0).all())
    levels = quantise(mean, variance, step=2.0**exponent, trade=trade if random else 0.0, fixed=gone)
    return Quantised(levels, exponent)
