"""The noise is standard normal, and does not depend on the number of threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pyro_bdl.sgmcmc.noise import SMALLEST, Noise
from tests import statistics


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.seed()
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [3, 1000, SMALLEST, SMALLEST + 1001])
def test_law(size: int) -> None:
    noise = Noise(torch.zeros(size, dtype=torch.float64))
    draws = torch.cat([noise.draw() for _ in range(max(2, 10_000 // size))])
    noise.close()
    statistics.ks_normal(draws)
    statistics.variance_is(draws, 1.0, mean=0.0)
    statistics.mean_is(draws[1:] * draws[:-1], 0.0)


def test_parts_are_independent() -> None:
    noise = Noise(torch.zeros(SMALLEST))
    parts = torch.stack(noise.draw().chunk(8), 1)
    noise.close()
    statistics.chi_squared_covariance(parts, mean=torch.zeros(8), covariance=torch.eye(8))


def draws(threads: int, size: int) -> Tensor:
    torch.set_num_threads(threads)
    torch.manual_seed(3)
    noise = Noise(torch.zeros(size))
    numbers = torch.stack([noise.draw() for _ in range(3)])
    noise.close()
    return numbers


@pytest.mark.parametrize("size", [100, SMALLEST, 3 * SMALLEST + 7])
def test_the_number_of_threads_does_not_matter(size: int) -> None:
    one = draws(1, size)
    assert all(draws(threads, size).equal(one) for threads in (2, 3, 5, 16))
    assert not one[0].equal(one[1])
