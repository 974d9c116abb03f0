"""Grey images that are made black and white: as often white as they are bright, each once an epoch."""

import pytest
import torch

from pyro_bdl.data import DynamicallyBinarized, binarized
from pyro_bdl.errors import InputError
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import proportion_is

GREY = torch.linspace(0, 1, 11).repeat(500, 1)


def test_pixels_have_their_grey_value_as_probability() -> None:
    epochs = [torch.cat([x for (x,) in DynamicallyBinarized(GREY, batch_size=64)]) for _ in range(2)]
    assert all(epoch.shape == GREY.shape for epoch in epochs)
    assert not torch.equal(*epochs)
    for column in (2, 9):
        proportion_is(int(torch.cat(epochs)[:, column].sum()), 1000, float(GREY[0, column]))
    assert epochs[0][:, 0].sum() == 0
    assert epochs[0][:, -1].sum() == 500


def test_one_binarisation_is_that_of_its_seed() -> None:
    assert torch.equal(binarized(GREY, seed=1), binarized(GREY, seed=1))
    assert not torch.equal(binarized(GREY, seed=1), binarized(GREY, seed=2))


@pytest.mark.parametrize(
    ("grey", "batch_size"), [(GREY + 0.1, 2), (GREY - 0.1, 2), (GREY * torch.nan, 2), (GREY[:0], 2), (GREY, 0)]
)
def test_refused(grey: torch.Tensor, batch_size: int) -> None:
    with pytest.raises(InputError):
        DynamicallyBinarized(grey, batch_size=batch_size)
