"""Codebooks in streams and files: round trips bit for bit, and what becomes of damaged and hostile ones."""

import time
import tracemalloc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_bdl.compression.codec import QUANTISED, SHARED, Quantised, decode, encode, floating_buffers, kind_of
from pyro_bdl.compression.coding.codebook import (
    MOST_VALUES,
    Clustered,
    Codebook,
    clustered,
    get_book,
    get_clustered,
    put_book,
    recluster,
)
from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.container import pack, write_container
from pyro_bdl.compression.coding.floats import put_floats
from pyro_bdl.compression.coding.symbols import Magnitudes, Uniform
from pyro_bdl.compression.coding.weights import Weights
from pyro_bdl.compression.compressed import architecture_of, load_compressed
from pyro_bdl.compression.example_inputs import ExampleInputs
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.compression.units.shrinking import shrink
from pyro_bdl.errors import CorruptFileError, InputError
from tests.compression.damage import damaged_copies, fuzz
from tests.compression.test_codec import halves, require_same
from tests.compression.units.pruned_networks import make
from tests.data.test_no_pickle import pickled_classes
from tests.fresh_state import fresh_state  # noqa: F401

VALUES = torch.tensor([0.3, -0.75, 0.0, 1.5, -0.01])


def compressed(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, dict[str, Any], bytes, dict[str, int]]:
    """Half of a network whose weights share values, all but one parameter, and its stream."""
    example = ExampleInputs.of(inputs).of_one()
    units = find_units(net, example.zeros(net))
    kept = halves(units)
    small = shrink(net, kept, inputs, units=units).eval()
    names = [name for name, _ in small.named_parameters()]
    shared = clustered(
        {name: torch.randint(len(VALUES), small.get_parameter(name).shape) for name in names[1:]}, VALUES
    )
    first = Quantised((small.get_parameter(names[0]) * 64).round().long(), -6)
    parameters: dict[str, Any] = {names[0]: first, **shared}
    with torch.no_grad():
        for name, p in small.named_parameters():
            p.copy_(parameters[name].value(p))
    stream, parts = encode(example, units, kept, parameters, floating_buffers(small))
    return small, parameters, stream, parts


@pytest.mark.parametrize(("name", "dtype"), [("mlp", torch.float32), ("lenet_5", torch.float64)])
def test_round_trip_is_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    net, inputs = make(name, dtype)
    small, parameters, stream, parts = compressed(net, inputs)
    assert kind_of(parameters) == SHARED
    require_same(small, decode(stream, net, kind=SHARED))
    assert sum(parts.values()) == 8 * len(stream)
    assert 8 <= parts["codebook"] <= 8 * 16


def test_the_values_are_those_of_the_file() -> None:
    places = {"w": torch.tensor([[0, 1], [2, 3]]), "b": torch.tensor([1, 3])}
    found = clustered(places, VALUES)
    assert found["w"].book is found["b"].book
    assert found["w"].book.table.tolist() == [-0.75, 0.0, VALUES[0].half().item(), 1.5]  # nobody takes -0.01
    assert found["w"].levels.tolist() == [[1, -1], [0, 2]]
    wide = clustered({"w": torch.arange(2)}, torch.tensor([1.0, 1.0 + 2.0**-20]))["w"]  # apart in 32 bits only
    assert wide.book.table.tolist() == [0.0, 1.0, 1.0 + 2.0**-20]
    tiny = clustered({"w": torch.arange(2)}, torch.tensor([1e-30, 1e30], dtype=torch.float64))["w"]
    torch.testing.assert_close(tiny.book.above, torch.tensor([1e-30, 1e30]))
    less = recluster({"w": Clustered(torch.tensor([2, 0]), wide.book)})["w"]
    assert less.book.table.tolist() == [0.0, 1.0 + 2.0**-20]  # which is not rounded once more
    for again in (found["w"].book, wide.book, tiny.book, Codebook(torch.zeros(0), torch.zeros(0))):
        encoder = Encoder()
        put_book(encoder, again)
        assert torch.equal(get_book(Decoder(encoder.finish())).table, again.table)
    assert recluster({}) == {}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e39])
def test_values_that_no_file_takes(bad: float) -> None:
    with pytest.raises(InputError, match="a codebook"):
        clustered({"w": torch.arange(2)}, torch.tensor([1.0, bad], dtype=torch.float64))
    assert len(clustered({"w": torch.zeros(2).long()}, torch.tensor([1.0, bad]))["w"].book) == 1  # nobody takes it


