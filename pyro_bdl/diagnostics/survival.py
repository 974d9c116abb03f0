"""Whether predicted survival probabilities are those that happen, with censored times.

Survival probabilities S(t | x) are those of the posterior predictive: the mean over draws, where there are any.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

from pyro_bdl.diagnostics.arrays import Floats, as_floats, as_numpy, require_in_unit_interval, require_shape
from pyro_bdl.errors import InputError
from pyro_bdl.number_checks import require_count


class KaplanMeier(NamedTuple):
    """An estimate of the survival function of a group at one time, with a confidence interval."""

    estimate: float
    low: float
    high: float


def kaplan_meier(time: Any, event: Any, at: float, *, level: float = 0.95) -> KaplanMeier:
    r"""The share of a group without an event until a time, from censored times.

    .. math:: \hat S(t) = \prod_{t_i \le t} \Big(1 - \frac{d_i}{n_i}\Big)

    (Kaplan & Meier 1958), with Greenwood's interval on the scale of log(-log S), as `scipy.stats.ecdf` has it.

    Args:
        time: of events and censorings (N,), positive.
        event: 1 or True for an event, 0 or False for a censored time, (N,).
        at: the time t.
        level: of the interval. Default 0.95.

    Returns:
        The estimate; where it is 0 or 1 the interval that the formula lacks is Clopper and Pearson's, as if nobody
        were censored.

    Raises:
        InputError: times that are not positive, a time t that is negative or no number, events that are not 0 or 1,
            shapes that do not match.

    >>> kaplan_meier([1.0, 2.0, 3.0, 4.0], [1, 0, 1, 1], at=3.5).estimate  # 3/4 * 1/2
    0.375
    """
    require_in_unit_interval("level", level)
    t, happened = _observed(time, event)
    if not 0 <= at < np.inf:
        raise InputError("at", expected="a finite time from 0 upwards", got=repr(at))
    from scipy import stats

    curve = stats.ecdf(stats.CensoredData.right_censored(t, ~happened)).sf
    estimate = float(curve.evaluate(at))
    if estimate in (0.0, 1.0):
        alive = round(estimate * len(t))
        exact = stats.binomtest(alive, len(t)).proportion_ci(level)
        return KaplanMeier(estimate, float(exact.low), float(exact.high))
    with warnings.catch_warnings():  # about the times at which the estimate is 0 or 1
        warnings.filterwarnings("ignore", message="The confidence interval is undefined", category=RuntimeWarning)
        band = curve.confidence_interval(level, method="log-log")
    low, high = float(band.low.evaluate(at)), float(band.high.evaluate(at))
    return KaplanMeier(estimate, low, high)


class Reliability(NamedTuple):
    """Groups of subjects with similar predictions at one time: what was predicted, and what happened, (groups,).

    Attributes:
        predicted: the mean survival probability in each group.
        predicted_band: its central band over the posterior draws, (2, groups).
        observed: the Kaplan-Meier estimate.
        observed_band: its confidence interval, (2, groups).
        counts: subjects in each group.
    """

    predicted: Floats
    predicted_band: Floats
    observed: Floats
    observed_band: Floats
    counts: Floats

    @property
    def error(self) -> float:
        """The mean of |predicted - observed|, weighed by the groups' sizes."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.counts))

    @property
    def coverage(self) -> float:
        """The share of groups whose interval of what happened holds what was predicted."""
        low, high = self.observed_band
        return float(((low <= self.predicted) & (self.predicted <= high)).mean())


