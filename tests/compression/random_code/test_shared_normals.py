import hashlib
import statistics

import numpy as np
import pytest
from numpy.random import Philox
from scipy import special, stats

from pyro_bdl.compression.random_code import shared_normals
from pyro_bdl.compression.random_code.shared_normals import GRID, candidate, candidates, choice_uniform, permutation
from tests.statistics import Mismatch, chi_squared_covariance, ks_normal, ks_uniform, mean_is, require


def all_candidates(seed, block, size, number):
    return np.concatenate([z.copy() for z in candidates(seed, block, size, number)])


def test_the_generator_gives_the_published_integers():
    # Random123's known answer for philox4x64-10, counter and key zero; numpy counts up before it draws.
    drawn = Philox(counter=(1 << 256) - 1, key=0).random_raw(4)
    assert [f"{i:016x}" for i in drawn] == [
        "16554d9eca36314c",
        "db20fe9d672d0fdc",
        "d7e772cee186176b",
        "7e68b68aec7ba23b",
    ]


def test_the_table_does_not_depend_on_the_inverse_normal():
    inverse = statistics.NormalDist().inv_cdf  # another algorithm than scipy's
    exact = np.array([inverse((u + 0.5) / 65536) * 4096 for u in range(65536)])
    assert (np.rint(exact) == shared_normals._table()).all()
    assert np.abs(np.abs(exact - np.floor(exact)) - 0.5).min() > 1e-5


def test_the_numbers_are_what_they_were():
    """Bit for bit: a change here makes every file of an earlier version decode to other weights."""
    z = all_candidates(11, 3, 37, 1000)
    assert (
        hashlib.sha256(z.astype("<f4").tobytes()).hexdigest()
        == "f612c339ea7ebd499a01871071df438578af6ef44fe4adde2d597f8681f8d98d"
    )
    assert candidate(1, 2, 4, 99).tolist() == [
        -1.20721435546875,
        0.00701904296875,
        -0.85223388671875,
        -0.82501220703125,
    ]
    assert permutation(9, 6).tolist() == [5, 0, 3, 1, 2, 4]
    assert choice_uniform(5, 6).hex() == "0x1.53e15b2db8abfp-1"


@pytest.mark.parametrize("size", [1, 7, 16, 37, 800, 70_001])
def test_a_jump_lands_on_the_same_numbers(size):
    number = 3 if size > 1000 else 5000
    z = all_candidates(2, 5, size, number)
    assert z.shape == (number, size)
    assert z.dtype == np.float32
    for index in {0, 1, number // 2, number - 1}:
        assert (candidate(2, 5, size, index) == z[index]).all()


def test_the_numbers_are_standard_normal():
    """400,000 numbers; finds a deviation 0.8% off, a KS distance of 0.004, and a correlation of 0.06 between lanes."""
    z = all_candidates(1, 0, 40, 10_000).astype(np.float64)
    ks_normal(z.reshape(-1))
    ks_normal(z)
    chi_squared_covariance(z, mean=np.zeros(40), covariance=np.eye(40))
    fourth = (z.reshape(-1) ** 4 - 3) / np.sqrt(96)
    mean_is(fourth, 0.0, sd=1.0)
    assert (z / GRID == np.rint(z / GRID)).all()


def test_mixing_leaves_no_dependence_of_squares():
    """Within one counter value, where sixteen numbers share sixteen table entries. Finds a correlation of 0.03."""
    squares = np.square(all_candidates(4, 0, 16, 40_000).astype(np.float64))
    c = np.corrcoef(squares.T)[np.triu_indices(16, 1)]
    require(2 * stats.norm.sf(np.abs(c) * 200), "correlation of squares")


def test_tails_reach_beyond_the_table():
    """Of 16 million numbers, those past 4.5 deviations: about 109 are due. Binomial, exact."""
    past = sum(int((np.abs(z) > 4.5).sum()) for z in candidates(8, 0, 16, 1_000_000))
    require(stats.binomtest(past, 16_000_000, 2 * stats.norm.sf(4.5)).pvalue, "tail")


@pytest.mark.parametrize("mutant", ["correlated", "scaled by 2", "unscaled"])
def test_wrong_numbers_are_caught(monkeypatch, mutant):
    mixed = shared_normals._hadamard()
    wrong = {"correlated": mixed[:, [0] * 16], "scaled by 2": mixed * 2, "unscaled": mixed // 4}[mutant]
    monkeypatch.setattr(shared_normals, "_hadamard", lambda: wrong)
    with pytest.raises(Mismatch):
        test_the_numbers_are_standard_normal()


def test_a_broken_inverse_normal_is_refused(monkeypatch):
    monkeypatch.setattr("scipy.special.ndtri", lambda p, right=special.ndtri: right(p) * 1.00001)
    shared_normals._table.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="digest"):
            candidate(0, 0, 1, 0)
    finally:
        shared_normals._table.cache_clear()


def test_blocks_seeds_and_purposes_have_streams_of_their_own():
    """Correlation of 40,000 pairs; finds 0.04."""
    streams = [
        all_candidates(s, b, 1, 40_000)[:, 0]
        for s, b in [(0, 0), (1, 0), (0, 1), (1, 1), (2**64 - 1, 0), (2**64 - 2, 0)]
    ]
    c = np.corrcoef(streams)[np.triu_indices(6, 1)]
    require(2 * stats.norm.sf(np.abs(c) * 200), "correlation of streams")
    ks_uniform([choice_uniform(s, 0) for s in range(2000)])
    assert not (permutation(0, 1000) == permutation(1, 1000)).all()


def test_each_place_of_a_permutation_is_uniform():
    """10,000 seeds of five weights: each of 25 cells against 1/5."""
    orders = np.array([permutation(s, 5) for s in range(10_000)])
    counts = np.array([(orders == k).sum(0) for k in range(5)])
    assert (np.sort(orders, 1) == np.arange(5)).all()
    require([stats.binomtest(int(n), 10_000, 0.2).pvalue for n in counts.reshape(-1)], "places")
