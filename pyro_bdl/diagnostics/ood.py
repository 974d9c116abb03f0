"""What kind of uncertainty a classifier has, and whether it tells strange inputs from familiar ones.

With class probabilities p_s of draws s = 1..S and their mean p (Depeweg et al. 2018, section 2; in nats):

    predictive entropy   H[p]                = - sum_k p_k log p_k        all of the uncertainty
    expected entropy     1/S sum_s H[p_s]                                 what remains if the weights were known
    mutual information   H[p] - 1/S sum_s H[p_s]                          what the weights' posterior adds

Any of them is a score for being out of distribution: higher is stranger. The area under curves takes two such arrays.
"""

from typing import Any

import numpy as np

from pyro_bdl.diagnostics.arrays import (
    Floats,
    as_floats,
    as_probabilities,
    mean_probabilities,
    require_in_unit_interval,
)


def predictive_entropy(probs: Any) -> Floats:
    """The entropy of the mean over draws, in [0, log classes] nats.

    Args:
        probs: (draws, N, classes), or their mean (N, classes).

    Returns:
        (N,).

    Raises:
        InputError: no probabilities.

    >>> predictive_entropy([[[1.0, 0.0]], [[0.0, 1.0]]]).round(4)
    array([0.6931])
    """
    return _entropy(mean_probabilities(probs))


def expected_entropy(probs: Any) -> Floats:
    """The mean over draws of the entropy, in nats.

    Args:
        probs: (draws, N, classes).

    Returns:
        (N,).

    Raises:
        InputError: no probabilities, or no axis of draws.
    """
    return _entropy(as_probabilities(probs, draws=True)).mean(0)


def mutual_information(probs: Any) -> Floats:
    """Of label and weights, in nats: the disagreement between draws.

    Args:
        probs: (draws, N, classes).

    Returns:
        (N,), not negative.

    Raises:
        InputError: no probabilities, or no axis of draws.

    >>> mutual_information([[[1.0, 0.0]], [[0.0, 1.0]]]).round(4)
    array([0.6931])
    """
    p = as_probabilities(probs, draws=True)
    return np.maximum(_entropy(p.mean(0)) - _entropy(p).mean(0), 0.0)  # not negative but for rounding


def auroc(inside: Any, outside: Any) -> float:
    """The area under the receiver operating characteristic: how often an outside point scores above an inside one.

    Ties count half; 0.5 is guessing.

    Args:
        inside: scores of inputs like the training data, (N,).
        outside: scores of other inputs, (M,); higher is stranger.

    Raises:
        InputError: scores that are empty, not finite or no vector.

    >>> auroc([0.1, 0.2, 0.3], [0.25, 0.9])
    0.8333333333333334
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(inside, outside)))


def aupr(inside: Any, outside: Any) -> float:
    """The area under precision over recall, as average precision; the outside points are the ones to be found.

    It depends on how many there are of each kind: guessing gives M / (N + M).

    Args:
        inside: scores of inputs like the training data, (N,).
        outside: scores of other inputs, (M,); higher is stranger.

    Raises:
        InputError: scores that are empty, not finite or no vector.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_labelled(inside, outside)))


def false_positive_rate(inside: Any, outside: Any, *, accepted: float = 0.95) -> float:
    """How many outside points pass for inside ones when 95% of those pass (FPR95; Liang, Li & Srikant 2018).

    Args:
        inside: scores of inputs like the training data, (N,).
        outside: scores of other inputs, (M,); higher is stranger.
        accepted: the share of inside points to be accepted at least.

    Raises:
        InputError: scores that are empty, not finite or no vector; a share outside (0, 1).

    >>> false_positive_rate([0.1, 0.2, 0.3, 0.4], [0.25, 0.9], accepted=0.75)
    0.5
    """
    require_in_unit_interval("accepted", accepted)
    familiar, strange = _scores("inside", inside), _scores("outside", outside)
    threshold = np.quantile(familiar, accepted, method="inverted_cdf")
    return float((strange <= threshold).mean())


def _entropy(p: Floats) -> Floats:
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), -1)


def _scores(what: str, value: Any) -> Floats:
    return as_floats(what, value, shape="(N,)", ndim=1)


def _labelled(inside: Any, outside: Any) -> tuple[Floats, Floats]:
    familiar, strange = _scores("inside", inside), _scores("outside", outside)
    return np.repeat([0.0, 1.0], [len(familiar), len(strange)]), np.concatenate([familiar, strange])
