r"""Weights to integers: what is near enough to the posterior, at the fewest bits.

A posterior N(mu, sigma^2) says what a deviation of a weight costs, and an entropy coder what a value costs. The integer
k that stands for the weight k d minimises their sum,

.. math:: \frac{(k d - \mu)^2}{2 \sigma^2} - \lambda \log p(k)

with p the frequencies of the chosen integers themselves (entropy-constrained scalar quantisation: Chou, Lookabaugh &
Gray 1989, with the posterior's precision as the weight of the distortion). A weight that is mostly noise becomes 0, the
most frequent and cheapest of all, without a threshold.
"""

import math

import torch
from torch import Tensor

from pyro_bdl.errors import InputError

MOST_LEVEL = 2048
CHUNK = 1 << 22
FEW = 1 << 14  # comparisons that are sooner made than avoided


def quantise(
    mean: Tensor, variance: Tensor, *, step: float, trade: float = 1.0, rounds: int = 8, fixed: Tensor | None = None
) -> Tensor:
    r"""The integers :math:`k` of weights :math:`k d`.

    Integers and frequencies are found in turn, from plain rounding on: given :math:`p(k) \propto n_k + 1/2` of the
    integers so far, each weight takes the best of all integers between the lowest and the highest mean. Neither step
    can raise the sum over all weights but for the 1/2, so it settles.

    Args:
        mean, variance: of the weights, of one shape.
        step: d, the distance of neighbouring values.
        trade: lambda, the nats of posterior density that one nat of code is worth. Default 1: the least description
            length when the posterior's KL had weight one; 0 is plain rounding.
        rounds: alternations between integers and their frequencies. Default 8, after which hardly any weight moves.
        fixed: a bool mask of the weights that are 0 whatever they cost (pruned before).

    Returns:
        int64, of the shape of `mean`.

    Raises:
        InputError: a step or trade out of range, numbers that are not finite, a variance that is not positive where
            trade is, or a step so small that a mean is more than 2048 of it.

    >>> mean, variance = torch.tensor([1.04, 0.02, -0.03, -0.3]), torch.tensor([1e-4, 1.0, 1.0, 1.0])
    >>> quantise(mean, variance, step=0.1, trade=0.0)
    tensor([10,  0,  0, -3])
    >>> quantise(mean, variance, step=0.1)
    tensor([10,  0,  0,  0])
    """
    free = _free(mean, variance, fixed)
    levels = torch.zeros(mean.shape, dtype=torch.int64, device=mean.device)
    _check(mean[free], variance[free], step, trade)
    flat = mean[free].double() / step
    chosen = flat.round().long()
    if trade > 0 and len(flat):
        # The square of a ratio: the square of a small step alone might be 0.
        spread = (variance[free].double().sqrt() / step).square().clamp_min(1e-290)
        chosen = _settle(flat, spread, chosen, trade, rounds)
    levels[free] = chosen
    return levels


def nats(counts: Tensor) -> Tensor:
    """-log p of each symbol, by how often it is taken; one that nobody takes is offered as if half a weight did."""
    counts = counts + 0.5
    return -(counts / counts.sum()).log()


def _settle(mean: Tensor, variance: Tensor, levels: Tensor, trade: float, rounds: int) -> Tensor:
    """The integers when they no longer change, or after so many rounds; all in units of the step."""
    lowest, highest = min(int(levels.min()), 0), max(int(levels.max()), 0)
    values = torch.arange(lowest, highest + 1, dtype=torch.float64, device=mean.device)
    rounded = levels - lowest
    for _ in range(rounds):
        costs = trade * nats(torch.bincount(levels - lowest, minlength=len(values)).double())
        after = _best(mean, variance, rounded, values, costs) + lowest
        if torch.equal(levels, after):
            break
        levels = after
    return levels


def nearest(mean: Tensor, variance: Tensor, values: Tensor, costs: Tensor) -> Tensor:
    """Which of the values has the least sum of deviation and cost, for each mean."""
    return _cheapest(mean, variance, values, costs, torch.arange(len(values), device=mean.device))


