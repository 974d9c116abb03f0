r"""Integer tables: frequencies with the sum :math:`2^{24}`, and the shapes that small integers take.

Everything here is integer arithmetic, so a table is the same on every machine.
"""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from pyro_bdl.compression.coding.protocol import TOTAL, Frequencies
from pyro_bdl.errors import InputError

MOST_SIZE = 1 << 18
SHAPES = ("geometric", "gaussian")
DECAYS = 32
_PEAK = 1 << 16


def frequencies(weights: ArrayLike) -> Frequencies:
    r"""Weights scaled to integers of sum :math:`2^{24}`, each at least 1.

    .. math:: f_k = 1 + \lfloor w_k (2^{24} - K) / \textstyle\sum_j w_j \rfloor

    and what is left over goes to the first of the largest.

    Args:
        weights: (K,) integers >= 0, not all 0, of a sum below 2^38; K at most 2^18.

    Raises:
        InputError: they are not.

    >>> frequencies([3, 1]).tolist()
    [12582912, 4194304]
    """
    w = np.asarray(weights)
    size = len(w) if w.ndim == 1 else 0
    if not 1 <= size <= MOST_SIZE or not np.issubdtype(w.dtype, np.integer):
        raise InputError("weights of symbols", expected=f"1 to {MOST_SIZE} integers", got=f"{w.dtype} {w.shape}")
    w = w.astype(np.int64)
    total = int(w.sum()) if w.min() >= 0 and w.max() < 1 << 38 else 0
    if not 0 < total < 1 << 38:
        raise InputError("weights of symbols", expected="integers >= 0 with a sum in [1, 2^38)", got=repr(weights))
    return scaled(w, total)


def scaled(weights: Frequencies, total: int) -> Frequencies:
    """`frequencies` of weights that are known to be right, with this sum."""
    found = weights * (TOTAL - len(weights)) // total + 1
    found[found.argmax()] += TOTAL - int(found.sum())
    return found


def shape_weights(shape: str, size: int, *, centre: int, decay: int) -> Frequencies:
    r"""Weights that fall off on both sides of a centre, from :math:`2^{16}` to at least 1.

    With :math:`q = 1 - 2^{-d/4}`, rounded to a multiple of :math:`2^{-16}`, at a distance n from the centre:
    ``geometric`` :math:`q^n`, the two-sided geometric (discretised Laplace) law, whose mean size is about
    :math:`2^{d/4}`; ``gaussian`` :math:`q^{n^2}`, the discretised normal law of variance about :math:`2^{d/4} / 2`.

    Args:
        shape: one of `SHAPES`.
        size: number of symbols K.
        centre: the likeliest symbol.
        decay: d, 1 to 31.

    >>> shape_weights("geometric", 4, centre=1, decay=4).tolist()
    [32768, 65536, 32768, 16384]
    """
    if shape not in SHAPES or not 0 <= centre < size or not 1 <= decay < DECAYS:
        raise InputError(
            "a shape of weights", expected=f"one of {SHAPES}, a centre below {size}, a decay in [1, {DECAYS})",
            got=f"{shape}, {centre}, {decay}",
        )  # fmt: skip
    falling = _falling(shape, decay)
    return falling[np.minimum(np.abs(np.arange(size) - centre), len(falling) - 1)]


@cache
def _falling(shape: str, decay: int) -> Frequencies:
    """The weights at the distances 0, 1, ... from the centre, up to the first that is 1."""
    q, ratio, weight = _RATIOS[decay], _RATIOS[decay], _PEAK << 16
    found = []
    while weight >> 16 > 1:
        found.append(weight >> 16)
        weight = weight * ratio >> 16
        if shape == "gaussian":
            ratio = ratio * q >> 16
            ratio = ratio * q >> 16
    return np.array([*found, 1], dtype=np.int64)


# 2^16 (1 - 2^(-d/4)), rounded: the fourth roots of 1/2 as integers, for no machine's power function is to be trusted
_ROOTS = (65536, 55109, 46341, 38968)
_RATIOS = [65536 - (_ROOTS[d % 4] >> d // 4) for d in range(DECAYS)]
