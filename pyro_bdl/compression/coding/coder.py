r"""The range coder: one stream for all of a network's numbers.

Models are integer tables of frequencies with the sum :math:`2^{24}`. The library's coder takes probabilities as
floating-point numbers and gives symbol :math:`k` of :math:`K` the interval that begins at

.. math:: k + \lfloor s \sum_{j<k} p_j \rfloor, \qquad s = (2^{24} - K) / \sum_j p_j

With :math:`p_k = f_k - 1` for integers :math:`f_k \ge 1` of sum :math:`2^{24}` the scale is exactly 1 and every number
is an integer below :math:`2^{53}`, so the intervals are the frequencies themselves on any machine and the file is the
same.
"""

from bisect import bisect_left
from functools import partial
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import ArrayLike, NDArray

from pyro_bdl.compression.coding.protocol import (
    BIT_TOTAL,
    CHUNK,
    MOST_SYMBOLS,
    TOTAL,
    Frequencies,
    Integers,
    Model,
    as_integers,
    bits_to_first_one,
    corrupt,
    require_range,
)
from pyro_bdl.errors import CorruptFileError, InputError

_BERNOULLI = stream.model.Categorical(perfect=False)
_BIT_MODELS: list[Any] = [None] * BIT_TOTAL


class Encoder:
    """Arrays of integers to bytes, each under its own model, in one stream.

    >>> from pyro_bdl.compression.coding.symbols import Adaptive
    >>> encoder = Encoder()
    >>> encoder.put([2, 0, 1, 1], Adaptive(3))
    >>> encoder.put([[0], [1]], Adaptive(2))
    >>> data = encoder.finish()
    >>> decoder = Decoder(data)
    >>> decoder.get(4, Adaptive(3)).tolist(), decoder.get((2, 1), Adaptive(2)).tolist()
    ([2, 0, 1, 1], [[0], [1]])
    >>> decoder.close()
    """

    decoding = False

    def __init__(self) -> None:
        self._coder = stream.queue.RangeEncoder()

    def put(self, values: ArrayLike, model: Model) -> None:
        """Append an array.

        Raises:
            InputError: not integers below 2^31 in size, too many of them, or not what the model can code; the stream is
                as it was.
        """
        array, before = as_integers(values), self._coder.clone()
        try:
            model.code(self, array)
        except BaseException:
            self._coder = before
            raise

    def finish(self) -> bytes:
        """The bytes so far: the shortest string whose every continuation by zeros lies in the coder's interval."""
        words = self._coder.get_compressed()
        position, (lower, width) = self._coder.pos()
        words = np.concatenate([words, np.zeros(max(position + 2 - len(words), 0), dtype=words.dtype)]).astype(">u4")
        for kept in (max(position - 6, 0), 0):  # the end nearly always decides; long strings make long numbers
            tail = words[kept:]
            after = 32 * (len(words) - position - 2)  # bits beyond the two words that the interval is given in
            sealed = int.from_bytes(tail.tobytes(), "big")
            start = sealed - ((sealed >> after) - lower) % (1 << 64) * (1 << after) - sealed % (1 << after)
            size = bisect_left(range(4 * len(tail)), True, key=partial(_reaches, start, width << after, 4 * len(tail)))
            if kept == 0 or (start > 0 and size > 0):
                break
        unit = 8 * (4 * len(tail) - size)
        return words[:kept].tobytes() + (-(-start >> unit)).to_bytes(size, "big")

    def block(self, frequencies: Frequencies, values: Integers) -> None:
        """See `Coder`."""
        require_range(values, len(frequencies))
        if len(frequencies) > 1 and values.size:
            self._coder.encode(np.ascontiguousarray(values).reshape(-1), _table(frequencies))

    def until_one(self, ones: Frequencies, values: Integers) -> int:
        """See `Coder`."""
        count = bits_to_first_one(values)
        if count:
            self._coder.encode(np.ascontiguousarray(values[:count]), _BERNOULLI, _bernoulli(ones[:count]))
        return count

    def bit(self, one: int, value: int) -> int:
        """See `Coder`."""
        self._coder.encode(value, _BIT_MODELS[one] or _bit_model(one))
        return value


