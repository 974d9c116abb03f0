import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_bdl.compression.random_code.bit_strings import (
    BitReader,
    best_rice_parameter,
    from_varints,
    rice,
    to_bytes,
    to_varint,
)
from pyro_bdl.compression.random_code.blocks import equal_sizes
from pyro_bdl.compression.random_code.code import MAX_BITS, RandomCode
from pyro_bdl.errors import CorruptFileError, InputError


@st.composite
def codes(draw):
    sizes = draw(st.lists(st.integers(1, 3000), max_size=12))
    if draw(st.booleans()):
        sizes = list(equal_sizes(sum(sizes), len(sizes)))
    width = draw(st.integers(1, MAX_BITS))
    bits = draw(st.lists(st.integers(0, MAX_BITS), min_size=len(sizes), max_size=len(sizes)))
    if draw(st.booleans()) or not any(bits):
        bits = [width] * len(sizes)
    indices = tuple(draw(st.integers(0, (1 << b) - 1)) for b in bits)
    seed = draw(st.integers(0, 2**64 - 1))
    return RandomCode(seed=seed, count=sum(sizes), sizes=tuple(sizes), bits=tuple(bits), indices=indices)


@given(codes())
def test_bytes_give_the_code_back(code):
    assert RandomCode.from_bytes(code.to_bytes()) == code


GOLDEN = {
    "equal": RandomCode(seed=300, count=7, sizes=(3, 2, 2), bits=(12,) * 3, indices=(0, 4095, 1234)),
    "sizes": RandomCode(seed=1, count=24, sizes=(4, 12, 7, 1), bits=(5,) * 4, indices=(1, 2, 3, 31)),
    "bits": RandomCode(seed=2**64 - 1, count=5, sizes=(2, 2, 1), bits=(3, 0, 9), indices=(7, 0, 300)),
    "empty": RandomCode(seed=0, count=0, sizes=(), bits=(), indices=()),
    "no indices": RandomCode(seed=0, count=1000, sizes=(1000,), bits=(0,), indices=(0,)),
}
GOLDEN_BYTES = {
    "equal": "10ac0207030c000fff4d20",
    "sizes": "11011804050400013ca110fe",
    "bits": "12ffffffffffffffffff0105030001a7be58",
    "empty": "1000000000",
    "no indices": "1000e8070100",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_format_is_what_it_was(name):
    assert GOLDEN[name].to_bytes().hex() == GOLDEN_BYTES[name]
    assert RandomCode.from_bytes(bytes.fromhex(GOLDEN_BYTES[name])) == GOLDEN[name]


def test_equal_blocks_cost_their_indices_and_seven_bytes():
    code = RandomCode(seed=3, count=431_080, sizes=equal_sizes(431_080, 563), bits=(16,) * 563, indices=(9,) * 563)
    assert len(code.to_bytes()) == 563 * 2 + 8


@given(codes(), st.data())
def test_a_changed_byte_is_refused_or_another_code(code, data):
    """Without a digest a changed index is another valid code; nothing else may come of it but a `CorruptFileError`."""
    damaged = bytearray(code.to_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = RandomCode.from_bytes(bytes(damaged))
    except CorruptFileError:
        return
    assert other != code
    assert other.to_bytes() == bytes(damaged)


@given(codes())
@settings(max_examples=25)
def test_every_truncation_and_every_tail_is_refused(code):
    data = code.to_bytes()
    for wrong in [data[:i] for i in range(len(data))] + [data + b"\0", data + b"\1"]:
        with pytest.raises(CorruptFileError):
            RandomCode.from_bytes(wrong)


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x10", b"\x11", b"\x12", b"\x13"]))
def test_noise_is_refused(noise, start):
    data = start + noise
    with contextlib.suppress(CorruptFileError):
        assert RandomCode.from_bytes(data).to_bytes() == data


@pytest.mark.parametrize("flags", range(4))
@pytest.mark.parametrize("bits", [0, 1, 24])
def test_a_declared_size_allocates_nothing(flags, bits):
    header = bytes([0x10 | flags]) + to_varint(1) + to_varint(2**40) + to_varint(2**39) + bytes([bits])
    with pytest.raises(CorruptFileError):
        RandomCode.from_bytes(header + bytes(40))


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"seed": 1.0},
        {"count": 6},
        {"sizes": (5, 0)},
        {"sizes": (5,)},
        {"bits": (25, 2)},
        {"bits": (-1, 2)},
        {"bits": (0, 0), "indices": (0, 0)},
        {"indices": (8, 0)},
        {"indices": (-1, 0)},
    ],
)
def test_a_code_that_cannot_be_is_refused(wrong):
    right = {"seed": 1, "count": 5, "sizes": (3, 2), "bits": (3, 2), "indices": (7, 3)}
    RandomCode(**right)
    with pytest.raises(InputError):
        RandomCode(**right | wrong)


@given(st.lists(st.integers(0, 10_000)), st.integers(0, 24))
@settings(max_examples=50)
def test_rice_codes_and_varints_read_back(values, k):
    text = rice(values, k)
    assert len(text) >= len(rice(values, best_rice_parameter(values)))
    reader = BitReader(to_bytes(text))
    assert [reader.rice(k) for _ in values] == values
    assert from_varints(b"".join(map(to_varint, values)), 0, len(values))[0] == values


def test_reading_takes_linear_time():
    """Three million bits in well under 5 s: a quadratic reader would take minutes."""
    blocks = 200_000
    rng = np.random.default_rng(0)
    sizes = tuple(rng.integers(1, 40, blocks).tolist())
    indices = tuple(rng.integers(0, 1 << 16, blocks).tolist())
    code = RandomCode(seed=1, count=sum(sizes), sizes=sizes, bits=(16,) * blocks, indices=indices)
    assert RandomCode.from_bytes(code.to_bytes()) == code
