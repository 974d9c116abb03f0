"""Streams and files of compressed networks: round trips bit for bit, and what becomes of damaged and hostile ones."""

import copy
import itertools
import time
import tracemalloc
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_bdl.compression import codec
from pyro_bdl.compression.codec import Quantised, decode, encode, floating_buffers
from pyro_bdl.compression.coding.coder import Encoder
from pyro_bdl.compression.coding.container import OtherArchitectureError, pack, write_container
from pyro_bdl.compression.coding.symbols import Magnitudes, Uniform
from pyro_bdl.compression.compressed import QUANTISED, architecture_of, load_compressed
from pyro_bdl.compression.example_inputs import ExampleInputs, require_affordable
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.compression.units.shrinking import shrink
from pyro_bdl.errors import BDLError, CorruptFileError, InputError
from tests.compression.damage import damaged_copies, fuzz
from tests.compression.units.pruned_networks import make
from tests.compression.units.unprunable_networks import UNPRUNABLE
from tests.data.test_no_pickle import pickled_classes
from tests.fresh_state import fresh_state  # noqa: F401

NETWORKS = [
    ("mlp", torch.float32), ("mlp", torch.float64), ("lenet_5", torch.float32), ("batch_norm", torch.float64),
    ("resnet", torch.float32), ("mixed", torch.float32),
]  # fmt: skip


def halves(units: Units) -> dict[str, Tensor]:
    return units.complete({g.name: torch.arange(g.size) % 2 == 0 for g in units.groups.values() if not g.is_selection})


def compressed(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, bytes, dict[str, int]]:
    """Half of a network with weights on a grid of 2^-6, and its stream."""
    example = ExampleInputs.of(inputs).of_one()
    units = find_units(net, example.zeros(net))
    kept = halves(units)
    small = shrink(net, kept, inputs, units=units).eval()
    parameters = {}
    with torch.no_grad():
        for name, p in small.named_parameters():
            parameters[name] = Quantised((p * 64).round().long(), -6)
            p.copy_(parameters[name].value(p))
        for b in floating_buffers(small).values():
            b.copy_(b.float())
    stream, parts = encode(example, units, kept, parameters, floating_buffers(small))
    return small, stream, parts


def require_same(a: nn.Module, b: nn.Module) -> None:
    state, other = a.state_dict(), b.state_dict()
    assert list(state) == list(other)
    for name, value in state.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(("name", "dtype"), NETWORKS)
def test_round_trip_is_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    net, inputs = make(name, dtype)
    small, stream, parts = compressed(net, inputs)
    other = copy.deepcopy(net).train()  # other values, another mode
    with torch.no_grad():
        for tensor in itertools.chain(other.parameters(), floating_buffers(other).values()):
            tensor.copy_(torch.rand_like(tensor))
    before = copy.deepcopy(other.state_dict())  # of which the file takes nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = decode(stream, other)
    require_same(small, again)
    assert not any(module.training for module in again.modules())
    for a, b in zip(_outputs(small, inputs), _outputs(again, inputs), strict=True):
        assert torch.equal(a, b)
    assert sum(parts.values()) == 8 * len(stream)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert all(module.training for module in other.modules())


