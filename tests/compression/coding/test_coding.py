"""Round trips, coded lengths against the ideal, and the range coder against one in exact integers."""

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from pyro_bdl.compression.coding import contexts, mixing, sparse
from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.contexts import ContextIntegers, ContextMask
from pyro_bdl.compression.coding.floats import Floats, get_floats, put_floats
from pyro_bdl.compression.coding.meter import measure
from pyro_bdl.compression.coding.protocol import TOTAL, Model
from pyro_bdl.compression.coding.sparse import Bernoulli, Gaps, Mask, RowsColumns
from pyro_bdl.compression.coding.symbols import Adaptive, Magnitudes, Static, Symbols, Uniform
from pyro_bdl.compression.coding.tables import frequencies, shape_weights
from pyro_bdl.compression.coding.weights import Dense, Signed, Sparse, Weights
from pyro_bdl.errors import CorruptFileError, InputError

GOLDEN = Path(__file__).parents[1] / "golden"
MASKS = [Bernoulli(), Gaps(), RowsColumns(), Mask(), *(ContextMask(i) for i in range(3))]
SIGNED = [Signed(), Sparse(), Weights(), *(ContextIntegers(i) for i in range(3))]


def round_trip(values: np.ndarray, model: Model) -> int:
    encoder = Encoder()
    encoder.put(values, model)
    data = encoder.finish()
    decoder = Decoder(data)
    found = decoder.get(values.shape, model)
    decoder.close()
    assert found.shape == values.shape
    np.testing.assert_array_equal(found, values)
    cut = 2e-4 * values.size  # the coder cuts its interval to whole units: about 1.3e-4 bits a symbol
    assert len(data) <= (1.0002 * measure(values, model) + cut) / 8 + 1.01
    return len(data)


shapes = st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple)


@st.composite
def arrays(draw: st.DrawFn, least: int, most: int) -> np.ndarray:
    shape, seed = draw(shapes), draw(st.integers(0, 2**32 - 1))
    low = draw(st.integers(least, most))
    high = draw(st.sampled_from([low, min(low + 1, most), min(low + 20, most), most]))
    values = np.random.default_rng(seed).integers(low, high, shape, endpoint=True)
    return values * (np.random.default_rng(seed).random(shape) < draw(st.sampled_from([0.1, 0.5, 1.0])))


@given(arrays(0, 1))
@settings(max_examples=25, deadline=None)
def test_masks_round_trip(values: np.ndarray) -> None:
    for model in MASKS:
        round_trip(values, model)


@given(arrays(-3000, 3000))
@settings(max_examples=12, deadline=None)
def test_signed_integers_round_trip(values: np.ndarray) -> None:
    for model in SIGNED:
        round_trip(values, model)


