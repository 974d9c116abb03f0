"""Damaged and hostile files: always one of our errors, soon, and without taking memory."""

import contextlib
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from pyro_bdl.compression.coding import protocol
from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.container import (
    DIGEST,
    _digest,
    fingerprint,
    pack,
    read_container,
    unpack,
    write_container,
)
from pyro_bdl.compression.coding.contexts import ContextIntegers, ContextMask
from pyro_bdl.compression.coding.protocol import Model
from pyro_bdl.compression.coding.sparse import Bernoulli, Gaps, Mask, RowsColumns
from pyro_bdl.compression.coding.symbols import Adaptive, Magnitudes, Symbols, Uniform
from pyro_bdl.compression.coding.weights import Dense, Signed, Sparse, Weights
from pyro_bdl.errors import CorruptFileError, InputError

ARCH = fingerprint({"w": (40, 40)})
PLAN: list[tuple[tuple[int, ...], Model]] = [
    ((40, 40), Weights()), ((4, 5, 3, 3), ContextIntegers()), ((40, 20), ContextMask()), ((50, 50), RowsColumns()),
    ((300,), Gaps()), ((300,), Bernoulli()), ((20, 30), Mask()), ((20, 30), Sparse()), ((200,), Dense()),
    ((200,), Signed()), ((100,), Symbols(300)), ((100,), Magnitudes()),
    ((50,), Uniform(10**6)), ((60,), Adaptive(5)),
]  # fmt: skip


def arrays() -> Iterator[tuple[np.ndarray, Model]]:
    rng = np.random.default_rng(0)
    for shape, model in PLAN:
        binary = isinstance(model, ContextMask | RowsColumns | Gaps | Bernoulli | Mask)
        values = rng.integers(0, 2 if binary else 5, shape)
        yield values * (rng.random(shape) < 0.3), model


def stream() -> bytes:
    encoder = Encoder()
    for values, model in arrays():
        encoder.put(values, model)
    return encoder.finish()


def decode(content: bytes) -> None:
    decoder = Decoder(unpack(content, kind=1, architecture=ARCH).sections[-1])
    for shape, model in PLAN:
        decoder.get(shape, model)
    decoder.close()


@pytest.fixture(scope="module")
def content() -> bytes:
    """A file of 4 KB."""
    body = stream()
    made = pack([bytes(4096 - 16 - 2 - len(body)), body], kind=1, architecture=ARCH)
    assert len(made) == 4096
    decode(made)
    return made


def refused(content: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(CorruptFileError):
        decode(content)
    assert time.process_time() - begun < 1


def test_every_bit_flipped(content: bytes) -> None:
    damaged = bytearray(content)
    for bit in range(8 * len(content)):
        damaged[bit >> 3] ^= 1 << (bit & 7)
        refused(damaged)
        damaged[bit >> 3] ^= 1 << (bit & 7)
    decode(damaged)


def test_every_truncation_and_additions(content: bytes) -> None:
    for size in range(len(content)):
        refused(content[:size])
    for more in (b"\0", b"a", content):
        refused(content + more)
        refused(more + content)


def test_10_000_splices(content: bytes) -> None:
    rng = np.random.default_rng()
    other = pack([rng.bytes(3000)], kind=1, architecture=ARCH)
    for _ in range(10_000):
        source = content if rng.random() < 0.5 else other
        start, at = rng.integers(0, len(source)), int(rng.integers(0, len(content)))
        piece = source[start : start + rng.integers(1, 400)]
        skipped = len(piece) if rng.random() < 0.5 else int(rng.integers(0, 400))
        spliced = content[:at] + piece + content[at + skipped :]
        if spliced != content:
            refused(spliced)


def test_a_damaged_file_on_disk(content: bytes, tmp_path) -> None:
    path = tmp_path / "n.bdl"
    write_container(path, [stream()], kind=1, architecture=ARCH)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CorruptFileError):
        read_container(path, kind=1, architecture=ARCH)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    body = bytearray(content[:-DIGEST])
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(2, len(body)))
        match rng.integers(4):
            case 0:
                body[at] ^= 1 << int(rng.integers(8))
            case 1:
                body[at : at + int(rng.integers(1, 40))] = rng.bytes(int(rng.integers(0, 40)))
            case 2:
                del body[at:]
                body += bytes(max(0, 8 - len(body)))
            case 3:
                body[at : at + 8] = bytes([int(rng.choice([0, 255]))]) * 8
    return bytes(body) + _digest([bytes(body)])


def test_fuzz_behind_the_digest() -> None:
    small, rng = pack([b"abc", stream()], kind=1, architecture=ARCH), np.random.default_rng()
    slowest, refusals = 0.0, 0
    for _ in range(30):
        begun = time.process_time()
        try:
            decode(mutated(small, rng))
        except InputError:
            refusals += 1
        slowest = max(slowest, time.process_time() - begun)
    assert slowest < 5
    assert refusals > 15  # nearly all: the symbols' shortest bytes are compared with the file's


