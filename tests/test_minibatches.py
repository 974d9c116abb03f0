"""Streams of batches, and their restored place."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Minibatches

X, Y = torch.arange(10.0), torch.arange(10)


@pytest.fixture(autouse=True)
def _forked() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def epoch(batches: Minibatches) -> list[list[float]]:
    return [batch.args[0].tolist() for batch in batches]


def test_each_epoch_has_each_point_once_in_a_new_order() -> None:
    batches = Minibatches((X, Y), batch_size=4)
    first, second = epoch(batches), epoch(batches)
    assert [len(b) for b in first] == [4, 4, 2]
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == X.tolist()
    assert first != second  # by chance once in 3.6 million
    assert batches.epoch == 2


def test_rows_stay_together_and_indices_say_which() -> None:
    for batch in Minibatches((X, Y), batch_size=3):
        assert batch.indices is not None
        assert batch.args[0].tolist() == batch.args[1].tolist() == batch.indices.tolist()


def test_drop_last() -> None:
    batches = Minibatches(X, batch_size=4, drop_last=True)
    assert [len(b) for b in epoch(batches)] == [4, 4]
    assert batches.batches_per_epoch == 2


def test_next_goes_on_to_the_next_epoch() -> None:
    batches = Minibatches(X, batch_size=4)
    assert [batches.next().length for _ in range(7)] == [4, 4, 2, 4, 4, 2, 4]
    assert batches.epoch == 2


def test_the_order_follows_the_seed_and_the_global_generator_moves_once() -> None:
    torch.manual_seed(1)
    first = epoch(Minibatches(X, batch_size=4))
    after = torch.rand(())
    torch.manual_seed(1)
    batches = Minibatches(X, batch_size=4)
    assert epoch(batches) == first
    epoch(batches)
    assert torch.rand(()) == after


def loader(**options: Any) -> DataLoader:
    return DataLoader(TensorDataset(X, Y), batch_size=4, **options)


SOURCES: dict[str, Callable[[], Minibatches]] = {
    "tensors": lambda: Minibatches((X, Y), batch_size=4),
    "tensors, drop_last": lambda: Minibatches((X, Y), batch_size=4, drop_last=True),
    "tensors, in order": lambda: Minibatches((X, Y), batch_size=4, shuffle=False),
    "tensors, own generator": lambda: Minibatches(X, batch_size=4, generator=torch.Generator().manual_seed(2)),
    "list of batches": lambda: Minibatches([(X[:4], Y[:4]), (X[4:], Y[4:])]),
    "loader": lambda: Minibatches(loader(shuffle=True)),
    "loader, own generator": lambda: Minibatches(loader(shuffle=True, generator=torch.Generator().manual_seed(2))),
}


@pytest.mark.parametrize("given", range(8))
@pytest.mark.parametrize("source", SOURCES)
def test_a_restored_stream_goes_on_as_the_first_would_have(source: str, given: int) -> None:
    torch.manual_seed(1)
    batches = SOURCES[source]()
    for _ in range(given):
        batches.next()
    state, randomness = batches.state_dict(), torch.get_rng_state()
    expected = [batches.next().args[0].tolist() for _ in range(7)]
    torch.manual_seed(99)
    other = SOURCES[source]()
    other.load_state_dict(state)
    assert torch.get_rng_state().equal(torch.random.manual_seed(99).get_state())
    torch.set_rng_state(randomness)
    assert [other.next().args[0].tolist() for _ in range(7)] == expected
    assert other.epoch == batches.epoch


def test_restart_begins_anew() -> None:
    batches = Minibatches(X, batch_size=4)
    batches.next()
    batches.restart(torch.Generator().manual_seed(3))
    assert batches.epoch == 0
    expected = epoch(batches)
    batches.restart(torch.Generator().manual_seed(3))
    assert epoch(batches) == expected


def test_size_of_the_data() -> None:
    assert Minibatches(loader()).size == 10
    assert Minibatches([X]).size is None
    assert Minibatches([X], size=20).size == 20
    assert Minibatches(X, batch_size=64).batch_size == 10


class ForgetfulIterable:
    def __iter__(self) -> Iterator[Tensor]:
        return iter([])


BAD = {
    "no data points": lambda: Minibatches(torch.zeros(0, 3)),
    "first dimensions differ": lambda: Minibatches((X, Y[:9])),
    "NaN": lambda: Minibatches((torch.tensor([1.0, float("nan")]),)),
    "infinity": lambda: Minibatches((torch.tensor([1.0, float("inf")]),)),
    "no dimension": lambda: Minibatches(torch.tensor(1.0)),
    "batch size zero": lambda: Minibatches(X, batch_size=0),
    "batch size for a loader": lambda: Minibatches(loader(), batch_size=4),
    "wrong size": lambda: Minibatches(X, size=11),
    "an iterator": lambda: Minibatches(iter([X])),
    "no batches": lambda: Minibatches([]),
    "a number": lambda: Minibatches(3),  # type: ignore[arg-type]
    "batches of strings": lambda: Minibatches(["abc"]).next(),
    "an empty batch": lambda: Minibatches([X[:0]]).next(),
    "a batch whose parts differ": lambda: Minibatches([(X, Y[:3])]).next(),
    "a batch that is None": lambda: list(Minibatches([X, None, X])),
    "an iterable without batches": lambda: Minibatches(ForgetfulIterable()).next(),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data(case: str) -> None:
    with pytest.raises(InputError, match="expected"):
        BAD[case]()


def test_all_tensors_in_their_own_order_or_none() -> None:
    batches = Minibatches((X, Y), batch_size=3)
    batches.next()
    tensors = batches.tensors
    assert tensors is not None
    assert [t.tolist() for t in tensors] == [X.tolist(), Y.tolist()]
    assert Minibatches([(X, Y)]).tensors is None
