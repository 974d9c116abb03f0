"""Normal numbers that sender and receiver both make, the same bits on every machine.

The generator is Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011), a function of a key and a 256-bit counter. A block
has a stream of numbers of its own, its candidates lie in it one after another, and each is reached in one jump. From
the generator's integers to the normal numbers there are integers only:

1. each 16 bits u are looked up in a table :math:`t(u)`, the nearest integer to :math:`2^{12} \\Phi^{-1}((u + 1/2) /
   2^{16})`; no entry is nearer than 1e-5 to a tie, so any sound inverse normal gives this table; its digest is checked;
2. sixteen entries are mixed by the 16 x 16 Hadamard matrix :math:`H`: :math:`z = 2^{-14} H t`. As :math:`H / 4` is
   orthogonal, sixteen independent standard normals stay that; as each z is a sum of sixteen entries, the table's
   steps and its end at 4.32 are smoothed away. (Variance 1 - 2.1e-5, excess kurtosis -4.7e-5, |z| <= 17.3.)

z is a multiple of 2^-14, exact in float32.
"""

import functools
import hashlib
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from numpy.random import Philox, SeedSequence

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

LANES = 16
"""Normal numbers of one counter value: 256 bits."""
GRID = 2.0**-14
"""Every z is a multiple of this."""

_KEY = 0x7079726F5F62646C  # the second half of the key: keeps these streams apart from others with the same seed
_UNUSED = SeedSequence(0)
_CANDIDATES, _ORDER, _CHOICE = 0, 1, 2  # the last word of the counter: what the numbers are for
_TABLE_SHA256 = "65adb44855f8b71385141d120e46bcbbe7ab553ca422fa6c389f204db6da226b"
_CHUNK = 1 << 16  # normal numbers made at once: 256 kB in float32, which stays in the cache


def candidates(seed: int, block: int, size: int, number: int) -> Iterator[npt.NDArray[np.float32]]:
    """The candidates 0 ... number - 1 of a block, in chunks.

    Args:
        seed: the shared seed, in [0, 2^64).
        block: the block's number, in [0, 2^64).
        size: how many weights a candidate has, positive.
        number: how many candidates, positive.

    Yields:
        Standard normal numbers, shape (candidates of this chunk, size): about 256 kB, or one candidate. The next chunk
        overwrites the one before.

    >>> [z.shape for z in candidates(1, 0, size=3, number=5)]
    [(5, 3)]
    """
    table, mix = _table(), _hadamard().astype(np.float32) * np.float32(GRID)
    step = LANES // math.gcd(size, LANES)  # candidates after which one begins at a whole counter
    at_once = min(-(-number // step), max(1, _CHUNK // (step * size))) * step
    entries, z = np.empty((2, -(-at_once * size // LANES), LANES), dtype=np.float32)
    stream = _philox(seed, block, _CANDIDATES)
    for start in range(0, number, at_once):
        n = min(at_once, number - start)
        rows = -(-n * size // LANES)
        np.take(table, _lanes(stream, rows), out=entries[:rows].reshape(-1), mode="wrap")
        # Integers below 2^19 times a power of two: exact in float32, in whatever order they are added.
        np.matmul(entries[:rows], mix, out=z[:rows])
        yield z.reshape(-1)[: n * size].reshape(n, size)


def candidate(seed: int, block: int, size: int, index: int) -> npt.NDArray[np.float32]:
    """One candidate, by a jump to its counter: O(size), whatever its index.

    >>> one = candidate(1, 0, size=3, index=4)
    >>> bool((one == next(candidates(1, 0, size=3, number=5))[4]).all())
    True
    """
    first, skip = divmod(index * size, LANES)
    rows = -(-(skip + size) // LANES)
    entries = _table().take(_lanes(_philox(seed, block, _CANDIDATES, first), rows)).astype(np.int64)
    z = entries.reshape(rows, LANES) @ _hadamard()
    return (z.reshape(-1)[skip : skip + size] * GRID).astype(np.float32)


def permutation(seed: int, count: int) -> Integers:
    """The shared random order of `count` weights: the ranks of 64-bit random integers.

    >>> permutation(1, 5).tolist()
    [3, 0, 2, 4, 1]
    """
    return np.argsort(_philox(seed, 0, _ORDER).random_raw(count), kind="stable").astype(np.int64)


def choice_uniform(seed: int, block: int) -> float:
    """The sender's uniform number in (0, 1) for its choice in a block; independent of the candidates."""
    return (float(int(_philox(seed, block, _CHOICE).random_raw()) >> 12) + 0.5) * 2.0**-52


def _philox(seed: int, block: int, purpose: int, start: int = 0) -> Philox:
    # Unsigned arrays: of a list with a number above 2^63 numpy would make floats. The state is set after, as
    # `Philox(counter=..., key=...)` takes three times as long: it asks the system for a seed that it then drops.
    stream = Philox(_UNUSED)
    stream.state = {
        "bit_generator": "Philox",
        "state": {
            "counter": np.array([start, 0, block, purpose], dtype=np.uint64),
            "key": np.array([seed, _KEY], dtype=np.uint64),
        },
        "buffer": np.zeros(4, dtype=np.uint64),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return stream


def _lanes(stream: Philox, counters: int) -> npt.NDArray[np.uint16]:
    """The 16-bit pieces of so many counter values, lowest first on machines of either byte order."""
    return stream.random_raw(4 * counters).astype("<u8", copy=False).view("<u2")


@functools.cache
def _hadamard() -> Integers:
    """Sylvester's 16 x 16 matrix of +1 and -1: symmetric, its square is 16 times the identity."""
    two = np.array([[1, 1], [1, -1]])
    return functools.reduce(np.kron, [two] * 4).astype(np.int64)


@functools.cache
def _table() -> npt.NDArray[np.float32]:
    from scipy.special import ndtri  # where it is needed: it takes a quarter of a second to import

    table = np.rint(ndtri((np.arange(1 << 16) + 0.5) / (1 << 16)) * (1 << 12)).astype("<i4")
    digest = hashlib.sha256(table.tobytes()).hexdigest()
    if digest != _TABLE_SHA256:  # a broken inverse normal: decoding would give other weights
        raise RuntimeError(f"the table of normal numbers has digest {digest}, expected {_TABLE_SHA256}")
    return table.astype(np.float32)
