"""Tests of hypotheses whose false-alarm probability is bounded, for stochastic tests.

Each check is given independent samples of a claimed law and raises `Mismatch` when the samples would be so extreme with
a probability of at most `FALSE_ALARM` if the claim were true. Where a check makes several comparisons, the bound holds
for all of them together (Bonferroni). So no seed need be chosen: a failure is a finding. The docstrings say
which error of the law a check of n samples finds nearly always.

    mean_is(draws, 0.0, sd=1.0)             # passes for right draws but for one run in a million
    with pytest.raises(Mismatch):           # a mutant must be caught
        mean_is(wrong_draws, 0.0, sd=1.0)
"""

import math
from typing import Any

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6


class Mismatch(AssertionError):
    """Samples that are too unlikely under the claimed law."""


def require(p_value: Any, what: str, *, comparisons: int | None = None) -> None:
    """Raise unless the smallest of these p-values, times their number, is above `FALSE_ALARM` (NaN raises)."""
    p = np.atleast_1d(np.asarray(p_value, dtype=float))
    smallest, comparisons = p.min(), comparisons or p.size
    if not smallest * comparisons > FALSE_ALARM:
        raise Mismatch(f"{what}: p = {smallest:.3g} in {comparisons} comparison(s), bound {FALSE_ALARM:g}")


def two_sided(z: Any) -> np.ndarray:
    """The probability of a standard normal number at least as far from 0 as z."""
    return 2 * stats.norm.sf(np.abs(np.asarray(z, dtype=float)))


def z_score(samples: Any, expected: Any, *, sd: Any = None) -> np.ndarray:
    """(mean - expected) / standard error along axis 0; with the samples' own deviation unless `sd` is given."""
    samples = _array(samples)
    sd = samples.std(0, ddof=1) if sd is None else _array(sd)
    return (samples.mean(0) - _array(expected)) / (sd / math.sqrt(len(samples)))


def mean_is(samples: Any, expected: Any, *, sd: Any = None) -> None:
    """The mean of each component (axes after the first) is `expected`.

    A z-test if the deviation `sd` of one sample is known, else Student's t-test. Exact for normal samples; else n
    should be in the thousands. Finds a shift of 7 sd / sqrt(n).
    """
    samples = _array(samples)
    z = z_score(samples, expected, sd=sd)
    require(two_sided(z) if sd is not None else 2 * stats.t.sf(np.abs(z), len(samples) - 1), "mean")


def means_agree(a: Any, b: Any) -> None:
    """Two independent sets of samples have the same means (axes after the first). Welch's z-test, n in the hundreds."""
    a, b = _array(a), _array(b)
    error = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    require(two_sided((a.mean(0) - b.mean(0)) / error), "difference of means")


def variance_is(samples: Any, expected: Any, *, mean: Any) -> None:
    """Normal samples of known mean have this variance, component by component. Chi-squared, exact.

    Finds a factor of 1 + 10 / sqrt(n) on the variance: at n = 20,000 a deviation 3.6% too large.
    """
    samples = _array(samples)
    squares = (np.square(samples - _array(mean)) / _array(expected)).sum(0)
    n = len(samples)
    require(2 * np.minimum(stats.chi2.cdf(squares, n), stats.chi2.sf(squares, n)), "variance")


def chi_squared_covariance(samples: Any, *, mean: Any, covariance: Any) -> None:
    """Normal samples (n, d) of known mean have this covariance (d, d).

    The samples are whitened with the claimed covariance. Then the sum of all squares is chi-squared with n d degrees of
    freedom, the squares of each direction are chi-squared with n, and each pair of directions is uncorrelated (a normal
    approximation: n in the thousands). Finds a deviation wrong by a factor of 1 + 5 / sqrt(n) in some direction.
    """
    white = whiten(samples, mean=mean, covariance=covariance)
    n, d = white.shape
    squares = np.square(white).sum(0)
    total = squares.sum()
    p = [2 * min(stats.chi2.cdf(total, n * d), stats.chi2.sf(total, n * d))]
    p += list(2 * np.minimum(stats.chi2.cdf(squares, n), stats.chi2.sf(squares, n)))
    i, j = np.triu_indices(d, 1)
    p += list(two_sided((white.T @ white)[i, j] / math.sqrt(n)))
    require(p, "covariance")


def whiten(samples: Any, *, mean: Any, covariance: Any) -> np.ndarray:
    """Samples (n, d) times the inverse of the covariance's Cholesky factor: uncorrelated, of variance 1."""
    factor = np.linalg.cholesky(_array(covariance))
    return np.linalg.solve(factor, (_array(samples) - _array(mean)).T).T


def ks_normal(samples: Any, *, mean: Any = 0.0, sd: Any = 1.0) -> None:
    """Kolmogorov-Smirnov: each component (axis 1, if there is one) is normal with this mean and deviation."""
    samples = (_array(samples) - _array(mean)) / _array(sd)
    require([stats.kstest(c, "norm").pvalue for c in samples.reshape(len(samples), -1).T], "normal law")


def ks_uniform(samples: Any) -> None:
    """Kolmogorov-Smirnov: each component (axis 1, if there is one) is uniform on [0, 1]."""
    samples = _array(samples)
    require([stats.kstest(c, "uniform").pvalue for c in samples.reshape(len(samples), -1).T], "uniform law")


def ks_cdf(samples: Any, cdf: Any) -> None:
    """Kolmogorov-Smirnov: the samples (n,) have this distribution function."""
    require(stats.kstest(_array(samples), cdf).pvalue, "law")


def proportion_is(successes: int, trials: int, probability: float) -> None:
    """So many successes in so many independent trials of this probability. Binomial, exact."""
    require(stats.binomtest(int(successes), int(trials), probability).pvalue, "proportion")


def _array(values: Any) -> np.ndarray:
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=np.float64)