def survival_reliability(
    survival: Any, time: Any, event: Any, at: float, *, groups: int = 10, level: float = 0.95
) -> Reliability:
    """Predicted survival probabilities at a time against the Kaplan-Meier estimates of groups.

    Args:
        survival: predicted P(T > at) of each subject under each posterior draw, (draws, N), or (N,).
        time: of events and censorings (N,), positive.
        event: 1 or True for an event, 0 or False for a censored time, (N,).
        at: the time, in their unit.
        groups: how many, of equal size, in the order of the predictions. Default 10.
        level: of the bands. Default 0.95.

    Raises:
        InputError: probabilities outside [0, 1], fewer subjects than groups, or as `kaplan_meier`.

    >>> r = survival_reliability([0.5, 0.5], [1.0, 3.0], [1, 1], at=2.0, groups=1)
    >>> float(r.observed[0]), r.error, r.coverage
    (0.5, 0.0, 1.0)
    """
    draws = np.atleast_2d(_probabilities(survival, ndim=(1, 2)))
    p = draws.mean(0)
    t, happened = _observed(time, event)
    require_shape("survival", p, t.shape, "the times")
    if not 1 <= groups <= len(p):
        raise InputError("groups", expected=f"from 1 to {len(p)}, the number of subjects", got=repr(groups))
    parts = np.array_split(np.argsort(p, kind="stable"), groups)
    found = [kaplan_meier(t[rows], happened[rows], at, level=level) for rows in parts]
    of_groups = np.stack([draws[:, rows].mean(1) for rows in parts], axis=1)
    band = np.quantile(of_groups, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    observed, *interval = np.array(found).T
    counts = np.array([float(len(rows)) for rows in parts])
    return Reliability(of_groups.mean(0), band, observed, np.array(interval), counts)


class DCalibration(NamedTuple):
    """Shares of subjects by the survival probability at their own time: equal where calibrated."""

    shares: Floats
    p_value: float


def d_calibration(survival: Any, event: Any, *, bins: int = 10) -> DCalibration:
    r"""The test of distributional calibration of Haider et al. (2020, "Effective ways to build and evaluate individual
    survival distributions", section 3.4).

    Where predictions are right S(t_n | x_n) is uniform at the time of an event. A subject censored at c is spread over
    the probabilities below S(c | x), at which its event would have happened. Pearson's chi-squared of the shares.

    Args:
        survival: S(t_n | x_n) at each subject's own time, (N,).
        event: 1 or True for an event, 0 or False for a censored time, (N,).
        bins: how many of equal width. Default 10.

    Raises:
        InputError: fewer than two bins, probabilities outside [0, 1], events that are not 0 or 1, shapes that do not
            match.

    >>> import numpy as np
    >>> uniform = (np.arange(1000) + 0.5) / 1000
    >>> d_calibration(uniform, np.ones(1000)).p_value, d_calibration(uniform**2, np.ones(1000)).p_value < 1e-6
    (1.0, True)
    """
    s = _probabilities(survival)
    happened = _events(event, s.shape)
    require_count("bins", bins, least=2)
    edges = np.linspace(0, 1, bins + 1)
    own = np.clip(np.searchsorted(edges, s, side="left") - 1, 0, bins - 1)
    counts = np.bincount(own[happened], minlength=bins).astype(float)
    for value in s[~happened]:  # spread over (0, value]
        counts += np.clip(value - edges[:-1], 0, 1 / bins) / value if value > 0 else np.eye(bins)[0]
    expected = len(s) / bins
    statistic = float(((counts - expected) ** 2 / expected).sum())
    from scipy.stats import chi2

    return DCalibration(counts / len(s), float(chi2.sf(statistic, bins - 1)))


def _observed(time: Any, event: Any) -> tuple[Floats, Any]:
    t = as_floats("time", time, shape="(N,)", ndim=1)
    if t.min() <= 0:
        raise InputError("time", expected="positive times", got=f"{t.min():.4g}")
    return t, _events(event, t.shape)


def _events(event: Any, shape: tuple[int, ...]) -> Any:
    values = as_numpy(event)
    require_shape("event", values, shape, "the times")
    if not np.isin(values, (0, 1)).all():
        raise InputError("event", expected="1 for an event, 0 for a censored time", got="other values")
    return values.astype(bool)


def _probabilities(survival: Any, *, ndim: int | tuple[int, ...] = 1) -> Floats:
    p = as_floats("survival", survival, shape="(N,)" if ndim == 1 else "(N,) or (draws, N)", ndim=ndim)
    if p.min() < 0 or p.max() > 1:
        raise InputError("survival", expected="probabilities in [0, 1]", got=f"[{p.min():.4g}, {p.max():.4g}]")
    return p
