"""A coder that only counts bits, to choose among models."""

import numpy as np
from numpy.typing import ArrayLike

from pyro_bdl.compression.coding.protocol import (
    BIT_TOTAL,
    PRECISION,
    TOTAL,
    Frequencies,
    Integers,
    Model,
    as_integers,
    bits_to_first_one,
)


class Meter:
    """Counts the bits that `Encoder` would need, to choose among models. A float: it decides nothing when decoding."""

    decoding = False

    def __init__(self) -> None:
        self.bits = 0.0

    def block(self, frequencies: Frequencies, values: Integers) -> None:
        """See `Coder`."""
        if len(frequencies) > 1:
            self.bits += float(PRECISION * values.size - np.log2(frequencies)[values.reshape(-1)].sum())

    def until_one(self, ones: Frequencies, values: Integers) -> int:
        """See `Coder`."""
        count = bits_to_first_one(values)
        found = np.where(values[:count] > 0, ones[:count], TOTAL - ones[:count])
        self.bits += float(PRECISION * count - np.log2(found).sum())
        return count

    def bit(self, one: int, value: int) -> int:
        """See `Coder`."""
        self.bits += _BIT_COSTS[one if value else BIT_TOTAL - one]
        return value


def measure(values: ArrayLike, model: Model) -> float:
    """The bits that an array takes under a model, as `Encoder` would spend them.

    >>> from pyro_bdl.compression.coding.symbols import Static
    >>> measure([0, 1, 1], Static([1 << 23, 1 << 23]))
    3.0
    """
    meter = Meter()
    model.code(meter, as_integers(values))
    return meter.bits


_BIT_COSTS = [0.0, *(16 - np.log2(np.arange(1, BIT_TOTAL + 1))).tolist()]