def _best(mean: Tensor, variance: Tensor, rounded: Tensor, values: Tensor, costs: Tensor) -> Tensor:
    """Which of the values is the best for each weight, given which is its nearest.

    That is the most frequent one, of the cost c, where its deviation and c together are less than all other costs, as
    for weights that are mostly noise. The other weights are taken together by their nearest value, as they have the
    same few candidates. Where there are few comparisons, all are made.
    """
    if len(values) == 1 or len(mean) * len(values) <= FEW:
        return nearest(mean, variance, values, costs)
    frequent = int(costs.argmin())
    rest = torch.cat([costs[:frequent], costs[frequent + 1 :]])
    unsure = (mean - values[frequent]).square_().div_(2.0 * variance) + costs[frequent] >= rest.min()
    result = torch.full_like(rounded, frequent)
    where = unsure.nonzero().flatten()
    order = rounded[where].argsort()
    where = where[order]
    near, sizes = (found.tolist() for found in rounded[where].unique_consecutive(return_counts=True))
    for k, rows in zip(near, where.split(sizes), strict=True):
        result[rows] = _cheapest(mean[rows], variance[rows], values, costs, _candidates(costs, k))
    return result


def _candidates(costs: Tensor, nearest: int) -> Tensor:
    """Which integers can be the best for a weight, given its nearest: those that cost less than all between the two.

    For others there is one that is as near or nearer and costs no more. Where 0 is the most frequent integer, these are
    hardly more than those between 0 and the nearest; for weights of less than half a step it is 0 alone.
    """
    below, above = costs[: nearest + 1].flip(0), costs[nearest:]
    down = (below[1:] <= below.cummin(0).values[:-1]).nonzero().flatten() + 1
    up = (above[1:] < above.cummin(0).values[:-1]).nonzero().flatten() + 1
    return torch.cat([nearest - down.flip(0), down.new_tensor([nearest]), nearest + up])


def _cheapest(mean: Tensor, variance: Tensor, values: Tensor, costs: Tensor, candidates: Tensor) -> Tensor:
    """Which of the candidates has the least sum of deviation and cost, in chunks of bounded memory."""
    values, costs = values[candidates], costs[candidates]
    rows = max(1, CHUNK // len(values))
    parts = [
        ((m[:, None] - values).square_().div_(2.0 * v[:, None]) + costs).argmin(1)
        for m, v in zip(mean.split(rows), variance.split(rows), strict=True)
    ]
    return candidates[torch.cat(parts)]


def _free(mean: Tensor, variance: Tensor, fixed: Tensor | None) -> Tensor:
    if variance.shape != mean.shape:
        raise InputError("the variance", expected=f"shape {tuple(mean.shape)}", got=f"shape {tuple(variance.shape)}")
    if fixed is None:
        return torch.ones_like(mean, dtype=torch.bool)
    if fixed.dtype != torch.bool or fixed.shape != mean.shape:
        raise InputError(
            "fixed", expected=f"a bool mask of shape {tuple(mean.shape)}",
            got=f"{fixed.dtype} of shape {tuple(fixed.shape)}",
        )  # fmt: skip
    return ~fixed.to(mean.device)


def _check(mean: Tensor, variance: Tensor, step: float, trade: float) -> None:
    if not 0 < step < math.inf:
        raise InputError("step", expected="a positive number", got=repr(step))
    if not 0 <= trade < math.inf:
        raise InputError("trade", expected="a number, 0 or more", got=repr(trade))
    if not bool(torch.isfinite(mean).all() & torch.isfinite(variance).all()):
        raise InputError("the posterior", expected="finite numbers", got="NaN or infinity")
    if trade and not bool((variance > 0).all()):
        raise InputError(
            "the posterior", expected="positive variances", got="a variance of zero",
            remedy="Without scales nothing says what a deviation costs: take trade=0",
        )  # fmt: skip
    if mean.numel() and float(mean.abs().max()) / step > MOST_LEVEL:
        raise InputError("step", expected=f"at least {float(mean.abs().max()) / MOST_LEVEL:.3g}", got=f"{step:.3g}")
