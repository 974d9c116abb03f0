"""How good and how honest a regression's predictive distribution is.

The predictive distribution of point n is a mixture over draws s of Gaussians N(mean[s, n], sd[s, n]^2), or is given by
draws of the target itself. Units are those of the target.
"""

import math
from typing import Any

import numpy as np
import torch

from pyro_bdl.diagnostics.arrays import Floats, as_floats, require_in_unit_interval, require_shape
from pyro_bdl.errors import InputError


def rmse(mean: Any, y: Any) -> float:
    """The root of the mean squared error of a predictive mean (N,), or of the mean over draws of (draws, N).

    Raises:
        InputError: shapes that do not match, numbers that are not finite.

    >>> rmse([1.0, 2.0], [1.0, 4.0])
    1.4142135623730951
    """
    predicted = as_floats("mean", mean, shape="([draws,] N)", ndim=(1, 2))
    predicted = predicted.mean(0) if predicted.ndim == 2 else predicted
    return float(np.sqrt(np.mean((predicted - _targets(y, predicted.shape)) ** 2)))


def mixture_log_likelihood(mean: Any, sd: Any, y: Any) -> float:
    """The mean over n of log 1/S sum_s N(y_n; mean[s, n], sd[s, n]^2), in nats a point.

    Args:
        mean: (draws, N).
        sd: standard deviations of the noise: a number, or an array that broadcasts with (draws, N).
        y: targets (N,).

    Raises:
        InputError: shapes that do not match, numbers that are not finite, a deviation that is not positive.

    >>> mixture_log_likelihood([[0.0], [1.0]], 1.0, [0.5])
    -1.0439385332046727
    """
    m, s, t = _mixture(mean, sd, y)
    terms = -0.5 * ((t - m) / s) ** 2 - np.log(s) - 0.5 * math.log(2 * math.pi)
    return float((np.logaddexp.reduce(terms, 0) - math.log(len(m))).mean())


def mixture_pit(mean: Any, sd: Any, y: Any) -> Floats:
    """The probability integral transform 1/S sum_s Phi((y_n - mean[s, n]) / sd[s, n]): uniform where calibrated.

    Args:
        mean: (draws, N).
        sd: as for `mixture_log_likelihood`.
        y: targets (N,).

    Returns:
        (N,), in [0, 1].

    Raises:
        InputError: as `mixture_log_likelihood`.
    """
    m, s, t = _mixture(mean, sd, y)
    return torch.special.ndtr(torch.from_numpy((t - m) / s)).mean(0).numpy()


def sample_pit(draws: Any, y: Any) -> Floats:
    """The share of draws of the target below it, (rank + 1/2) / (S + 1): uniform on these where calibrated.

    Args:
        draws: posterior predictive draws of the target, with its noise, (draws, N).
        y: targets (N,).

    Returns:
        (N,), in (0, 1); a draw that equals the target counts half.

    Raises:
        InputError: shapes that do not match, numbers that are not finite.

    >>> sample_pit([[0.0], [1.0], [2.0]], [1.5])
    array([0.625])
    """
    values = as_floats("draws", draws, shape="(draws, N)", ndim=2)
    t = _targets(y, values.shape[1:])
    rank = (values < t).sum(0) + 0.5 * (values == t).sum(0)
    return (rank + 0.5) / (len(values) + 1)


def interval_coverage(pit: Any, *, level: float = 0.9) -> float:
    """The share of targets in the central predictive interval of that level: those with |pit - 1/2| <= level/2.

    Args:
        pit: probability integral transforms (N,), of `mixture_pit` or `sample_pit`.
        level: the probability that the interval should hold.

    Raises:
        InputError: no vector of numbers in [0, 1], or a level outside (0, 1).

    >>> interval_coverage([0.01, 0.3, 0.5, 0.94], level=0.9)
    0.75
    """
    require_in_unit_interval("level", level)
    values = as_floats("pit", pit, shape="(N,)", ndim=1)
    if values.min() < 0 or values.max() > 1:
        got = f"[{values.min():.3g}, {values.max():.3g}]"
        raise InputError("pit", expected="numbers in [0, 1]", got=f"numbers in {got}")
    return float((np.abs(values - 0.5) <= level / 2).mean())


def _targets(y: Any, shape: tuple[int, ...]) -> Floats:
    targets = as_floats("y", y, shape="(N,)", ndim=1)
    require_shape("y", targets, shape, "the predictions")
    return targets


def _mixture(mean: Any, sd: Any, y: Any) -> tuple[Floats, Floats, Floats]:
    m = as_floats("mean", mean, shape="(draws, N)", ndim=2)
    s = as_floats("sd", sd, shape="that broadcasts with (draws, N)", ndim=(0, 1, 2))
    if s.min() <= 0:
        raise InputError("sd", expected="positive standard deviations", got=f"{s.min():.4g}")
    try:
        s = np.broadcast_to(s, m.shape)
    except ValueError:
        raise InputError("sd", expected=f"a shape that broadcasts to {m.shape}", got=f"shape {s.shape}") from None
    return m, s, _targets(y, m.shape[1:])
