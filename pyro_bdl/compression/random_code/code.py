"""The code of a draw of random weights: one index a block, and how it lies in bytes."""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from pyro_bdl.compression.random_code.bit_strings import (
    BitReader,
    best_rice_parameter,
    from_varints,
    rice,
    to_bytes,
    to_varint,
)
from pyro_bdl.compression.random_code.blocks import equal_sizes
from pyro_bdl.errors import CorruptFileError, InputError

MAX_BITS = 24
"""The most bits of an index: the sender makes 2^bits candidates of a block."""
MAX_COUNT = 1 << 40
"""The most weights of a code."""

_VERSION, _SIZES_STORED, _BITS_STORED = 1, 1, 2


@dataclass(frozen=True)
class RandomCode:
    """What the receiver needs to rebuild the draw, besides the prior's scales: see `encode` and `decode`.

    In bytes: version and flags (1 byte); seed, weights and blocks (varints); bits of an index (1 byte). Then a string
    of bits: the block sizes unless they are equal, the bits of each index unless they are equal (both Rice-coded: the
    excess over the smallest, of sizes without its common factor of two), the indices. The last byte is filled with
    zeros. There is one byte string for each code. It has no digest: the container brings that.

    Attributes:
        seed: the shared seed, in [0, 2^64).
        count: the number of weights.
        sizes: the weights of each block, at least 1, their sum `count`.
        bits: the bits of each block's index, 0 to 24.
        indices: of each block, in [0, 2^bits).

    Raises:
        InputError: numbers outside these ranges, or more than one block where no block has an index.

    >>> code = RandomCode(seed=7, count=100, sizes=(50, 50), bits=(16, 16), indices=(40_000, 17))
    >>> len(code.to_bytes()), code.index_bits
    (9, 32)
    >>> RandomCode.from_bytes(code.to_bytes()) == code
    True
    """

    seed: int
    count: int
    sizes: tuple[int, ...]
    bits: tuple[int, ...]
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not len(self.sizes) == len(self.bits) == len(self.indices):
            raise InputError(
                "the random code",
                expected=f"bits and an index for each of {len(self.sizes)} blocks",
                got=f"{len(self.bits)} and {len(self.indices)}",
            )
        if not 0 <= self.count <= MAX_COUNT or sum(self.sizes) != self.count or min(self.sizes, default=1) < 1:
            raise InputError(
                "the block sizes", expected=f"positive, {self.count} in all", got=f"{sum(self.sizes)} in all"
            )
        for block, (b, index) in enumerate(zip(self.bits, self.indices, strict=True)):
            if not 0 <= b <= MAX_BITS:
                raise InputError(f"the bits of block {block}", expected=f"0 to {MAX_BITS}", got=str(b))
            if not 0 <= index < 1 << b:
                raise InputError(f"the index of block {block}", expected=f"0 to {(1 << b) - 1}", got=str(index))
        if len(self.bits) > 1 and not any(self.bits):
            raise InputError("a code without indices", expected="one block", got=f"{len(self.bits)} blocks")

    @property
    def index_bits(self) -> int:
        """The bits of all indices together: the file without sizes and header."""
        return sum(self.bits)

    def to_bytes(self) -> bytes:
        """The code as it is written to a file; `len` of it is the code's cost."""
        sizes_stored = self.sizes != equal_sizes(self.count, len(self.sizes))
        bits_stored = len(set(self.bits)) > 1
        smallest_bits = min(self.bits, default=0)
        flags = _SIZES_STORED * sizes_stored | _BITS_STORED * bits_stored
        header = bytes([_VERSION << 4 | flags]) + b"".join(map(to_varint, (self.seed, self.count, len(self.sizes))))
        header += bytes([smallest_bits])
        text = ""
        if sizes_stored:  # the last size follows from the others
            smallest, shift, steps = size_steps(self.sizes[:-1])
            k = best_rice_parameter(steps)
            header += to_varint(smallest) + bytes([shift, k])
            text += rice(steps, k)
        if bits_stored:
            excess = [b - smallest_bits for b in self.bits]
            k = best_rice_parameter(excess)
            header += bytes([k])
            text += rice(excess, k)
        text += "".join(format(i, f"0{b}b") for i, b in zip(self.indices, self.bits, strict=True) if b)
        return header + to_bytes(text)

    @classmethod
    def from_bytes(cls, data: bytes) -> "RandomCode":
        """The code of these bytes. Time and memory are at most proportional to their number, whatever they say.

        Raises:
            CorruptFileError: bytes that `to_bytes` does not write.
        """
        try:
            code = cls._read(data)
        except InputError as error:
            raise CorruptFileError(f"the random code is damaged ({error})") from error
        if code.to_bytes() != bytes(data):
            raise CorruptFileError("the random code", expected="its one byte string", got="another that says the same")
        return code

    @classmethod
    def _read(cls, data: bytes) -> "RandomCode":
        if not data or data[0] >> 4 != _VERSION or data[0] & 15 & ~(_SIZES_STORED | _BITS_STORED):
            raise InputError("its first byte", expected=f"version {_VERSION}", got=data[:1].hex() or "nothing")
        sizes_stored, bits_stored = data[0] & _SIZES_STORED, data[0] & _BITS_STORED
        (seed, count, blocks, smallest_bits), at = from_varints(data, 1, 4)
        left = 8 * (len(data) - at)
        if count > MAX_COUNT or blocks > count or smallest_bits > MAX_BITS or (blocks == 0) != (count == 0):
            raise InputError("its header", expected="weights, blocks, bits", got=f"{count}, {blocks}, {smallest_bits}")
        if blocks > 1 and blocks * max(smallest_bits, 1) > left:  # before anything of this length is made
            raise InputError("its length", expected=f"{blocks} indices", got=f"{left} bits")
        size_base = size_shift = size_k = bits_k = 0
        if sizes_stored:
            (size_base, size_shift, size_k), at = from_varints(data, at, 3)
        if bits_stored:
            (bits_k,), at = from_varints(data, at, 1)
        if max(size_k, bits_k) > MAX_BITS or size_base > count or size_shift > 40:
            raise InputError(
                "its header", expected=f"parameters up to {MAX_BITS}", got=f"{size_k}, {bits_k}, {size_shift}"
            )
        reader = BitReader(data[at:])
        sizes = equal_sizes(count, blocks)
        if sizes_stored:
            stored = [size_base + (reader.rice(size_k) << size_shift) for _ in range(blocks - 1)]
            sizes = (*stored, count - sum(stored))
        bits = (smallest_bits,) * blocks
        if bits_stored:
            bits = tuple(min(smallest_bits + reader.rice(bits_k), MAX_BITS + 1) for _ in range(blocks))
        if max(bits, default=0) > MAX_BITS:
            raise InputError("its bits", expected=f"at most {MAX_BITS}", got="more")
        return cls(seed=seed, count=count, sizes=sizes, bits=bits, indices=tuple(map(reader.integer, bits)))


def size_steps(sizes: Sequence[int]) -> tuple[int, int, list[int]]:
    """The smallest, a shift, and steps: size = smallest + (step << shift), with the largest such shift.

    >>> size_steps((8, 16, 12))
    (8, 2, [0, 2, 1])
    """
    smallest = min(sizes)
    common = functools.reduce(operator.or_, (size - smallest for size in sizes))
    shift = (common & -common).bit_length() - 1 if common else 0
    return smallest, shift, [size - smallest >> shift for size in sizes]


def check_seed(seed: int) -> None:
    """Raise an `InputError` unless the seed is an integer in [0, 2^64)."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:
        raise InputError("seed", expected="an integer in [0, 2^64)", got=repr(seed))
