"""Files of format version 1 decode bit for bit, by this version and all later ones (RELIABILITY 18).

`python -m tests.compression.test_golden` wrote them. The files of a version stay when a new version gets its own; an
encoder that learns to write shorter ones leaves these as they are and says so in `test_the_script_makes_these_files`.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pyro_bdl.compression.codec import Quantised, encode, floating_buffers
from pyro_bdl.compression.coding.container import pack
from pyro_bdl.compression.compressed import QUANTISED, architecture_of, load_compressed
from pyro_bdl.compression.random_code.code import RandomCode
from pyro_bdl.compression.random_code.relative_entropy import decode
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.compression.units.shrinking import shrink

GOLDEN = Path(__file__).parent / "golden"


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2, bias=False),
        nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


# The network, one input, and a digest of what the file holds: names, shapes and the numbers as 32-bit floats.
NETWORKS = {
    "plain_1.bdl": (plain, (1, 12), "114b6ea381e1884e"),
    "convolutional_1.bdl": (convolutional, (1, 1, 8, 8), "54598d45d06d73b9"),
}
RANDOM_CODE = "random_code_1.bin"
RANDOM_DIGEST = "4bb30b51a73e1b48"
SCALE = [0.25] * 70 + [1.5] * 50  # of the prior


def numbers() -> Iterator[int]:
    """0 to 32767 from a linear congruence: the same on every machine and version."""
    state = 1
    while True:
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        yield state >> 16


def make_network(name: str) -> tuple[nn.Module, bytes]:
    """A network without every third unit, its weights small integers, most of them 0, and its file."""
    net, shape, draw = NETWORKS[name][0](), NETWORKS[name][1], numbers()
    units = find_units(net, torch.zeros(shape))
    kept = units.complete({group.name: torch.arange(group.size) % 3 != 1 for group in units.groups.values()})
    small, parameters = shrink(net, kept, torch.zeros(shape), units=units).eval(), {}
    with torch.no_grad():
        for place, (key, p) in enumerate(small.named_parameters()):
            found = [next(draw) for _ in range(p.numel())]
            levels = torch.tensor([n % 9 - 4 if n % 5 < 2 else 0 for n in found]).view(p.shape)
            parameters[key] = Quantised(levels, -place)
            p.copy_(parameters[key].value(p))
        for b in floating_buffers(small).values():
            b.copy_(torch.tensor([(1 + next(draw)) / 7 for _ in range(b.numel())], dtype=torch.float64))
    stream, _ = encode(shape, units, kept, parameters, floating_buffers(small))
    return small, pack([stream], kind=QUANTISED, architecture=architecture_of(net))


def make_random_code() -> RandomCode:
    """Blocks of unlike sizes, indices of unlike widths, one of them with none."""
    draw, sizes, bits = numbers(), (7, 1, 30, 2, 60, 20), (9, 3, 16, 5, 0, 12)
    indices = tuple(next(draw) % (1 << b) for b in bits)
    return RandomCode(seed=2026, count=sum(sizes), sizes=sizes, bits=bits, indices=indices)


def digest(tensors: dict[str, torch.Tensor]) -> str:
    told = hashlib.sha256()
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        told.update(f"{name} {tuple(tensor.shape)} ".encode() + tensor.detach().numpy().astype("<f4").tobytes())
    return told.hexdigest()[:16]


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return dict(net.named_parameters()) | floating_buffers(net)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_decode_bit_for_bit(name: str) -> None:
    make, shape, expected = NETWORKS[name]
    small = load_compressed(GOLDEN / name, make())
    assert digest(state(small)) == expected
    assert small(torch.zeros(shape)).shape == (1, 3)


def test_the_random_code_decodes_bit_for_bit() -> None:
    code = RandomCode.from_bytes((GOLDEN / RANDOM_CODE).read_bytes())
    assert code == make_random_code()
    assert digest({"": decode(code, code.count, SCALE)}) == RANDOM_DIGEST


@pytest.mark.parametrize("name", NETWORKS)
def test_the_script_makes_these_files(name: str) -> None:
    small, content = make_network(name)
    assert digest(state(small)) == NETWORKS[name][2]
    assert content == (GOLDEN / name).read_bytes()


def test_one_bit_of_a_weight_is_seen() -> None:
    """The digests are of every bit."""
    small, _ = make_network("plain_1.bdl")
    with torch.no_grad():
        last = list(small.parameters())[-1]
        last[0] = torch.nextafter(last[0], torch.tensor(9.0))
    assert digest(state(small)) != NETWORKS["plain_1.bdl"][2]


if __name__ == "__main__":
    for each in NETWORKS:
        (GOLDEN / each).write_bytes(make_network(each)[1])
    (GOLDEN / RANDOM_CODE).write_bytes(make_random_code().to_bytes())