@given(arrays(0, 2**31 - 2), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_magnitudes_and_symbols_round_trip(values: np.ndarray, more: int) -> None:
    round_trip(values, Magnitudes())
    most = int(values.max(initial=0))
    round_trip(values, Uniform(min(most + 1 + more, 2**31)))
    for model in (Symbols(60), Adaptive(60), Static(frequencies(np.arange(60)))):
        round_trip(values % 60, model)


@given(arrays(-(2**31), 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_bits_of_floats_round_trip(values: np.ndarray) -> None:
    round_trip(values, Floats())
    numbers = values.astype(np.int32).view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    encoder = Encoder()
    put_floats(encoder, torch.from_numpy(numbers))
    decoder = Decoder(encoder.finish())
    np.testing.assert_array_equal(get_floats(decoder, numbers.shape).numpy().view(np.int32), numbers.view(np.int32))
    decoder.close()


def test_floats_that_are_none_are_refused() -> None:
    encoder = Encoder()
    put_floats(encoder, torch.tensor([1.0, torch.inf]))
    with pytest.raises(CorruptFileError, match="finite"):
        get_floats(Decoder(encoder.finish()), 2)


def test_floats_that_are_alike_cost_one() -> None:
    assert round_trip(np.full(10_000, np.float32(-0.99999)).view(np.int32), Floats()) <= 5
    assert round_trip(np.append(np.zeros(99, np.int32), 1), Floats()) > 300


EXTREMES = np.array([2**31 - 1, -(2**31) + 1, 0, 1, -1])


@pytest.mark.parametrize("model", [ContextIntegers(0)])
def test_extreme_integers(model: Model) -> None:
    round_trip(EXTREMES, model)


def test_a_range_too_wide_for_a_table_still_has_a_code() -> None:
    round_trip(EXTREMES, Weights())
    round_trip(EXTREMES // 2, Signed())
    round_trip(EXTREMES // 2, Sparse())
    with pytest.raises(InputError, match="range"):
        measure(EXTREMES, Dense())


@pytest.mark.parametrize(
    ("values", "model", "most"),
    [
        (np.zeros(0, int), Symbols(7), 0),
        (np.zeros(1000, int), Symbols(1), 0),
        (np.zeros(1000, int), Adaptive(1), 0),
        (np.zeros((0, 5), int), Weights(), 0),
        (np.zeros(431_000, int), Weights(), 4),
        (np.ones((500, 800), int), Mask(), 5),
        (np.full(1000, 3), Symbols(16), 6),
        (np.full(1000, -7), Weights(), 5),
    ],
)
def test_degenerate_arrays_cost_next_to_nothing(values: np.ndarray, model: Model, most: int) -> None:
    assert round_trip(values, model) <= most


def test_65536_symbols() -> None:
    values = np.random.default_rng(0).integers(0, 65536, 3000)
    assert round_trip(values, Uniform(65536)) == 6000
    round_trip(values, Adaptive(65536))
    round_trip(np.arange(65536), Static(frequencies(np.ones(65536, int))))


# ---- lengths


def krichevsky_trofimov(values: np.ndarray, size: int, prior: float) -> float:
    n = np.bincount(values.ravel(), minlength=size)
    nats = gammaln(n.sum() + size * prior) - gammaln(size * prior) - (gammaln(n + prior) - gammaln(prior)).sum()
    return float(nats / math.log(2))


@pytest.mark.parametrize(("size", "count"), [(2, 500), (2, 100_000), (16, 300), (16, 5000), (300, 5000)])
def test_adaptive_length_is_the_ideal_one(size: int, count: int) -> None:
    values = np.minimum(np.random.default_rng(1).geometric(0.2, count) - 1, size - 1)
    ideal = krichevsky_trofimov(values, size, 0.5) / 8
    assert ideal * 0.98 - 2 <= round_trip(values, Adaptive(size)) <= ideal * 1.02 + 2


@pytest.mark.parametrize("shape", ["geometric", "gaussian"])
def test_symbols_find_the_shape(shape: str) -> None:
    table = frequencies(shape_weights(shape, 64, centre=31, decay=11))
    values = np.random.default_rng(2).choice(64, 2000, p=table / TOTAL)
    entropy = -(table / TOTAL * np.log2(table / TOTAL)).sum() * 2000 / 8
    assert abs(measure(values, Static(table)) / 8 - entropy) < 0.05 * entropy  # 6 deviations
    assert round_trip(values, Symbols(64)) <= measure(values, Static(table)) / 8 * 1.02 + 4
    assert measure(values, Symbols(64)) < measure(values, Adaptive(64)) - 80


def two_way_mask(rows: int, columns: int, spread: float, level: float) -> tuple[np.ndarray, float, float]:
    rng = np.random.default_rng(3)
    logits = level + spread * (rng.standard_normal((rows, 1)) + rng.standard_normal((1, columns)))
    p = 1 / (1 + np.exp(-logits))
    mask = (rng.random((rows, columns)) < p).astype(int)
    return mask, -np.log2(np.where(mask, p, 1 - p)).sum(), krichevsky_trofimov(mask, 2, 0.5)


@pytest.mark.parametrize(("rows", "columns", "spread", "level"), [(16, 160, 1.0, -1.0), (60, 120, 1.5, -2.5)])
def test_contexts_learn_rows_and_columns(rows: int, columns: int, spread: float, level: float) -> None:
    mask, told, alone = two_way_mask(rows, columns, spread, level)
    effects = (rows + columns) * 0.5 * math.log2(mask.size)  # what a parameter costs (Rissanen): at most
    for model in (ContextMask(), RowsColumns()):
        found = 8 * round_trip(mask, model)
        assert told < found < min(told + effects, 0.95 * alone)
    assert round_trip(mask, Mask()) <= min(round_trip(mask, model) for model in MASKS if model != Mask()) + 1


def test_contexts_cost_little_where_there_is_nothing_to_learn() -> None:
    mask, _, alone = two_way_mask(100, 200, 0.0, -3.0)
    for model in (ContextMask(0), ContextMask(2)):
        assert 8 * round_trip(mask, model) < 1.03 * alone
    assert 8 * round_trip(mask, Mask()) < 1.005 * alone + 16


def test_rows_and_columns_scale() -> None:
    mask, told, alone = two_way_mask(500, 800, 1.5, -7.0)
    assert told < 8 * round_trip(mask, Mask()) < 0.9 * alone


def test_one_stream_for_many_arrays_costs_no_flushes() -> None:
    encoder, total = Encoder(), 0.0
    parts = [(np.random.default_rng(i).integers(0, 5, 20), Adaptive(5)) for i in range(50)]
    for values, model in parts:
        encoder.put(values, model)
        total += measure(values, model)
    data = encoder.finish()
    assert len(data) <= total / 8 + 1
    decoder = Decoder(data)
    for values, model in parts:
        np.testing.assert_array_equal(decoder.get(20, model), values)
    decoder.close()


# ---- exactness


class ExactDecoder:
    """The format's definition, in Python's integers: a subdivision of [0, 2^(64 + 32 n)) by whole frequencies."""

    decoding = True

    def __init__(self, data: bytes) -> None:
        self.words = [int.from_bytes(data[i : i + 4].ljust(4, b"\0"), "big") for i in range(0, len(data), 4)] + [0] * 99
        self.width, self.point, self.at = 2**64 - 1, self.words[0] << 32 | self.words[1], 2

    def symbol(self, table: list[int]) -> int:
        scale, left = self.width >> 24, 0
        target = self.point // scale
        symbol = 0
        while target >= left + table[symbol]:
            left += table[symbol]
            symbol += 1
        self.point -= scale * left
        self.width = scale * table[symbol]
        if self.width < 2**32:
            self.width <<= 32
            self.point = self.point << 32 | self.words[self.at]
            self.at += 1
        return symbol

    def block(self, table: np.ndarray, values: np.ndarray) -> None:
        values[...] = [self.symbol(table.tolist()) if len(table) > 1 else 0 for _ in range(values.size)]

    def until_one(self, ones: np.ndarray, values: np.ndarray) -> int:
        for i, one in enumerate(ones.tolist()):
            values[i] = self.symbol([TOTAL - one, one])
            if values[i]:
                return i + 1
        return len(ones)

    def bit(self, one: int, value: int) -> int:
        return self.symbol([(2**16 - one) << 8, one << 8])


def test_the_library_divides_by_exactly_our_integers() -> None:
    rng = np.random.default_rng(4)
    for size in (2, 3, 17, 1000):
        table = frequencies(rng.integers(1, 1 << 20, size) ** rng.integers(1, 2, size))
        values = rng.choice(size, 400, p=table / TOTAL)
        encoder = Encoder()
        encoder.put(values, Static(table))
        exact = np.zeros(400, dtype=np.int32)
        Static(table).code(ExactDecoder(encoder.finish()), exact)
        np.testing.assert_array_equal(exact, values)


def golden_arrays() -> list[tuple[np.ndarray, Model]]:
    """Small integers from a linear congruence: the same on every machine and version."""
    state, numbers = 1, []
    for _ in range(700):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        numbers.append(state >> 16)
    n = np.array(numbers)
    small = n[:400] % 8 * (n[:400] % 3 == 0) - (n[:400] % 5 == 0)
    mask = (n[:400] % 100 < np.arange(400) % 40).astype(int)
    return [
        (small.reshape(20, 20), Weights()), (small.reshape(4, 5, 4, 5), ContextIntegers(1)), (small, Sparse()),
        (small, Dense()), (mask.reshape(10, 40), ContextMask(0)), (mask.reshape(10, 40), RowsColumns()),
        (mask, Gaps()), (mask, Bernoulli()), (n[400:] % 12, Symbols(12)), (n[400:], Magnitudes()),
        (n[400:], Uniform(1 << 20)), (n[400:] % 9, Static(frequencies(np.arange(9)))),
    ]  # fmt: skip


def test_the_golden_file_decodes_bit_for_bit_and_is_written_again() -> None:
    data = (GOLDEN / "stream_1.bin").read_bytes()
    decoder, encoder = Decoder(data), Encoder()
    exact = ExactDecoder(data)
    for values, model in golden_arrays():
        np.testing.assert_array_equal(decoder.get(values.shape, model), values)
        again = np.zeros(values.shape, dtype=np.int32)
        model.code(exact, again)
        np.testing.assert_array_equal(again, values)
        encoder.put(values, model)
    decoder.close()
    assert encoder.finish() == data


def test_no_entry_of_the_tables_hangs_on_the_last_digit_of_a_machines_log_or_exp() -> None:
    with mpmath.workdps(40):
        exact = [mixing.STEP * mpmath.log(n) for n in range(1, 4097)]
        exact += [
            2**16 / (1 + mpmath.exp(-mpmath.mpf(x) / mixing.STEP)) for x in range(-mixing.LIMIT, mixing.LIMIT + 1)
        ]
        margin = min(abs(x - mpmath.floor(x) - 0.5) for x in exact)
        assert margin > 1e-6
        assert [int(mpmath.nint(x)) for x in exact[:4096]] == mixing.LOGS[1:]


def test_the_integer_logarithm() -> None:
    for n in [1, 2, 3, 4095, 4096, 4097, 10**6, 10**12, 2**55 + 1]:
        assert abs(mixing.log(n) - 256 * math.log(n)) < 0.7


# ---- mutants: what must not pass unseen


@pytest.mark.parametrize("mutant", ["table off by one", "another prior"])
def test_two_sides_that_differ_are_found(mutant: str) -> None:
    values = np.random.default_rng(5).integers(0, 6, 300)
    encoder = Encoder()
    encoder.put(values, Adaptive(6))
    decoder = Decoder(encoder.finish())
    model: Model = Adaptive(6, prior=64 if mutant == "another prior" else 128)
    if mutant == "table off by one":
        model = Adaptive(6, prior=[129, 128, 128, 128, 128, 128])

    def decode() -> None:
        decoder.get(300, model)
        decoder.close()

    with pytest.raises(CorruptFileError):  # other symbols than were written: their shortest bytes are others, too
        decode()


# ---- bad input


@pytest.mark.parametrize(
    ("values", "model"),
    [
        ([0, 5], Adaptive(5)), ([-1], Adaptive(5)), ([0.5], Adaptive(5)), ([2], Mask()), ([-1], Magnitudes()),
        ([2**31 - 1], Magnitudes()), ([2**40], Weights()), ([8], Uniform(8)), (["a"], Weights()),
        ([-(2**31)], Weights()),
    ],
)  # fmt: skip
def test_bad_values_are_refused_and_the_stream_is_as_it_was(values: list, model: Model) -> None:
    encoder = Encoder()
    encoder.put([1, 2, 3], Adaptive(5))
    before = encoder.finish()
    with pytest.raises(InputError):
        encoder.put(values, model)
    assert encoder.finish() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda: Static([1, 2]), lambda: Static([TOTAL, 0]), lambda: Static([]), lambda: Adaptive(0),
        lambda: Adaptive(2**20), lambda: Adaptive(3, prior=0), lambda: Adaptive(3, prior=[1, 2]),
        lambda: frequencies([0, 0]), lambda: frequencies([]), lambda: frequencies([-1, 2]), lambda: frequencies([0.5]),
        lambda: frequencies([2**62, 2**62]), lambda: shape_weights("cauchy", 3, centre=0, decay=1),
        lambda: shape_weights("gaussian", 3, centre=3, decay=1), lambda: Decoder(b"").get(-1, Adaptive(2)),
        lambda: measure([0], Uniform(0)), lambda: measure([0], Symbols(0)),
    ],
)  # fmt: skip
def test_bad_models_are_refused(make) -> None:
    with pytest.raises(InputError):
        make()


def test_read_only_arrays_are_left_alone() -> None:
    values = np.array([[0, 1], [1, 0]], dtype=np.int32)
    values.flags.writeable = False
    for model in [*MASKS, *SIGNED, Adaptive(2), Symbols(2), Magnitudes(), Uniform(2)]:
        round_trip(values, model)


def test_strided_arrays() -> None:
    values = np.arange(24, dtype=np.int32).reshape(4, 6)[:, ::2].T
    for model in SIGNED:
        round_trip(values, model)


def test_arrays_beyond_the_contexts_caps(monkeypatch) -> None:
    with pytest.raises(InputError, match="at most"):
        measure(np.zeros(contexts.MOST_CELLS + 1, int), ContextMask())
    monkeypatch.setattr(contexts, "MOST_BITS", 1000)
    monkeypatch.setattr(sparse, "MOST_STEPS", 1000)
    with pytest.raises(InputError, match="decisions"):
        measure(np.full(1000, 9), ContextIntegers())
    with pytest.raises(InputError, match="ones"):
        measure(np.ones((30, 40), int), RowsColumns())
    round_trip(np.ones((30, 40), int), Mask())
