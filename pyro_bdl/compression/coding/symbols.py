r"""Models for independent symbols 0..K-1: uniform, a static table, adaptive counts, and the best of several.

An adaptive count model needs no table in the file. It costs what the two-part code with the best table costs, up to a
constant, and is shorter for a few hundred symbols, where the table would cost as much as the symbols.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pyro_bdl.compression.coding.protocol import (
    CHUNK,
    Coder,
    Frequencies,
    Integers,
    corrupt,
    require_range,
    require_table,
)
from pyro_bdl.compression.coding.tables import DECAYS, MOST_SIZE, SHAPES, frequencies, scaled, shape_weights
from pyro_bdl.errors import InputError

ONE = 256
FLAT_PRIORS = (8, 32, 128, 512)
STRENGTHS = (4, 32, 256, 1 << 14)


@dataclass(frozen=True)
class Uniform:
    """Integers in [0, size), all alike; above 2^18 in bytes, the highest first.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> round(measure([3, 1], Uniform(8)), 3)
    6.0
    """

    size: int

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        if not 1 <= self.size <= 1 << 31:
            raise InputError("size", expected="1 to 2^31", got=f"{self.size}")
        if not coder.decoding:
            require_range(values, self.size)
        if self.size <= MOST_SIZE:
            coder.block(frequencies(np.ones(self.size, dtype=np.int64)), values)
            return
        low = values & 255
        high = values >> 8
        Uniform((self.size + 255) >> 8).code(coder, high)
        coder.block(_BYTE, low)
        if coder.decoding:
            whole = high.astype(np.int64) * 256 + low
            if whole.size and int(whole.max()) >= self.size:
                raise corrupt(f"integers below {self.size}", f"{int(whole.max())}")
            values[...] = whole


class Static:
    """Symbols under a table that both sides know.

    Args:
        table: (K,) integers >= 1 with the sum 2^24, see `frequencies`.
    """

    def __init__(self, table: ArrayLike) -> None:
        self.table: Frequencies = np.asarray(table, dtype=np.int64)
        require_table(self.table)

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        coder.block(self.table, values)


class Adaptive:
    r"""Symbols under their counts so far,

    .. math:: P(x_{t+1} = k) = \frac{n_k + a_k}{t + \sum_j a_j},

    (Krichevsky & Trofimov 1981, where :math:`a_k = 1/2`). The table is made anew after 1/32 more symbols, which costs
    little and makes the number of tables grow with log t.

    Args:
        size: number of symbols K.
        prior: (K,) integers > 0, the pseudo-counts :math:`a_k` in units of 1/256, or one for all of them. Default 128.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> round(measure([0, 0, 0, 0], Adaptive(2)), 3)  # 1/2 3/4 5/6 7/8
    1.871
    """

    def __init__(self, size: int, *, prior: ArrayLike = 128) -> None:
        if not 1 <= size <= MOST_SIZE:
            raise InputError("size", expected=f"1 to {MOST_SIZE} symbols", got=f"{size}")
        given = np.asarray(prior, dtype=np.int64)
        if given.shape not in ((), (size,)) or given.min() < 1 or int(given.max()) > 1 << 32:
            raise InputError("prior", expected=f"one or {size} integers in [1, 2^32]", got=repr(prior))
        self.prior = np.broadcast_to(given, (size,))
        if int(self.prior.sum()) > 1 << 37:
            raise InputError("prior", expected="a sum of at most 2^37", got=f"{self.prior.sum()}")

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        flat, counts, start = values.reshape(-1), self.prior.astype(np.int64), 0
        if not coder.decoding:
            require_range(flat, len(counts))
        if len(counts) == 1:
            coder.block(frequencies(counts), flat)
            return
        total = int(counts.sum())
        while start < flat.size:
            block = flat[start : start + min(max(1, start // 32), CHUNK)]
            coder.block(scaled(counts, total), block)
            if len(block) < len(counts) // 8:
                np.add.at(counts, block, ONE)
            else:
                counts += ONE * np.bincount(block, minlength=len(counts))
            start += len(block)
            total += ONE * len(block)


def ideal_bits(counts: ArrayLike, priors: ArrayLike) -> NDArray[np.float64]:
    """What symbols with counts (K,) cost under pseudo-counts (..., K), the table made anew at every symbol: (...).

    >>> ideal_bits([4, 0], [[128, 128]]).round(3).tolist()
    [1.871]
    """
    n, a = np.asarray(counts, dtype=np.float64), np.asarray(priors) / ONE
    total, seen = a.sum(-1), np.flatnonzero(n)
    n, a = n[seen], a[..., seen]
    nats = _log_gamma(n.sum() + total) - _log_gamma(total) - (_log_gamma(n + a) - _log_gamma(a)).sum(-1)
    return np.asarray(nats / np.log(2))


@dataclass(frozen=True)
class Symbols:
    """Symbols in [0, size) under adaptive counts with the prior that makes them shortest; it is named in the stream.

    The priors: four flat ones, and pseudo-counts that fall off on both sides of a centre like a two-sided geometric or
    a normal law, of 31 widths and 4 strengths, of which the strongest is as good as a static table. Naming one costs 4
    to about 20 bits.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> values = np.arange(200) % 8 + np.arange(200) % 7
    >>> measure(values, Symbols(64)) < measure(values, Adaptive(64))
    True
    """

    size: int

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        if not 1 <= self.size <= MOST_SIZE:
            raise InputError("size", expected=f"1 to {MOST_SIZE} symbols", got=f"{self.size}")
        if not coder.decoding:
            require_range(values, self.size)
        if self.size > 1 and values.size:
            kind, *rest = (0, 0) if coder.decoding else self._choose(values)
            kind = number(coder, kind, 1 + len(SHAPES))
            limits = (len(FLAT_PRIORS),) if kind == 0 else (len(STRENGTHS), DECAYS - 1, self.size)
            rest = [number(coder, rest[i] if i < len(rest) else 0, limit) for i, limit in enumerate(limits)]
            Adaptive(self.size, prior=self._prior(kind, *rest)).code(coder, values)
        elif coder.decoding:
            values[...] = 0

    def _prior(self, kind: int, first: int, decay: int = 0, centre: int = 0) -> Frequencies:
        if kind == 0:
            return np.full(self.size, FLAT_PRIORS[first])
        weights = shape_weights(SHAPES[kind - 1], self.size, centre=centre, decay=decay + 1)
        return 1 + weights * (STRENGTHS[first] * ONE) // int(weights.sum())

    def _choose(self, values: Integers) -> tuple[int, ...]:
        counts = np.zeros(self.size, dtype=np.int64)
        for start in range(0, values.size, CHUNK):  # not at once: it makes 64-bit integers of its argument
            counts += np.bincount(values.reshape(-1)[start : start + CHUNK], minlength=self.size)
        centres = {int(counts.argmax()), int(np.searchsorted(counts.cumsum(), (counts.sum() + 1) // 2))}
        choices: list[tuple[int, ...]] = [(0, i) for i in range(len(FLAT_PRIORS))]
        if self.size <= 4096:
            choices += [
                (kind, strength, decay, centre)
                for kind in range(1, 1 + len(SHAPES))
                for strength in range(len(STRENGTHS))
                for decay in range(DECAYS - 1)
                for centre in centres
            ]
        price = np.log2((1 + len(SHAPES)) * np.array([len(FLAT_PRIORS), len(STRENGTHS) * (DECAYS - 1) * self.size]))
        bits = ideal_bits(counts, np.stack([self._prior(*choice) for choice in choices]))
        return choices[int(np.argmin(bits + price[[min(kind, 1) for kind, *_ in choices]]))]


class Magnitudes:
    r"""Integers :math:`n \ge 0` without a bound below :math:`2^{31} - 1`: the length of n + 1 in bits under adaptive
    counts, then its bits after the leading one, the next two under adaptive counts, the others as they are (an adaptive
    form of Elias's gamma code, 1975).

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> measure([0, 1, 2, 1 << 30], Magnitudes()) < 60
    True
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        flat = values.reshape(-1)
        if not coder.decoding and flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < 2**31 - 1:
            raise InputError("magnitudes", expected="integers in [0, 2^31 - 1)", got=f"{flat.min()} to {flat.max()}")
        n = flat.astype(np.int64) + 1
        lengths = (np.frexp(n.astype(np.float64))[1] - 1).astype(np.int32)
        Adaptive(31, prior=32).code(coder, lengths)
        for length in np.unique(lengths[lengths > 0]).tolist():
            here = np.flatnonzero(lengths == length)
            top = min(length, 2)
            bits = (n[here] - (1 << length) if not coder.decoding else np.zeros(len(here))).astype(np.int32)
            head, tail = bits >> (length - top), bits & ((1 << (length - top)) - 1)
            Adaptive(1 << top).code(coder, head)
            Uniform(1 << (length - top)).code(coder, tail)
            if coder.decoding:
                n[here] = (1 << length) + (head.astype(np.int64) << (length - top)) + tail
        if coder.decoding:
            n = np.where(lengths > 0, n, 1)
            if n.size and int(n.max()) >= 2**31:
                raise corrupt("integers below 2^31 - 1", f"{int(n.max()) - 1}")
            flat[...] = n - 1


def number(coder: Coder, value: int, size: int) -> int:
    """One integer in [0, size), all alike."""
    one = np.array([value], dtype=np.int32)
    Uniform(size).code(coder, one)
    return int(one[0])


def magnitude(coder: Coder, value: int) -> int:
    """One integer >= 0, the small ones cheap."""
    one = np.array([value], dtype=np.int32)
    Magnitudes().code(coder, one)
    return int(one[0])


def _log_gamma(x: Any) -> NDArray[np.float64]:
    return np.asarray(torch.lgamma(torch.as_tensor(x)))  # SciPy's takes a quarter of a second to import


_BYTE = frequencies(np.ones(256, dtype=np.int64))