@pytest.mark.slow
def test_much_fuzz_behind_the_digest() -> None:
    small, rng = pack([b"abc", stream()], kind=1, architecture=ARCH), np.random.default_rng()
    for _ in range(10_000):
        begun = time.process_time()
        with contextlib.suppress(InputError):
            decode(mutated(small, rng))
        assert time.process_time() - begun < 5


@pytest.mark.parametrize(("shape", "model"), PLAN, ids=lambda x: type(x).__name__ if not isinstance(x, tuple) else "")
def test_random_bytes_under_each_model(shape: tuple[int, ...], model: Model) -> None:
    rng = np.random.default_rng()
    for size in [0, 1, 2, 3, 4, 5, 8, 50, 400]:
        for data in (rng.bytes(size), bytes([255]) * size, bytes(size)):
            with contextlib.suppress(CorruptFileError):
                decoder = Decoder(data)
                decoder.get(shape, model)
                decoder.close()


@pytest.mark.parametrize("model", [ContextMask(), ContextIntegers(), RowsColumns()])
def test_the_most_steps_that_a_stream_may_ask_for(model: Model) -> None:
    """Ones wherever the contexts would rather have none: bytes of 255 decode as the last symbol, again and again."""
    rng = np.random.default_rng()
    shape = (1 << 13, 1 << 13) if isinstance(model, RowsColumns) else (256, 256)
    for data in (bytes([255]) * 100_000, rng.bytes(100_000)):
        begun = time.process_time()
        with contextlib.suppress(CorruptFileError):
            Decoder(data).get(shape, model)
        assert time.process_time() - begun < 5


def test_bombs_are_refused_before_memory_is_taken() -> None:
    tracemalloc.start()
    try:
        for shape in [(1 << 40,), (1 << 14, 1 << 14), (1 << 20, 1 << 20, 1 << 20)]:
            with pytest.raises(CorruptFileError, match="more symbols"):
                Decoder(b"abc").get(shape, Bernoulli())
        decoder = Decoder(b"abc", limit=1000)
        decoder.get(600, Bernoulli())
        with pytest.raises(CorruptFileError, match="at most 400"):
            decoder.get(401, Bernoulli())
        lengths = b"\xff\xff\xff\xff\x0f"  # a section of 4 GB in a file of 30 bytes
        body = b"\xbdL\x01\x11" + ARCH + lengths + b"abc"
        refused(body + _digest([body]))
        body = b"\xbdL\x01\x11" + ARCH + b"\xff" * 20  # a length without an end
        refused(body + _digest([body]))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_too_many_values_are_refused_when_writing(monkeypatch) -> None:
    monkeypatch.setattr(protocol, "MOST_SYMBOLS", 1000)
    with pytest.raises(InputError, match="at most 1000"):
        Encoder().put(np.zeros(1001, int), Bernoulli())


# ---- load


def lenet_5() -> list[np.ndarray]:
    """431,000 positions, 3,000 of them kept."""
    rng, found = np.random.default_rng(1), []
    for shape, kept in [((20, 1, 5, 5), 200), ((50, 20, 5, 5), 1000), ((500, 800), 1500), ((10, 500), 300)]:
        values = np.zeros(int(np.prod(shape)), dtype=np.int32)
        sizes = rng.geometric(0.3, kept)
        values[rng.choice(values.size, kept, replace=False)] = sizes * rng.choice([-1, 1], kept)
        found.append(values.reshape(shape))
    return found


def test_lenet_5_takes_a_second_each_way() -> None:
    encoder, tensors = Encoder(), lenet_5()
    begun = time.process_time()
    for values in tensors:
        encoder.put(values, Weights())
    data = encoder.finish()
    encoded = time.process_time()
    decoder = Decoder(data)
    for values in tensors:
        np.testing.assert_array_equal(decoder.get(values.shape, Weights()), values)
    decoder.close()
    decoded = time.process_time()
    assert encoded - begun < 3  # measured 0.8 to 1.2 on one core, with four others at work
    assert decoded - encoded < 1


@pytest.mark.slow
def test_ten_million_weights(tmp_path) -> None:
    def cycle(count: int) -> tuple[float, float]:
        rng = np.random.default_rng(2)
        values = (rng.standard_normal(count, dtype=np.float32) * 5).astype(np.int32)
        tracemalloc.start()
        begun = time.process_time()
        encoder = Encoder()
        encoder.put(values, Dense())
        write_container(tmp_path / "n.bdl", [encoder.finish()], kind=1, architecture=ARCH)
        saving = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        del encoder
        decoder = Decoder(read_container(tmp_path / "n.bdl", kind=1, architecture=ARCH).sections[0])
        found = decoder.get((count,), Dense())
        decoder.close()
        loading = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(found, values)
        return time.process_time() - begun, max(saving, loading) / values.nbytes

    quick, _ = cycle(1_000_000)
    long, peak = cycle(10_000_000)
    assert peak <= 2.5
    assert long < 20 * quick