def _outputs(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        found = net(*inputs)
    return list(found) if isinstance(found, tuple) else [found]


def test_layers_that_are_kept_whole_are_in_the_file_too() -> None:
    net, shape, _, _ = UNPRUNABLE["lstm"]
    with pytest.warns(UserWarning, match="kept whole"):
        small, stream, _ = compressed(net, (torch.randn(shape),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the reader is told nothing again
        require_same(small, decode(stream, net))


def test_integer_and_bool_inputs() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc, self.out = nn.Embedding(7, 5), nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, words: Tensor, skip: Tensor) -> Tensor:
            x = self.embed(words).masked_fill(skip[..., None], 0.0)
            return self.out(self.fc(x.sum(1)).relu())

    net = Words()
    with pytest.warns(UserWarning, match="kept whole"):
        small, stream, _ = compressed(net, (torch.ones(2, 4).long(), torch.zeros(2, 4).bool()))
    require_same(small, decode(stream, net))


def test_what_is_no_part_of_the_state_is_not_stored() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net.register_buffer("table", torch.randn(500), persistent=False)
    net.register_buffer("kept", torch.randn(3))
    assert list(floating_buffers(net)) == ["kept"]
    small, stream, _ = compressed(net, (torch.zeros(1, 3),))
    assert len(stream) < 200
    require_same(small, decode(stream, net))


# Damaged and hostile streams.


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Any, bytes]:
    """A network, the path of its file, and the stream in it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
        _, stream, _ = compressed(net, (torch.zeros(1, 4),))
    path = tmp_path_factory.mktemp("file") / "net.bdl"
    write_container(path, [stream], kind=QUANTISED, architecture=architecture_of(net))
    return net, path, stream


def test_every_bit_flip_and_truncation_of_a_file(victim: tuple[nn.Module, Any, bytes], tmp_path: Any) -> None:
    net, path, _ = victim
    content, before = path.read_bytes(), copy.deepcopy(net.state_dict())
    damaged = tmp_path / "damaged.bdl"

    def refused(data: bytes) -> None:
        damaged.write_bytes(data)
        begun = time.process_time()
        with pytest.raises(CorruptFileError):
            load_compressed(damaged, net)
        assert time.process_time() - begun < 1

    for data in damaged_copies(content):
        refused(data)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    load_compressed(path, net)


def test_fuzz_behind_the_digest(victim: tuple[nn.Module, Any, bytes], tmp_path: Any) -> None:
    assert fuzz(victim, tmp_path / "f.bdl", 30, kind=QUANTISED) > 10


@pytest.mark.slow
def test_much_fuzz_behind_the_digest(victim: tuple[nn.Module, Any, bytes], tmp_path: Any) -> None:
    assert fuzz(victim, tmp_path / "f.bdl", 3000, kind=QUANTISED) > 1000


def begun_with(shapes: list[list[int]], kinds: list[int] | None = None) -> bytes:
    """A stream that says these input shapes, and nothing else."""
    encoder = Encoder()
    encoder.put([int(kinds is not None)], Uniform(2))
    if kinds is not None:
        encoder.put([len(shapes) - 1], Uniform(16))
        encoder.put(kinds, Uniform(3))
    for shape in shapes:
        encoder.put([len(shape)], Uniform(9))
        encoder.put(shape, Magnitudes())
    return encoder.finish() + b"\x55" * 20


@pytest.mark.parametrize("shape", [
    [1 << 30], [1, 1 << 30, 1 << 30, 1 << 30], [2**31 - 2] * 8, [1, 3, 1 << 13, 1 << 13], [1 << 16, 3, 8, 8],
    [1, 3, 700, 700], [0, 3, 8, 8], [1, 0], [], [1, 2, 8, 8],
], ids=str)  # fmt: skip
def test_hostile_input_shapes_are_refused_before_memory_is_taken(shape: list[int]) -> None:
    net, _ = make("resnet")  # any height and width will do for it
    stream = begun_with([shape])
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(CorruptFileError):
            decode(stream, net)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 5


def test_hostile_inputs_that_are_many_or_of_another_kind() -> None:
    net, _ = make("mlp")
    for stream in (begun_with([[1, 7]] * 16, [0] * 16), begun_with([[1, 7]], [1]), begun_with([[1, 7]] * 2, [2, 0])):
        with pytest.raises(CorruptFileError):
            decode(stream, net)


def test_a_loop_over_a_long_sequence_is_stopped() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = x[:, 0]
            for t in range(x.shape[1]):
                h = torch.tanh(self.fc(h) + x[:, t])
            return h

    net = Loop()
    begun = time.process_time()
    with pytest.raises(InputError, match="A smaller example"):
        require_affordable(net, ExampleInputs(((1, 1 << 20, 1),), ("float",)))
    assert time.process_time() - begun < 20
    require_affordable(net, ExampleInputs(((1, 100, 1),), ("float",)))


def test_networks_that_do_not_run_without_memory() -> None:
    class Peeks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2.0 if float(x.sum()) > 0 else 1.0)

    require_affordable(Peeks(2, 3), ExampleInputs(((1000, 2),), ("float",)))
    with pytest.raises(InputError, match="A smaller example"):
        require_affordable(Peeks(2, 3), ExampleInputs(((1 << 18, 2),), ("float",)))


def test_numbers_beyond_the_dtype_are_refused() -> None:
    net = nn.Linear(2, 1).half()
    units = find_units(net, torch.zeros(1, 2).half())
    numbers = {"weight": Quantised(torch.tensor([[2**20, 1]]), 100), "bias": Quantised(torch.tensor([0]), 0)}
    stream, _ = encode((1, 2), units, units.complete({}), numbers, {})
    with pytest.raises(CorruptFileError, match="NaN or infinity"):
        decode(stream, net)
    nets = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    units = find_units(nets, torch.zeros(1, 2))
    values = {n: Quantised(torch.ones_like(p).long(), 0) for n, p in nets.named_parameters()}
    for bad in (torch.nan, torch.inf):
        buffers = {n: torch.full_like(b, bad) for n, b in floating_buffers(nets).items()}
        stream, _ = encode((1, 2), units, units.complete({}), values, buffers)
        with pytest.raises(CorruptFileError, match="NaN or infinity"):
            decode(stream, nets)


def test_other_units_than_the_writer_found(victim: tuple[nn.Module, Any, bytes], monkeypatch: Any) -> None:
    net, _, stream = victim
    own = codec.check_of
    monkeypatch.setattr(codec, "check_of", lambda units: own(units) ^ 1)
    with pytest.raises(CorruptFileError, match="others"):
        decode(stream, net)


def test_a_file_of_another_network(victim: tuple[nn.Module, Any, bytes]) -> None:
    net, path, _ = victim
    others: list[nn.Module] = [
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)),
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 3)),
        nn.Sequential(net),
    ]
    for other in others:
        with pytest.raises(OtherArchitectureError):
            load_compressed(path, other)
    for wrong in (nn.ReLU(), "net", None):
        with pytest.raises(InputError, match="net"):
            load_compressed(path, wrong)  # type: ignore[arg-type]


def test_another_kind_of_file(victim: tuple[nn.Module, Any, bytes], tmp_path: Any) -> None:
    net, _, stream = victim
    other = tmp_path / "other.bdl"
    other.write_bytes(pack([stream], kind=QUANTISED + 1, architecture=architecture_of(net)))
    with pytest.raises(CorruptFileError):
        load_compressed(other, net)
    with pytest.raises(OSError, match="No such file"):
        load_compressed(tmp_path / "missing.bdl", net)


def test_no_class_is_looked_up_for_a_pickle(victim: tuple[nn.Module, Any, bytes]) -> None:
    net, path, _ = victim
    with pickled_classes() as seen:
        load_compressed(path, net)
    assert not seen


@pytest.mark.parametrize("wrong", [None, "x", (), (1,), torch.zeros(0, 3), torch.zeros([1] * 9), (torch.ones(1),) * 17])
def test_example_inputs_that_are_none(wrong: Any) -> None:
    with pytest.raises(InputError, match="the example input"):
        ExampleInputs.of(wrong)


def test_one_example_of_a_batch() -> None:
    assert ExampleInputs.of(torch.zeros(5, 3)).of_one().shapes == ((1, 3),)
    assert ExampleInputs.of(torch.zeros(5)).of_one().shapes == ((5,),)
    assert ExampleInputs.of((torch.zeros(5, 3), torch.zeros(5))).of_one().shapes == ((1, 3), (1,))
    assert ExampleInputs.of((torch.zeros(5, 3), torch.zeros(4, 4))).of_one().shapes == ((5, 3), (4, 4))


def test_exponents_beyond_the_byte() -> None:
    for exponent in (-129, 128):
        with pytest.raises(BDLError, match="exponent"):
            Quantised(torch.zeros(1).long(), exponent)
