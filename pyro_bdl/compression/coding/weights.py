"""A whole array of quantised weights: integers of any shape, many of them 0."""

from dataclasses import dataclass

import numpy as np

from pyro_bdl.compression.coding.choice import Best
from pyro_bdl.compression.coding.contexts import MOST_CELLS, SETTINGS, ContextIntegers, settings_tried
from pyro_bdl.compression.coding.protocol import Coder, Integers, Model, corrupt
from pyro_bdl.compression.coding.sparse import Mask
from pyro_bdl.compression.coding.symbols import Adaptive, Magnitudes, Symbols, number
from pyro_bdl.compression.coding.tables import MOST_SIZE
from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class Dense:
    """Signed integers within a range that is written first, all alike: 0 is no special number.

    The range has at most 1024 values or 4 for each integer, and 2^18: a wide table for few symbols takes time.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> measure([-7, -7, -7], Dense()) < 30
    True
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        if values.size == 0:
            return
        least, size = _code_range(coder, values)
        symbols = values if coder.decoding else np.subtract(values, least, dtype=np.int32)
        Symbols(size).code(coder, symbols)
        if coder.decoding:
            values += least


@dataclass(frozen=True)
class Signed:
    """Signed integers of any size below 2^31 - 1: `Magnitudes`, then the signs.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> measure([-(2**31 - 2), 0, 5], Signed()) < 60
    True
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        sizes = np.abs(values)
        Magnitudes().code(coder, sizes)
        some = sizes != 0
        signs = (values[some] < 0).astype(np.int32)
        Adaptive(2).code(coder, signs)
        if coder.decoding:
            values[...] = sizes
            values[some] *= 1 - 2 * signs


@dataclass(frozen=True)
class Sparse:
    """Signed integers: the mask of those that are not 0, then these under `Dense` or `Signed`.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> values = np.where(np.arange(10_000) % 100 == 0, 5, 0)
    >>> measure(values, Sparse()) < 900
    True
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        mask = (values != 0).astype(np.int32)
        Mask().code(coder, mask)
        kept = mask != 0
        some = values[kept]
        if some.size:
            Best(VALUES, (0, 1)).code(coder, some)
        if coder.decoding:
            values[kept] = some


VALUES: tuple[Model, ...] = (Dense(), Signed())
WEIGHTS: tuple[Model, ...] = (
    Dense(), Signed(), Sparse(), *(ContextIntegers(settings) for settings in range(len(SETTINGS))),
)  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Signed integers of any shape, the shortest of `Dense`, `Signed`, `Sparse`, `ContextIntegers` (to 2^16 cells).

    Give filters as (out, in, height, width), matrices as (out, in): the axes are the contexts.

    >>> from pyro_bdl.compression.coding.coder import Decoder, Encoder
    >>> encoder = Encoder()
    >>> encoder.put([[0, 3], [-2, 0]], Weights())
    >>> Decoder(encoder.finish()).get((2, 2), Weights()).tolist()
    [[0, 3], [-2, 0]]
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        if values.size:
            few = settings_tried(values.size) if values.size <= MOST_CELLS else 0
            Best(WEIGHTS, tuple(range(3 + few))).code(coder, values)


def _code_range(coder: Coder, values: Integers) -> tuple[int, int]:
    """The least value and the number of values from it to the largest."""
    least, most = (0, 0) if coder.decoding else (int(values.min()), int(values.max()))
    widest = min(max(1 << 10, 4 * values.size), MOST_SIZE)
    if not coder.decoding and (most - least >= widest or max(-least, most) >= 2**31 - 1):
        raise InputError("values", expected=f"a range of at most {widest}", got=f"{least} to {most}")
    head = np.array([abs(least), most - least], dtype=np.int32)
    Magnitudes().code(coder, head)
    least = -int(head[0]) if number(coder, int(least < 0), 2) else int(head[0])
    if coder.decoding and (int(head[1]) >= widest or least + int(head[1]) >= 2**31):
        raise corrupt(f"a range of at most {widest}", f"{int(head[1]) + 1}")
    return least, int(head[1]) + 1
