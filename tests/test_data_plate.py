"""What the data plate is told, and which plates are refused."""

import pyro
import pytest
import torch

from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Batch, Minibatches

X = torch.arange(10.0)


def test_the_plate_is_told_the_indices_without_a_permutation() -> None:
    handler = SubsampleIndices(size=10)
    for batch in Minibatches(X, batch_size=3):
        handler.set(batch)
        before = torch.get_rng_state()
        with handler, pyro.plate("data", size=10, subsample_size=batch.length) as indices:
            assert indices.equal(batch.indices)
        assert torch.get_rng_state().equal(before)
        handler.require_plate()


def test_unknown_indices_count_from_zero() -> None:
    handler = SubsampleIndices(size=None)
    handler.set(Batch((X[:3],)))
    with handler, pyro.plate("data", size=10, subsample_size=3) as indices:
        assert indices.tolist() == [0, 1, 2]


def test_other_plates_are_left_alone() -> None:
    handler = SubsampleIndices(size=10, plate="data")
    handler.set(Batch((X[:3],)))
    with handler, pyro.plate("other", size=50, subsample_size=7, dim=-2) as indices, pyro.plate("third", size=4):
        assert len(indices) == 7
    with pytest.raises(InputError, match='the plate "data"'):
        handler.require_plate()


def test_all_data_need_no_plate() -> None:
    handler = SubsampleIndices(size=10)
    handler.set(Batch((X,)))
    handler.require_plate()


@pytest.mark.parametrize(
    ("size", "subsample_size", "message"),
    [(9, 3, "size=10, the number of data points, got size=9"), (10, 4, "subsample_size=3")],
)
def test_a_plate_unlike_the_data_is_refused(size: int, subsample_size: int, message: str) -> None:
    handler = SubsampleIndices(size=10)
    handler.set(Batch((X[:3],)))
    with pytest.raises(InputError, match=message), handler:
        pyro.plate("data", size=size, subsample_size=subsample_size)
