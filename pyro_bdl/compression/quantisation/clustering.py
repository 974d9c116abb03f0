r"""k-means on a line, one cluster at zero.

.. math:: \min_{c_1, \ldots, c_K} \sum_i a_i \min\bigl(x_i^2,\ (x_i - c_1)^2, \ldots, (x_i - c_K)^2\bigr)

With :math:`a_i = 1 / \sigma_i^2` this is the Hessian-weighted k-means of Choi, El-Khamy & Lee 2017 (section 3.3), the
posterior's precision in the place of the curvature, and with the zero that pruned weights need.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_bdl.errors import InputError

GROUPS = 512
ROUNDS = 100
Floats = NDArray[np.float64]


def k_means(values: Tensor, weights: Tensor, clusters: int) -> Tensor:
    r"""The centres other than zero.

    On a line the members of a cluster stand side by side, so that the least sum is found by dynamic programming over
    where each begins (Wang & Song 2011, here with a cluster whose centre is fixed). That is done, exactly, for up to
    512 values. More of them are gathered in as many groups first, half by rank and half by value, and Lloyd's
    iteration over all of them follows.

    Args:
        values: x, any shape.
        weights: a, of the same shape, not negative.
        clusters: K, at least 0; at most so many centres are found.

    Returns:
        The centres, ascending, float64 of shape (K,) or fewer: none is without members of positive weight.

    Raises:
        InputError: numbers that are not finite, shapes that differ, a negative weight or number of clusters.

    >>> k_means(torch.tensor([-1.1, -0.9, 0.01, 0.0, 2.0]), torch.tensor([1.0, 1.0, 9.0, 9.0, 1.0]), 2)
    tensor([-1.,  2.], dtype=torch.float64)
    """
    _check(values, weights, clusters)
    order = values.detach().double().cpu().reshape(-1).numpy().argsort(kind="stable")
    x = values.detach().double().cpu().reshape(-1).numpy()[order]
    a = weights.detach().double().cpu().reshape(-1).numpy()[order]
    scale, most = float(np.abs(x).max(initial=0.0)), float(a.max(initial=0.0))
    if clusters == 0 or scale == 0.0 or most == 0.0:
        return torch.zeros(0, dtype=torch.float64)
    x, a = x / scale, a / most
    groups = _groups(x, a)
    cuts, at_zero = _best_cuts(_moments(x, a)[:, groups], clusters)
    centres = _centres(x, a, groups[cuts], at_zero)
    for _ in range(ROUNDS):
        at_zero = int(np.searchsorted(centres, 0.0))
        table = np.insert(centres, at_zero, 0.0)
        inner = np.searchsorted(x, 0.5 * (table[1:] + table[:-1]))
        after = _centres(x, a, np.concatenate([[0], inner, [len(x)]]), at_zero)
        if np.array_equal(after, centres):
            break
        centres = after
    return torch.from_numpy(centres * scale)


def _moments(x: Floats, a: Floats) -> Floats:
    """Sums of a, a x and a x^2 over all before each place, (3, n + 1)."""
    return np.concatenate([np.zeros((3, 1)), np.cumsum([a, a * x, a * x * x], axis=1)], axis=1)


def _groups(x: Floats, a: Floats) -> NDArray[np.int64]:
    """Where the groups begin and end: between distinct values, each of them if there are few."""
    places = np.flatnonzero(np.diff(x) > 0) + 1
    if len(places) >= GROUPS:
        by_value = np.searchsorted(x, np.linspace(x[0], x[-1], GROUPS // 2))
        total = np.cumsum(a)
        by_rank = np.searchsorted(total, np.linspace(0, total[-1], GROUPS // 2))
        places = np.unique(np.concatenate([by_value, by_rank]))
    return np.unique(np.concatenate([[0], places, [len(x)]])).astype(np.int64)


def _best_cuts(moments: Floats, clusters: int) -> tuple[NDArray[np.int64], int]:
    """Where the clusters begin and end among the groups, and which of them is that of zero.

    With C(i, j) the sum over the groups i to j around their own mean, Z(i, j) that around zero, and D_t(j), E_t(j) the
    least sums over all before j by t clusters, without and with that of zero,

        D_t(j) = min_i D_{t-1}(i) + C(i, j),    E_t(j) = min(min_i E_{t-1}(i) + C(i, j), min_i D_t(i) + Z(i, j)).
    """
    s0, s1, s2 = (m[None, :] - m[:, None] for m in moments)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(s0 > 0, np.maximum(s2 - s1 * s1 / s0, 0.0), 0.0)
    backward = np.tri(len(s0), k=-1, dtype=bool)
    own[backward] = s2[backward] = np.inf
    without = np.where(np.arange(len(s0)) == 0, 0.0, np.inf)
    grown = with_zero = np.full(len(s0), np.inf)
    steps = []
    for t in range(min(clusters, len(s0) - 1) + 1):
        came = grew = np.zeros(len(s0), dtype=np.int64)
        if t:
            (without, came), (grown, grew) = _least(without, own), _least(with_zero, own)
        closed, zero_from = _least(without, s2)
        steps.append((came, grew, zero_from, closed <= grown))
        with_zero = np.minimum(closed, grown)
    cuts, at_zero = [len(s0) - 1], -1
    for t in range(len(steps) - 1, -1, -1):
        came, grew, zero_from, closes = steps[t]
        if at_zero < 0 and closes[cuts[-1]]:
            cuts.append(int(zero_from[cuts[-1]]))
            at_zero = t  # as many clusters are below it
        if t:
            cuts.append(int((grew if at_zero < 0 else came)[cuts[-1]]))
    return np.array(cuts[::-1]), at_zero


def _least(before: Floats, costs: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """For each j the least of before(i) + costs(i, j), and its i."""
    sums = before[:, None] + costs
    best = sums.argmin(0)
    return np.take_along_axis(sums, best[None], 0)[0], best


def _centres(x: Floats, a: Floats, cuts: NDArray[np.int64], at_zero: int) -> Floats:
    """Means of the clusters between these cuts but for that of zero, ascending; of those that have members."""
    some = np.diff(cuts) > 0
    sums = np.add.reduceat(a, cuts[:-1][some]), np.add.reduceat(a * x, cuts[:-1][some])
    own = (np.flatnonzero(some) != at_zero) & (sums[0] > 0)
    means = np.unique(sums[1][own] / sums[0][own])
    return means[means != 0]


def _check(values: Tensor, weights: Tensor, clusters: int) -> None:
    if not isinstance(clusters, int) or isinstance(clusters, bool) or clusters < 0:
        raise InputError("clusters", expected="an integer, 0 or more", got=repr(clusters))
    if weights.shape != values.shape:
        raise InputError("the weights", expected=f"shape {tuple(values.shape)}", got=f"shape {tuple(weights.shape)}")
    if not bool(torch.isfinite(values).all() & torch.isfinite(weights).all()):
        raise InputError("values and weights", expected="finite numbers", got="NaN or infinity")
    if bool((weights < 0).any()):
        raise InputError("the weights", expected="no negative numbers", got=f"{float(weights.min())}")