def test_one_codebook_a_file() -> None:
    one, other = (clustered({"w": torch.zeros(2).long()}, torch.tensor([v]))["w"] for v in (1.0, 2.0))
    with pytest.raises(InputError, match="one codebook for all"):
        kind_of({"a": one, "b": other})
    assert kind_of({"a": Quantised(torch.zeros(1).long(), 0)}) == QUANTISED
    long = Codebook(torch.zeros(0), torch.arange(1.0, MOST_VALUES + 2))
    with pytest.raises(InputError, match="at most"):
        put_book(Encoder(), long)


# Damaged and hostile files.


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Any, bytes]:
    """A network, the path of its file, and the stream in it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
        _, _, stream, _ = compressed(net, (torch.zeros(1, 4),))
    path = tmp_path_factory.mktemp("file") / "net.bdl"
    write_container(path, [stream], kind=SHARED, architecture=architecture_of(net))
    return net, path, stream


def test_every_bit_flip_and_truncation_of_a_file(victim: tuple[nn.Module, Any, bytes], tmp_path: Any) -> None:
    net, path, _ = victim
    content = path.read_bytes()
    damaged = tmp_path / "damaged.bdl"
    for data in damaged_copies(content):
        damaged.write_bytes(data)
        with pytest.raises(CorruptFileError):
            load_compressed(damaged, net)
    with pickled_classes() as seen:
        load_compressed(path, net)
    assert not seen


def test_fuzz_behind_the_digest(victim: tuple[nn.Module, Any, bytes], tmp_path: Any) -> None:
    assert fuzz(victim, tmp_path / "f.bdl", 30, kind=SHARED, clock=time.perf_counter) > 10


@pytest.mark.slow
def test_much_fuzz_behind_the_digest(victim: tuple[nn.Module, Any, bytes], tmp_path: Any) -> None:
    assert fuzz(victim, tmp_path / "f.bdl", 3000, kind=SHARED, clock=time.perf_counter) > 1000


def test_one_kind_read_as_the_other(victim: tuple[nn.Module, Any, bytes], tmp_path: Any) -> None:
    net, _, stream = victim
    for kind in (0, 2, 4):
        (tmp_path / "n.bdl").write_bytes(pack([stream], kind=kind, architecture=architecture_of(net)))
        with pytest.raises(CorruptFileError):
            load_compressed(tmp_path / "n.bdl", net)
    (tmp_path / "n.bdl").write_bytes(pack([stream], kind=QUANTISED, architecture=architecture_of(net)))
    with pytest.raises(CorruptFileError):
        load_compressed(tmp_path / "n.bdl", net)


def book_of(below: list[float], above: list[float], *, width: int = 4) -> Encoder:
    """A codebook that says what it likes."""
    encoder = Encoder()
    encoder.put([int(width == 2)], Uniform(2))
    encoder.put([len(below), len(above)], Magnitudes())
    put_floats(encoder, torch.tensor([*below, *above]), width=width)
    return encoder


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize(("below", "above"), [
    ([], [float("nan")]), ([float("-inf")], []), ([], [2.0, 1.0]), ([], [1.0, 1.0]), ([1.0], []), ([], [-1.0]),
    ([], [0.0]), ([-0.0], [1.0]),
], ids=str)  # fmt: skip
def test_hostile_codebooks(below: list[float], above: list[float], width: int) -> None:
    with pytest.raises(CorruptFileError):
        get_book(Decoder(book_of(below, above, width=width).finish()))


@pytest.mark.parametrize("counts", [[2**31 - 2, 0], [0, MOST_VALUES + 1], [1 << 28, 1 << 28]])
def test_hostile_lengths_are_refused_before_memory_is_taken(counts: list[int]) -> None:
    encoder = Encoder()
    encoder.put([1], Uniform(2))
    encoder.put(counts, Magnitudes())
    data = encoder.finish() + b"\x55" * 20
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError):
            get_book(Decoder(data))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("levels", [[[0, 3]], [[-2, 0]], [[2**30, 0]]])
def test_places_beyond_the_codebook(levels: list[list[int]]) -> None:
    encoder = book_of([-1.0], [1.0, 2.0])
    encoder.put(levels, Weights())
    decoder = Decoder(encoder.finish())
    book = get_book(decoder)
    with pytest.raises(CorruptFileError, match="places from -1 to 2"):
        get_clustered(decoder, (1, 2), book)


def test_numbers_beyond_the_dtype_are_refused() -> None:
    net = nn.Linear(2, 1).half()
    units = find_units(net, torch.zeros(1, 2).half())
    shared = clustered({"weight": torch.tensor([[0, 0]]), "bias": torch.tensor([0])}, torch.tensor([1e6]))
    stream, _ = encode((1, 2), units, units.complete({}), shared, {})
    with pytest.raises(CorruptFileError, match="NaN or infinity"):
        decode(stream, net, kind=SHARED)
