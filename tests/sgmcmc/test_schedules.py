"""Schedules and the average weighted by step sizes."""

import math

import pytest
import torch

from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc import Constant, PolynomialDecay, step_size_weighted_mean


@pytest.mark.parametrize("t", [0, 1, 10, 10_000])
def test_polynomial_decay(t: int) -> None:
    assert PolynomialDecay(a=0.2, b=231.0, gamma=0.55)(t) == pytest.approx(0.2 / (231 + t) ** 0.55)


def test_constant() -> None:
    assert {Constant(0.3)(t) for t in range(5)} == {0.3}


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_constant_refuses(bad: float) -> None:
    with pytest.raises(InputError, match="step_size"):
        Constant(bad)


@pytest.mark.parametrize(
    ("name", "bad"), [("a", 0.0), ("a", math.nan), ("b", 0.0), ("b", -1.0), ("gamma", 0.0), ("gamma", 1.01)]
)
def test_polynomial_decay_refuses(name: str, bad: float) -> None:
    with pytest.raises(InputError, match=name):
        PolynomialDecay(**({"a": 0.2, "b": 231.0, "gamma": 0.55} | {name: bad}))


def test_weighted_mean() -> None:
    samples, step_sizes = torch.rand(3, 5, 2), torch.rand(3, 5) + 0.1
    expected = (samples * step_sizes[..., None]).sum((0, 1)) / step_sizes.sum()
    torch.testing.assert_close(step_size_weighted_mean(samples, step_sizes), expected)
    one_chain = (samples[0] * step_sizes[0, :, None]).sum(0) / step_sizes[0].sum()
    torch.testing.assert_close(step_size_weighted_mean(samples[0], step_sizes[0]), one_chain)
    torch.testing.assert_close(step_size_weighted_mean(samples, torch.ones(3, 5)), samples.mean((0, 1)))


@pytest.mark.parametrize(
    ("samples", "step_sizes"),
    [((5, 2), (4,)), ((5,), (1, 5)), ((0,), (0,)), ((5,), ())],
)
def test_weighted_mean_refuses_shapes(samples: tuple[int, ...], step_sizes: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        step_size_weighted_mean(torch.ones(samples), torch.ones(step_sizes))


def test_weighted_mean_refuses_step_sizes_that_are_not_positive() -> None:
    with pytest.raises(InputError, match="step_sizes"):
        step_size_weighted_mean(torch.ones(2), torch.tensor([1.0, 0.0]))
