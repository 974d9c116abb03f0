r"""Which of many positions are kept: four codes for a mask, and the shortest of them.

`Bernoulli` counts all cells together; `RowsColumns` counts by row and by column; `Gaps` codes the distances between
ones; `ContextMask` mixes contexts, for up to 2^16 cells. `Mask` writes which of them it took.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyro_bdl.compression.coding.choice import Best
from pyro_bdl.compression.coding.contexts import MOST_CELLS, SETTINGS, ContextMask, settings_tried, too_many
from pyro_bdl.compression.coding.mixing import LIMIT, LOGISTIC, LOGS, SHIFTS, log
from pyro_bdl.compression.coding.protocol import BIT_TOTAL, TOTAL, Coder, Integers, Model, corrupt, require_range
from pyro_bdl.compression.coding.symbols import Adaptive, Magnitudes, number

MOST_STEPS = 1 << 16
REACH = 1 << 11


@dataclass(frozen=True)
class Bernoulli:
    """All cells alike: adaptive counts of zeros and ones.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> round(measure(np.arange(1000) % 50 == 0, Bernoulli()))  # the entropy is 141 bits
    146
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        Adaptive(2).code(coder, values)


@dataclass(frozen=True)
class RowsColumns:
    r"""Counts by row (first axis) and by column (all other axes), as independent evidence:

    .. math:: \frac{P(1)}{P(0)} = \frac{r_1}{r_0} \cdot \frac{c_1}{c_0} \cdot \frac{g_0}{g_1}

    with the counts r of the row, c of the column and g of all rows before, each row and column beginning with as many
    observations like those of all cells as have one of the rarer bit. A step per one and not per cell: for large,
    sparse matrices.

    Raises:
        InputError: more than 2^16 steps: ones, rows, and spans of zeros.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> mask = np.zeros((100, 500), dtype=int)
    >>> mask[::10, ::7] = 1
    >>> measure(mask, RowsColumns()) < 0.6 * measure(mask, Bernoulli())
    True
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        if not coder.decoding:
            require_range(values, 2)
        if values.size == 0:
            return
        table = values.reshape(values.shape[0] if values.ndim else 1, -1)
        rows, columns = table.shape
        column_ones = np.zeros(columns, dtype=np.int64)
        all_ones, seen, steps = 0, 0, 0
        for i in range(rows):
            row_ones, j = 0, 0
            by_column, by_ones, by_zeros = _logits(2 * all_ones + 1, 2 * (seen - all_ones) + 1, i, column_ones)
            while j < columns:
                steps += 1
                if steps > MOST_STEPS:
                    raise too_many(coder, MOST_STEPS, "ones, rows and spans of zeros")
                stop = min(j + min(32 + 4 * seen // (all_ones + 1), REACH), columns)
                cells = table[i, j:stop]
                logit = by_column[j:stop] + by_ones[row_ones] - by_zeros[j - row_ones : stop - row_ones]
                np.minimum(np.maximum(logit, 0, out=logit), 2 * LIMIT, out=logit)  # np.clip takes longer
                count = coder.until_one(_FREQUENCIES[logit], cells)
                if cells[count - 1]:
                    row_ones += 1
                    all_ones += 1
                    column_ones[j + count - 1] += 1
                j += count
                seen += count


@dataclass(frozen=True)
class Gaps:
    """How many zeros stand before each one: for ones in bunches, or very few.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> mask = np.zeros(100_000, dtype=int)
    >>> mask[500:700] = 1
    >>> measure(mask, Gaps()) < 120
    True
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        if not coder.decoding:
            require_range(values, 2)
        flat = values.reshape(-1)
        places = np.flatnonzero(flat)
        count = number(coder, len(places), flat.size + 1)
        gaps = (np.diff(places, prepend=-1) - 1).astype(np.int32) if not coder.decoding else np.zeros(count, np.int32)
        Magnitudes().code(coder, gaps)
        if coder.decoding and count:
            places = np.cumsum(gaps.astype(np.int64) + 1) - 1
            if int(places[-1]) >= flat.size:
                raise corrupt(f"positions below {flat.size}", f"{int(places[-1])}")
            flat[places] = 1


MASKS: tuple[Model, ...] = (
    Bernoulli(), Gaps(), RowsColumns(), *(ContextMask(settings) for settings in range(len(SETTINGS))),
)  # fmt: skip


@dataclass(frozen=True)
class Mask:
    """Zeros and ones of any shape by whichever code is shortest, which 2.6 bits name.

    >>> from pyro_bdl.compression.coding.coder import Decoder, Encoder
    >>> encoder = Encoder()
    >>> encoder.put(np.eye(5, dtype=int), Mask())
    >>> int(Decoder(encoder.finish()).get((5, 5), Mask()).trace())
    5
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        if not coder.decoding:
            require_range(values, 2)
        Best(MASKS, self._worth_trying(coder, values)).code(coder, values)

    def _worth_trying(self, coder: Coder, values: Integers) -> tuple[int, ...]:
        if coder.decoding:
            return ()
        ones = int(np.count_nonzero(values))
        steps = 2 * (ones + (values.shape[0] if values.ndim else 1)) + values.size // REACH
        if values.size <= MOST_CELLS:
            return (0, 1, *range(3, 3 + settings_tried(values.size)))
        return (0, 1, 2) if steps < MOST_STEPS else (0, 1)


def _logits(ones: int, zeros: int, row: int, column_ones: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """What the counts above a row say: by column, and what n ones and n zeros in the row itself will add and take away.

    Shifted by LIMIT, so as to point into the table of frequencies.
    """
    rarer = min(ones, zeros)
    common = log(ones) - log(zeros)
    by_column = _log(column_ones * rarer + ones) - _log((row - column_ones) * rarer + zeros) - common + LIMIT
    counts = np.arange(len(column_ones) + 1) * rarer
    return by_column, _log(counts + ones), _log(counts + zeros)


def _log(n: NDArray[np.int64]) -> NDArray[np.int64]:
    """`mixing.log` for arrays."""
    shift = np.maximum(np.frexp(n.astype(np.float64))[1].astype(np.int64) - 12, 0)
    return _LOGS[n >> shift] + _SHIFTS[shift]


_LOGS = np.array(LOGS, dtype=np.int64)
_SHIFTS = np.array(SHIFTS, dtype=np.int64)
_FREQUENCIES = np.array(LOGISTIC, dtype=np.int64) * (TOTAL // BIT_TOTAL)
