"""Models that look at where a cell stands: a mask, and signed integers, of arrays with up to 2^16 cells.

The contexts of a cell of a matrix are its row, its column and its two neighbours already coded (left, above); of an
array with more axes, as a filter bank (out, in, height, width), the index along the first, the second and the rest, the
first two together, and the neighbours. Small networks only: a bit takes some microseconds.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pyro_bdl.compression.coding.mixing import Decision, Settings
from pyro_bdl.compression.coding.protocol import Coder, Integers, corrupt, require_range
from pyro_bdl.compression.coding.symbols import Magnitudes
from pyro_bdl.errors import InputError

MOST_CELLS = 1 << 16
MOST_BITS = 1 << 17
MOST_UNARY = 14
SETTINGS = (Settings(), Settings(pull=4, rate=4_000), Settings(pull=16, weight=25_000))
NEIGHBOURS = 6


@dataclass(frozen=True)
class ContextMask:
    """Zeros and ones, of any shape, under the contexts of their places.

    Args:
        settings: which of the three `SETTINGS`: strong row and column effects as independent evidence, faster
            learning, or weak effects.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> mask = np.outer(np.arange(40) % 3 == 0, np.arange(60) % 5 == 0)
    >>> measure(mask, ContextMask()) < 0.6 * 2400 * 0.36  # the entropy of a cell alone is 0.36 bits
    True
    """

    settings: int = 0

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        if not coder.decoding:
            require_range(values, 2)
        require_cells(values.size)
        decision = _zero_or_not(coder, self.settings, values)
        flat = values.reshape(-1)
        known = flat.tolist()
        above = math.prod(values.shape[1:])
        for place, keys in enumerate(_places(values.shape)):
            near = _neighbours(known, place, above)
            known[place] = decision.code(coder, known[place], (*keys, near))
        if coder.decoding:
            flat[...] = known


@dataclass(frozen=True)
class ContextIntegers:
    """Signed integers, of any shape, most of them small: is it 0, is it negative, is it larger than 1, than 2, ...

    Each question is a decision of its own under the contexts of the cell's place; from 15 on what is left follows as
    `Magnitudes`. The binarisation of DeepCABAC (Wiedemann et al. 2020, section III), the contexts mixed.

    Args:
        settings: which of the three `SETTINGS`, see `ContextMask`.

    >>> from pyro_bdl.compression.coding.coder import Decoder, Encoder
    >>> encoder = Encoder()
    >>> encoder.put([[0, -3, 100], [0, 0, 1]], ContextIntegers())
    >>> Decoder(encoder.finish()).get((2, 3), ContextIntegers()).tolist()
    [[0, -3, 100], [0, 0, 1]]
    """

    settings: int = 0

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        require_cells(values.size)
        shares, settings = _shares(values.shape), SETTINGS[self.settings]
        some, negative = _zero_or_not(coder, self.settings, values), Decision(shares, settings)
        larger = [Decision(shares[:-1], settings) for _ in range(MOST_UNARY)]
        flat, left = values.reshape(-1), MOST_BITS
        given = flat.tolist()
        nonzero = [1 if value else 0 for value in given]
        sizes, signs, escaped = [0] * flat.size, [0] * flat.size, []
        above = math.prod(values.shape[1:])
        for place, keys in enumerate(_places(values.shape)):
            here = (*keys, _neighbours(nonzero, place, above))
            nonzero[place] = some.code(coder, nonzero[place], here)
            left -= 1
            if not nonzero[place]:
                continue
            value = given[place]
            signs[place] = negative.code(coder, int(value < 0), here)
            size = 1
            while size <= MOST_UNARY and larger[size - 1].code(coder, int(abs(value) > size), keys):
                size += 1
            if size > MOST_UNARY:
                escaped.append(place)
            sizes[place] = size
            left -= 1 + size
            if left < 0:
                raise too_many(coder, MOST_BITS, "binary decisions")
        rest = np.array([abs(given[place]) - MOST_UNARY - 1 for place in escaped], dtype=np.int64)
        if not coder.decoding and rest.size and int(rest.max()) >= 2**31 - MOST_UNARY - 1:
            raise InputError("values", expected="sizes below 2^31 - 1", got=f"{rest.max() + MOST_UNARY + 1}")
        more = np.clip(rest, 0, None).astype(np.int32)
        Magnitudes().code(coder, more)
        if not coder.decoding:
            return
        for place, beyond in zip(escaped, more.tolist(), strict=True):
            sizes[place] += beyond
            if sizes[place] >= 2**31:
                raise corrupt("32-bit integers", f"{sizes[place]}")
        flat[...] = [-size if sign else size for size, sign in zip(sizes, signs, strict=True)]


def settings_tried(size: int) -> int:
    """How many of the settings an encoder tries: time is short for the larger arrays."""
    return len(SETTINGS) if size <= 1 << 12 else 1


def require_cells(size: int) -> None:
    """Raise unless an array is small enough for a step per bit."""
    if size > MOST_CELLS:
        raise InputError("an array coded by contexts", expected=f"at most {MOST_CELLS} cells", got=f"{size}")


def too_many(coder: Coder, most: int, what: str) -> InputError:
    """The error for more steps than a stream may take: a damaged file's, or the caller's."""
    if coder.decoding:
        return corrupt(f"at most {most} {what}", "more")
    return InputError("values", expected=f"at most {most} {what}", got="more")


class _Notes:
    """A coder that only notes the frequencies of a 1."""

    def __init__(self) -> None:
        self.ones: list[int] = []

    def bit(self, one: int, value: int) -> int:
        self.ones.append(one)
        return value


class _Known:
    """A `Decision` about bits that are all known: only the coder is asked again."""

    def __init__(self, ones: Sequence[int]) -> None:
        self._ones = iter(ones)

    def code(self, coder: Coder, bit: int, keys: Sequence[int]) -> int:
        return coder.bit(next(self._ones), bit)


def _zero_or_not(coder: Coder, settings: int, values: Integers) -> Decision | _Known:
    if coder.decoding:
        return Decision(_shares(values.shape), SETTINGS[settings])
    return _Known(_frequencies(settings, values.shape, (values != 0).tobytes()))


@lru_cache(maxsize=len(SETTINGS))  # `ContextMask` and `ContextIntegers` ask the same first question
def _frequencies(settings: int, shape: tuple[int, ...], mask: bytes) -> Sequence[int]:
    """The frequencies of a 1 as they are after each bit of a mask that is known."""
    decision, notes = Decision(_shares(shape), SETTINGS[settings]), _Notes()
    above = math.prod(shape[1:])
    for place, keys in enumerate(_places(shape)):
        decision.code(notes, mask[place], (*keys, _neighbours(mask, place, above)))
    return notes.ones


def _shares(shape: tuple[int, ...]) -> Sequence[int]:
    return {0: (NEIGHBOURS,), 1: (NEIGHBOURS,), 2: (16, 16, NEIGHBOURS)}.get(len(shape), (16, 16, 16, 8, NEIGHBOURS))


def _places(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """For each cell, row by row, the contexts that its place gives."""
    if len(shape) < 2:
        return itertools.repeat((), math.prod(shape))
    if len(shape) == 2:
        return itertools.product(range(shape[0]), range(shape[1]))
    first, second, rest = shape[0], shape[1], math.prod(shape[2:])
    return ((i, j, k, i * second + j) for i in range(first) for j in range(second) for k in range(rest))


def _neighbours(known: Sequence[int], place: int, above: int) -> int:
    """The cell before and the cell `above` places before (in a matrix, the row above); 0 where there is none."""
    return (known[place - 1] if place else 0) + 2 * (known[place - above] if place >= above else 0)
