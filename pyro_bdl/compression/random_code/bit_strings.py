"""Integers as strings of bits: fixed widths, Rice codes, varints. Made for kilobytes; time linear in the length."""

from collections.abc import Sequence

from pyro_bdl.errors import InputError


def to_bytes(bits: str) -> bytes:
    """A string of 0 and 1, first bit highest, filled up with zeros to a whole byte.

    >>> to_bytes("000000011").hex()
    '0180'
    """
    length = -(-len(bits) // 8)
    return int(bits.ljust(8 * length, "0"), 2).to_bytes(length, "big") if bits else b""


def rice(values: Sequence[int], k: int) -> str:
    """Rice's code: the value without its last k bits in unary (ones, then a zero), then the k bits.

    >>> rice([0, 5], 1)
    '001101'
    """
    return "".join("1" * (v >> k) + "0" + (format(v & (1 << k) - 1, f"0{k}b") if k else "") for v in values)


def best_rice_parameter(values: Sequence[int]) -> int:
    """The smallest k that makes the code shortest; for values below 2^24 at most 24.

    >>> best_rice_parameter([8, 9, 7, 12])
    3
    """
    return min(range(25), key=lambda k: (sum(v >> k for v in values) + k * len(values), k))


class BitReader:
    """Reads a string of bits from its front.

    >>> reader = BitReader(b"\\x34")
    >>> reader.rice(1), reader.rice(1), reader.integer(2)
    (0, 5, 0)
    """

    def __init__(self, data: bytes) -> None:
        self._bits = format(int.from_bytes(data, "big"), f"0{8 * len(data)}b") if data else ""
        self._at = 0

    def integer(self, width: int) -> int:
        """The next `width` bits."""
        end = self._at + width
        if end > len(self._bits):
            raise InputError("the bits", expected=f"at least {end}", got=str(len(self._bits)))
        value = int(self._bits[self._at : end], 2) if width else 0
        self._at = end
        return value

    def rice(self, k: int) -> int:
        """The next Rice code of parameter k."""
        zero = self._bits.find("0", self._at)
        if zero < 0:
            raise InputError("the bits", expected="the end of a unary number", got="the end of the bits")
        high = zero - self._at
        self._at = zero + 1
        return high << k | self.integer(k)


def to_varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the eighth set while more follow.

    >>> to_varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def from_varints(data: bytes, at: int, number: int) -> tuple[list[int], int]:
    """So many varints from byte `at` on, each below 2^70, and where they end.

    >>> from_varints(bytes.fromhex("ac0205"), 0, 2)
    ([300, 5], 3)
    """
    values = []
    for _ in range(number):
        value, length = 0, 0
        while True:
            if at >= len(data) or length == 10:
                raise InputError("a number", expected="at most ten bytes", got="the end of the data or a longer one")
            byte = data[at]
            value |= (byte & 127) << (7 * length)
            at, length = at + 1, length + 1
            if byte < 128:
                break
        values.append(value)
    return values, at