class Decoder:
    """Bytes to arrays of integers: the same models and shapes in the same order.

    Args:
        data: what `Encoder.finish` gave.
        limit: the most symbols in all. Bytes say nothing about how many symbols they hold, so a hostile file
            could ask for any number of them: this is checked before anything is allocated.
    """

    decoding = True

    def __init__(self, data: bytes | bytearray | memoryview, *, limit: int = MOST_SYMBOLS) -> None:
        self._data, self._left, self._again = data, limit, Encoder()
        words = np.zeros(-(-len(data) // 4), dtype=">u4")
        words.view(np.uint8)[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        self._coder = stream.queue.RangeDecoder(words.astype(np.uint32))

    def get(self, shape: int | tuple[int, ...], model: Model) -> Integers:
        """The next array, int32.

        Raises:
            CorruptFileError: the bytes are not those of such an array, or ask for more than the limit.
        """
        shape, size = (shape,) if isinstance(shape, int | np.integer) else tuple(shape), 1
        for length in shape:
            if length < 0:
                raise InputError("shape", expected="no negative numbers", got=f"{shape}")
            size *= length
        if size > self._left:
            raise corrupt(f"at most {self._left} more symbols", f"{size}")
        self._left -= size
        values = np.zeros(shape, dtype=np.int32)
        model.code(self, values)
        return values

    def close(self) -> None:
        """Check that the arrays, encoded again on the way, give these bytes and no others.

        Raises:
            CorruptFileError: they do not: there are more bytes, or no encoder wrote them.
        """
        if self._again.finish() != self._data:
            raise corrupt("the bytes that these symbols have", "others")

    def block(self, frequencies: Frequencies, values: Integers) -> None:
        """See `Coder`."""
        flat = values.reshape(-1)
        if len(frequencies) == 1:
            flat[...] = 0
        elif flat.size:
            model = _table(frequencies)
            for start in range(0, flat.size, CHUNK):
                chunk = flat[start : start + CHUNK]
                try:
                    chunk[...] = self._coder.decode(model, chunk.size)
                except AssertionError as error:
                    raise _invalid() from error
            self._again.block(frequencies, flat)

    def until_one(self, ones: Frequencies, values: Integers) -> int:
        """See `Coder`. Decodes as if all bits were 0 and goes back where one was not."""
        tables, done, reach = _bernoulli(ones), 0, len(ones)
        while done < len(ones):
            before, part = self._coder.clone(), tables[done : done + reach]
            try:
                guess = self._coder.decode(_BERNOULLI, part)
            except AssertionError as error:  # beyond the first 1 the tables are wrong ones: look less far ahead
                if len(part) == 1:
                    raise _invalid() from error
                self._coder, reach = before, len(part) // 2
                continue
            count = bits_to_first_one(guess)
            values[done : done + count] = guess[:count]
            done += count
            if guess[count - 1]:
                if count < len(part):
                    self._coder = before
                    self._coder.decode(_BERNOULLI, part[:count])
                break
        self._again.until_one(ones[:done], values[:done])
        return done

    def bit(self, one: int, value: int) -> int:
        """See `Coder`."""
        try:
            found = int(self._coder.decode(_BIT_MODELS[one] or _bit_model(one)))
        except AssertionError as error:
            raise _invalid() from error
        return self._again.bit(one, found)


def _reaches(start: int, width: int, length: int, size: int) -> bool:
    """Whether [start, start + width), of numbers of `length` bytes, has one whose bytes from `size` on are 0."""
    unit = 8 * (length - size)
    return -(-start >> unit) << unit < start + width


def _invalid() -> CorruptFileError:
    return corrupt("symbols of this model", "bytes that no encoder wrote")


def _table(frequencies: Frequencies) -> Any:
    return stream.model.Categorical((frequencies - 1).astype(np.float64), perfect=False)


def _bernoulli(ones: Frequencies) -> NDArray[np.float64]:
    return np.stack([TOTAL - 1 - ones, ones - 1], axis=1).astype(np.float64)


def _bit_model(one: int) -> Any:
    scaled = one * (TOTAL // BIT_TOTAL)
    _BIT_MODELS[one] = _table(np.array([TOTAL - scaled, scaled]))
    return _BIT_MODELS[one]
