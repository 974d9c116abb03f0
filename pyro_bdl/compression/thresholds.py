"""Thresholds on what is pruned, log alpha or another score, chosen on validation data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyro_bdl.compression.pruning import kept_at
from pyro_bdl.compression.units.unit_groups import Units
from pyro_bdl.compression.validation import standard_error
from pyro_bdl.errors import InputError, NumericalError

Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class Thresholds:
    """What `choose_thresholds` found.

    Attributes:
        by_name: for each group or weight tensor, the score above which it is pruned (infinite: kept whole).
        kept: the masks that these thresholds give.
        error, unpruned: validation error with these masks and with none.
        tolerance: how much more error was allowed.
        evaluations: how often the network was evaluated.
    """

    by_name: Mapping[str, float]
    kept: Masks
    error: float
    unpruned: float
    tolerance: float
    evaluations: int


def choose_thresholds(
    scores: Mapping[str, Tensor],
    evaluate: Callable[[Masks], float],
    *,
    tolerance: float | None = None,
    points: int | None = None,
    units: Units | None = None,
    max_evaluations: int = 100,
) -> Thresholds:
    r"""The thresholds that prune the most at a validation error of at most :math:`e_0 + \tau`.

    First a threshold common to all, by bisection over the scores' ranks; then, for each group in the order of what is
    left in it, the group's own by bisection between the common one and its lowest score. The error need not grow with
    what is pruned: the answer is always one of the masks that were evaluated and found good enough. Nothing is random.

    Args:
        scores: the higher, the sooner it is pruned: log alpha by group (`unit_log_alpha`) or by weight tensor
            (`weight_log_alpha`), or what `unit_information` tells, with the other sign.
        evaluate: the validation error, a fraction in [0, 1], of the network with these masks.
        tolerance: :math:`\tau`. Default: one standard error of the validation error,
            :math:`\sqrt{p (1 - p) / n}` with :math:`p = (n e_0 + 1) / (n + 2)`, as a smaller difference is noise of the
            validation set (the one-standard-error rule of Breiman et al. 1984, section 3.4.3).
        points: n, the number of validation points; needed for the default tolerance only.
        units: where the scores are of groups, so that an input of a linear layer goes with its channel.
        max_evaluations: at which the search ends with the best found. Default 100: about 10 for the common threshold
            and as many for each group of a network with ten groups.

    Raises:
        InputError: no scores, NaN among them; neither tolerance nor points; a tolerance below zero.
        NumericalError: an error that is not in [0, 1].

    >>> scores = {"fc1": torch.tensor([-3.0, -1.0, 2.0, 4.0])}
    >>> error = lambda kept: 0.0 if kept["fc1"][:2].all() else 0.5       # the first two are needed
    >>> choose_thresholds(scores, error, tolerance=0.01).kept
    {'fc1': tensor([ True,  True, False, False])}
    """
    _check(scores, tolerance, points, max_evaluations)
    search = _Search({name: score.detach().double().cpu() for name, score in scores.items()}, evaluate, units)
    everything = dict.fromkeys(scores, math.inf)
    unpruned = search.error(everything)
    if tolerance is None:
        tolerance = standard_error(unpruned, points or 1)
    search.limit, search.budget = unpruned + tolerance, max_evaluations

    levels = _levels(torch.cat([score.flatten() for score in search.scores.values()]))
    common = search.bisect(levels, lambda level: dict.fromkeys(scores, level))
    best: dict[str, float] = dict.fromkeys(scores, common)
    left = search.masks(best)
    for name in sorted(scores, key=lambda name: -int(left[name].sum())):
        own = [best[name], *(level for level in _levels(search.scores[name]) if level < best[name])]
        best[name] = search.bisect(own, partial(_with, best, name))
    return Thresholds(best, search.masks(best), search.error(best), unpruned, tolerance, search.evaluations)


def _with(thresholds: Mapping[str, float], name: str, level: float) -> dict[str, float]:
    return {**thresholds, name: level}


class _Search:
    """Evaluated masks, each once."""

    def __init__(self, scores: dict[str, Tensor], evaluate: Callable[[Masks], float], units: Units | None) -> None:
        self.scores, self.evaluate, self.units = scores, evaluate, units
        self.limit, self.budget = math.inf, 1
        self.known: dict[bytes, float] = {}

    @property
    def evaluations(self) -> int:
        return len(self.known)

    def masks(self, thresholds: Mapping[str, float]) -> dict[str, Tensor]:
        """As `keep_below`, but nobody is told of what these candidates would cut to nothing."""
        return kept_at(self.scores, thresholds, units=self.units)[0]

    def error(self, thresholds: Mapping[str, float]) -> float:
        masks = self.masks(thresholds)
        key = b"".join(mask.numpy().tobytes() for mask in masks.values())
        if key not in self.known:
            error = float(self.evaluate(masks))
            if not 0 <= error <= 1:
                raise NumericalError(f"the validation error: expected a fraction in [0, 1], got {error}")
            self.known[key] = error
        return self.known[key]

    def bisect(self, levels: list[float], thresholds: Callable[[float], Mapping[str, float]]) -> float:
        """The lowest level that is good enough, if the error grows as the level falls; the first is good enough."""
        good, bad = 0, len(levels)
        while bad - good > 1 and self.evaluations < self.budget:
            middle = (good + bad) // 2
            if self.error(thresholds(levels[middle])) <= self.limit:
                good = middle
            else:
                bad = middle
        return levels[good]


def _levels(scores: Tensor) -> list[float]:
    """Thresholds from infinity down, each of which prunes one more distinct score; none prunes the lowest."""
    return [math.inf, *scores.unique().flip(0).tolist()[1:]]


def _check(scores: Mapping[str, Tensor], tolerance: float | None, points: int | None, max_evaluations: int) -> None:
    if not scores or any(not score.numel() or bool(score.isnan().any()) for score in scores.values()):
        raise InputError("the scores", expected="numbers", got="none, or NaN")
    if tolerance is None and (points is None or points < 1):
        raise InputError("tolerance", expected="a tolerance, or the number of validation points", got="neither")
    if tolerance is not None and not tolerance >= 0:
        raise InputError("tolerance", expected="a number that is not negative", got=f"{tolerance}")
    if max_evaluations < 1:
        raise InputError("max_evaluations", expected="at least 1", got=f"{max_evaluations}")
