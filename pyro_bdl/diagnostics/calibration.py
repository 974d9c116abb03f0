"""How good and how honest a classifier's predictive probabilities are.

Each function takes probabilities p of shape (N, classes), or (draws, N, classes), of which the posterior predictive
mean over draws is judged, and labels y of shape (N,). Arrays, tensors and nested lists will do.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_bdl.diagnostics.arrays import Floats, Ints, as_labels, mean_probabilities
from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class ReliabilityBins:
    """A classifier's confidence and accuracy by bins of confidence, each of length num_bins; NaN in empty bins."""

    edges: Floats  # num_bins + 1 of them
    count: Ints
    confidence: Floats
    accuracy: Floats


def accuracy(probs: Any, labels: Any) -> float:
    """The share of points whose most probable class is their label.

    Raises:
        InputError: probabilities or labels of a wrong kind, shape or range.

    >>> accuracy([[0.9, 0.1], [0.4, 0.6]], [0, 0])
    0.5
    """
    p, y = _checked(probs, labels)
    return float((p.argmax(-1) == y).mean())


def error_rate(probs: Any, labels: Any) -> float:
    """1 - accuracy.

    Raises:
        InputError: as `accuracy`.
    """
    return 1.0 - accuracy(probs, labels)


def negative_log_likelihood(probs: Any, labels: Any) -> float:
    """The mean of -log p(y_n), in nats a point; infinite where a label was given probability zero.

    A proper score: no other probabilities than the true ones do better on average.

    Raises:
        InputError: as `accuracy`.

    >>> round(negative_log_likelihood([[0.9, 0.1], [0.4, 0.6]], [0, 0]), 4)
    0.5108
    """
    p, y = _checked(probs, labels)
    with np.errstate(divide="ignore"):
        return float(-np.log(p[np.arange(len(y)), y]).mean())


def brier_score(probs: Any, labels: Any) -> float:
    """The mean of sum_k (p_k - [y = k])^2, in [0, 2] (Brier 1950): a proper score without infinities.

    Raises:
        InputError: as `accuracy`.

    >>> round(brier_score([[0.9, 0.1], [0.4, 0.6]], [0, 0]), 2)
    0.37
    """
    p, y = _checked(probs, labels)
    return float(((p - np.eye(p.shape[1])[y]) ** 2).sum(-1).mean())


def reliability_bins(probs: Any, labels: Any, *, num_bins: int = 15) -> ReliabilityBins:
    """Accuracy against confidence in bins of equal width over [0, 1] (Guo et al. 2017, equations 2 and 3).

    The confidence is the probability of the most probable class; bin m holds those in ((m - 1)/M, m/M].

    Args:
        probs: (N, classes) or (draws, N, classes).
        labels: (N,).
        num_bins: M; 15 is Guo et al.'s number.

    Raises:
        InputError: as `accuracy`, or no positive number of bins.
    """
    if not isinstance(num_bins, int) or num_bins < 1:
        raise InputError("num_bins", expected="a positive integer", got=repr(num_bins))
    p, y = _checked(probs, labels)
    confidence, right = np.minimum(p.max(-1), 1.0), p.argmax(-1) == y
    edges = np.linspace(0, 1, num_bins + 1)
    place = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(place, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, weights, num_bins) / count for weights in (confidence, right)]
    return ReliabilityBins(edges, count, *means)


def expected_calibration_error(probs: Any, labels: Any, *, num_bins: int = 15) -> float:
    """sum_m n_m/N |accuracy_m - confidence_m| over the bins of `reliability_bins` (Guo et al. 2017, equation 3).

    It is biased upwards by the noise of few points in a bin, and no proper score: report it beside the log-likelihood.
    It is computed from the bins that the reliability diagram shows, so that number and picture agree.

    Args:
        probs: (N, classes) or (draws, N, classes).
        labels: (N,).
        num_bins: M; 15 is Guo et al.'s number.

    Raises:
        InputError: as `reliability_bins`.

    >>> round(expected_calibration_error([[0.9, 0.1], [0.4, 0.6]], [0, 0]), 2)
    0.35
    """
    bins = reliability_bins(probs, labels, num_bins=num_bins)
    return float(np.nansum(bins.count * np.abs(bins.accuracy - bins.confidence)) / bins.count.sum())


def _checked(probs: Any, labels: Any) -> tuple[Floats, Ints]:
    p = mean_probabilities(probs)
    return p, as_labels(labels, length=p.shape[0], classes=p.shape[1])
