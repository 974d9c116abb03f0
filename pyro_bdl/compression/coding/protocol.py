"""What models and coders ask of one another: integers, tables of frequencies, and three ways to code them.

Every model is one function, `code(coder, values)`: an `Encoder` and a `Meter` read `values`, a `Decoder` fills them in.
The two directions cannot differ, as there is only one.
"""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_bdl.errors import CorruptFileError, InputError

PRECISION = 24
TOTAL = 1 << PRECISION
BIT_TOTAL = 1 << 16
MOST_SYMBOLS = 1 << 27
CHUNK = 1 << 16

Integers = NDArray[np.int32]
Frequencies = NDArray[np.int64]


class BitCoder(Protocol):
    """What a binary decision needs of a coder."""

    def bit(self, one: int, value: int) -> int:
        """One bit; `one` is the frequency of 1 out of 2^16. The bit."""


class Coder(BitCoder, Protocol):
    """What a model needs of a coder; `values` is read when encoding and filled in when decoding."""

    decoding: bool

    def block(self, frequencies: Frequencies, values: Integers) -> None:
        """Independent symbols under one table of integers >= 1 with the sum 2^24."""

    def until_one(self, ones: Frequencies, values: Integers) -> int:
        """Bits with a table each, up to the first 1; `ones` is the frequency of 1 out of 2^24. How many bits."""


class Model(Protocol):
    """How an array of integers is coded: the same steps in both directions."""

    def code(self, coder: Coder, values: Integers) -> None:
        """Code all of `values`, whose shape both sides know."""


def as_integers(values: ArrayLike) -> Integers:
    """An int32 array, without a copy if it is one.

    Raises:
        InputError: not integers, beyond 32 bits, or more than 2^27 of them.
    """
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int32)
    if array.dtype == bool:
        array = array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError("values", expected="integers", got=f"{array.dtype}")
    if array.size > MOST_SYMBOLS:
        raise InputError("values", expected=f"at most {MOST_SYMBOLS}", got=f"{array.size}")
    if array.dtype != np.int32 and array.size and (int(array.min()) < -(2**31) or int(array.max()) >= 2**31):
        raise InputError("values", expected="32-bit integers", got=f"{array.min()} to {array.max()}")
    return np.ascontiguousarray(array, dtype=np.int32).reshape(array.shape)


def require_range(values: Integers, size: int) -> None:
    """Raise unless all values are in [0, size)."""
    if values.size and (int(values.min()) < 0 or int(values.max()) >= size):
        raise InputError("symbols", expected=f"integers in [0, {size})", got=f"{values.min()} to {values.max()}")


def require_table(frequencies: Frequencies) -> None:
    """Raise unless these are integers >= 1 with the sum 2^24."""
    if not len(frequencies) or int(frequencies.min()) < 1 or int(frequencies.sum()) != TOTAL:
        raise InputError("a table of frequencies", expected="integers >= 1 with the sum 2^24", got=f"{frequencies}")


def corrupt(expected: str, got: str) -> CorruptFileError:
    """The error for a stream that no encoder wrote."""
    return CorruptFileError("the coded stream", expected=expected, got=got)


def bits_to_first_one(values: Integers) -> int:
    """How many bits there are up to the first 1, or in all."""
    first = int(values.argmax()) if len(values) else 0
    return first + 1 if len(values) and values[first] else len(values)
