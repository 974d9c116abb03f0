"""Gaussian coding priors: which scales are chosen, what they cost, and what damaged ones are taken for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.symbols import Uniform
from pyro_bdl.compression.coding.weights import Weights
from pyro_bdl.compression.random_code.coding_prior import LAYOUTS, SCALES, CodingPrior, coding_prior
from pyro_bdl.errors import CorruptFileError, InputError
from tests.fresh_state import fresh_state  # noqa: F401


def kl_bits(mean: Tensor, variance: Tensor, scale: Tensor) -> Tensor:
    q, p = Normal(mean.double(), variance.double().sqrt()), Normal(0.0, scale.double())
    return kl_divergence(q, p) / math.log(2)


def posterior(layout: str, shape: tuple[int, ...] = (40, 60)) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of scales by rows, columns, both or none; the scales, means and variances."""
    torch.manual_seed(0)
    scale = torch.full(shape, 0.1)
    if layout in ("rows", "both"):
        scale = scale * torch.randn(shape[0]).exp().reshape(-1, *[1] * (len(shape) - 1))
    if layout in ("columns", "both"):
        scale = scale * torch.randn(shape[1]).exp().reshape(1, -1, *[1] * (len(shape) - 2))
    return scale, scale * torch.randn(shape), (0.1 * scale).square()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(40, 60), (12, 20, 3, 3)])
def test_the_layout_that_is_there_is_found_and_costs_little_more_than_the_true_scales(
    layout: str, shape: tuple[int, ...]
) -> None:
    scale, mean, variance = posterior(layout, shape)
    prior = coding_prior(mean, variance)
    assert prior.layout == layout
    found = prior.kl(mean, variance)
    assert found == pytest.approx(float(kl_bits(mean, variance, prior.scales(mean)).sum()))
    assert found <= 1.005 * float(kl_bits(mean, variance, scale).sum())


def test_one_scale_is_the_closed_form_to_the_grid() -> None:
    """E[w^2] of the layer is where the KL is least; a grid of four a doubling is at most 9% off."""
    _, mean, variance = posterior("layer")
    prior = coding_prior(mean, variance)
    best = math.sqrt(float((mean.square() + variance).mean()))
    assert abs(math.log2(float(prior.scales(mean)[0, 0]) / best)) <= 1 / 8 + 1e-6


def test_a_vector_has_one_scale() -> None:
    prior = coding_prior(torch.randn(50), torch.ones(50))
    assert prior.layout == "layer"
    assert prior.scales(torch.zeros(50)).shape == (50,)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 1e3, 1e30])
def test_scales_beyond_the_grid_are_its_ends(size: float) -> None:
    _, mean, variance = posterior("both")
    mean, variance = (mean.double() * size), variance.double() * size**2
    scales = coding_prior(mean, variance).scales(mean)
    assert float(scales.min()) >= SCALES[0]
    assert float(scales.max()) <= SCALES[-1]
    assert bool(torch.isfinite(kl_bits(mean, variance, scales)).all())


@given(st.integers(0, 255), st.lists(st.integers(-9, 9), min_size=1, max_size=5), st.lists(st.integers(-9, 9),
       min_size=1, max_size=5))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_round_trip(base: int, rows: list[int], columns: list[int]) -> None:
    prior, like = CodingPrior(base, torch.tensor(rows), torch.tensor(columns)), torch.zeros(len(rows), len(columns), 2)
    encoder = Encoder()
    prior.put(encoder)
    data = encoder.finish()
    try:
        scales = prior.scales(like)
    except InputError:
        with pytest.raises(CorruptFileError):
            CodingPrior.get(Decoder(data), like)
        return
    decoder = Decoder(data)
    assert torch.equal(CodingPrior.get(decoder, like).scales(like), scales)
    decoder.close()
    assert abs(8 * len(data) - prior.bits()) <= 16


def test_hostile_scales() -> None:
    for layout, steps in ((1, [0, 0]), (1, [2**30, 0]), (2, [0, 0]), (3, [300, 1])):
        encoder = Encoder()
        encoder.put([layout], Uniform(len(LAYOUTS)))
        encoder.put([100], Uniform(len(SCALES)))
        encoder.put(steps, Weights())
        encoder.put([1, 1], Weights())
        with pytest.raises(CorruptFileError):
            CodingPrior.get(Decoder(encoder.finish()), torch.zeros(2, 2))
