"""The file around a compressed network: sections of bytes that are read only if every bit is as it was written.

    magic 2 | version 1 | kind and number of sections 1 | architecture 4 | lengths | sections | digest 8

The lengths of all sections but the last are variable-length integers (7 bits a byte, low bits first); the last section
reaches to the digest. The digest is BLAKE2b (RFC 7693), truncated to 8 bytes by its own parameter, over everything
before it, and is checked before anything else is looked at. So one section costs 16 bytes around it. A damaged file
passes with probability 2^-64; this guards against accidents, not against somebody who writes a digest of his own, so
whatever reads the sections checks them, too. Nothing in a file is executed.
"""

import hashlib
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyro_bdl.errors import CorruptFileError, InputError
from pyro_bdl.files import replace_file

MAGIC = b"\xbdL"
VERSION = 1
HEAD = 8
DIGEST = 8
MOST_KINDS = 16
MOST_SECTIONS = 16
MOST_BYTES = 1 << 30

Buffer = bytes | bytearray | memoryview


class OtherArchitectureError(InputError):
    """An undamaged file that was written for another network."""


@dataclass(frozen=True)
class Container:
    """What a file holds.

    Attributes:
        kind: how the sections are to be read, 0 to 15; the caller's business.
        architecture: 4 bytes that name the network, see `fingerprint`.
        sections: views into the file's content, not copies.
    """

    kind: int
    architecture: bytes
    sections: tuple[memoryview, ...]


def fingerprint(shapes: Mapping[str, Sequence[int]]) -> bytes:
    """Four bytes that tell networks apart: BLAKE2b over parameter names and shapes, in their order.

    Two different networks agree with probability 2^-32.

    >>> fingerprint({"weight": (10, 3), "bias": (10,)}).hex()
    'd4fd9c88'
    """
    told = ";".join(f"{name!r}:{','.join(str(int(n)) for n in shape)}" for name, shape in shapes.items())
    return hashlib.blake2b(told.encode(), digest_size=4).digest()


def pack(sections: Sequence[Buffer], *, kind: int, architecture: bytes) -> bytes:
    """The content of a file.

    Args:
        sections: 1 to 16 of them.
        kind: 0 to 15.
        architecture: 4 bytes, see `fingerprint`.

    Raises:
        InputError: more than fits the format; all of it would take more than 2^30 bytes.

    >>> content = pack([b"weights"], kind=1, architecture=b"arch")
    >>> len(content), bytes(unpack(content, kind=1, architecture=b"arch").sections[0])
    (23, b'weights')
    """
    return b"".join(_parts(sections, kind, architecture))


def unpack(
    content: Buffer, *, kind: int | Collection[int] | None = None, architecture: bytes | None = None
) -> Container:
    """The sections of a file's content; the digest is checked first.

    Args:
        content: the whole file.
        kind: what must be said there, or one of these; None takes any.
        architecture: what must be said there; None takes any.

    Raises:
        CorruptFileError: damaged, truncated, of another format or of another kind.
        OtherArchitectureError: undamaged, but for another network.
    """
    view = memoryview(content).cast("B")
    if len(view) > MOST_BYTES:
        raise _corrupt(f"at most {MOST_BYTES} bytes", f"{len(view)}")
    if len(view) < HEAD + DIGEST or _digest([view[:-DIGEST]]) != view[-DIGEST:]:
        raise _corrupt("content that fits its digest", "another: it is damaged, truncated, or no such file")
    if view[:2] != MAGIC or view[2] != VERSION:
        raise _corrupt(f"format {(MAGIC + bytes([VERSION])).hex()}", bytes(view[:3]).hex())
    found, count, named = view[3] & 15, (view[3] >> 4) + 1, bytes(view[4:HEAD])
    if kind is not None and found not in ((kind,) if isinstance(kind, int) else kind):
        raise _corrupt(f"kind {kind}", f"{found}")
    if architecture is not None and named != architecture:
        raise OtherArchitectureError(
            "the architecture of the compressed network", expected=architecture.hex(), got=named.hex(),
            remedy="The file was written for another network",
        )  # fmt: skip
    lengths, start = [], HEAD
    for _ in range(count - 1):
        length, start = _read_varint(view, start, len(view) - DIGEST)
        lengths.append(length)
    rest = len(view) - DIGEST - start - sum(lengths)
    if rest < 0:
        raise _corrupt(f"sections of {sum(lengths)} bytes", f"{rest + sum(lengths)}")
    sections = []
    for length in [*lengths, rest]:
        sections.append(view[start : start + length])
        start += length
    return Container(found, named, tuple(sections))


def write_container(path: str | os.PathLike[str], sections: Sequence[Buffer], *, kind: int, architecture: bytes) -> int:
    """Write a file, all of it or nothing, and return its length in bytes. Arguments as in `pack`.

    Raises:
        InputError: more than fits the format.
        OSError: no room, no permission; an old file is as it was.
    """
    parts = _parts(sections, kind, architecture)
    replace_file(path, parts)
    return sum(len(part) for part in parts)


def read_container(
    path: str | os.PathLike[str], *, kind: int | Collection[int] | None = None, architecture: bytes | None = None
) -> Container:
    """Read a file. Arguments as in `unpack`.

    Raises:
        CorruptFileError: damaged, truncated, of another format or kind, too large, or no plain file.
        OtherArchitectureError: undamaged, but for another network.
        OSError: it cannot be opened.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            raise _corrupt(f"a plain file of at most {MOST_BYTES} bytes", f"{Path(path)}, {status.st_size} bytes")
        content = file.read(status.st_size + 1)
    return unpack(content, kind=kind, architecture=architecture)


def _parts(sections: Sequence[Buffer], kind: int, architecture: bytes) -> list[Buffer]:
    if not 1 <= len(sections) <= MOST_SECTIONS:
        raise InputError("sections", expected=f"1 to {MOST_SECTIONS}", got=f"{len(sections)}")
    if not isinstance(kind, int) or not 0 <= kind < MOST_KINDS:
        raise InputError("kind", expected=f"an integer in [0, {MOST_KINDS})", got=repr(kind))
    if not isinstance(architecture, bytes) or len(architecture) != 4:
        raise InputError("architecture", expected="4 bytes, as `fingerprint` gives them", got=repr(architecture))
    bodies = [memoryview(section).cast("B") for section in sections]
    head = MAGIC + bytes([VERSION, kind | (len(bodies) - 1) << 4]) + architecture
    head += b"".join(_varint(len(body)) for body in bodies[:-1])
    parts: list[Buffer] = [head, *bodies]
    if (size := sum(len(part) for part in parts) + DIGEST) > MOST_BYTES:
        raise InputError("the file", expected=f"at most {MOST_BYTES} bytes", got=f"{size}")
    return [*parts, _digest(parts)]


def _digest(parts: Sequence[Buffer]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def _read_varint(view: memoryview, start: int, stop: int) -> tuple[int, int]:
    number = 0
    for place in range(5):
        if start + place >= stop:
            break
        byte = view[start + place]
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, start + place + 1
    raise _corrupt("the length of a section", "a number that does not end")


def _corrupt(expected: str, got: str) -> CorruptFileError:
    return CorruptFileError("the compressed network", expected=expected, got=got)
