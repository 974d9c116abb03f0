"""Bytes into arrays: gzip, idx, npz and tar, each bounded by what is expected before anything is allocated.

Every reader takes bytes that are already in memory, writes nothing to disk, runs nothing that it reads (no pickle), and
answers whatever is damaged or not as expected with `CorruptFileError`.
"""

import gzip
import hashlib
import io
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.lib import format as npy

from pyro_bdl.errors import CorruptFileError

_GZIP = 31  # zlib's window bits for a gzip header, checked to the CRC at its end


@dataclass(frozen=True)
class ArraySpec:
    """The type and shape that an array must have to be read."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the array's elements."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


def read_gzipped_idx(data: bytes, shape: tuple[int, ...], *, what: str) -> np.ndarray:
    """Unsigned bytes in MNIST's idx format, compressed by gzip.

    The header is four bytes (0, 0, 8 for unsigned bytes, the number of dimensions) and the dimensions as big-endian
    32-bit integers. It is read and compared with `shape` before the elements are decompressed, and then
    no more than their number plus one byte are.

    Args:
        data: the file's bytes.
        shape: the shape that the array must have.
        what: the file's name for messages.

    Returns:
        A read-only uint8 array of that shape.

    Raises:
        CorruptFileError: no gzip, another header, too few or too many elements, a wrong CRC.
    """
    stream = zlib.decompressobj(_GZIP)
    header_size = 4 + 4 * len(shape)
    with damage_in(what):
        header = stream.decompress(data, header_size)
    expected = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    if header != expected:
        raise CorruptFileError(what, expected=f"the idx header of a {shape} array of bytes", got=_shown(header))
    count = math.prod(shape)
    with damage_in(what):
        payload = stream.decompress(stream.unconsumed_tail, count + 1)
    if len(payload) != count or not stream.eof or stream.unused_data:
        got = f"more than {count}" if len(payload) > count else f"{len(payload)}, or bytes after the end"
        raise CorruptFileError(what, expected=f"{count} bytes of elements and the end of the file", got=got)
    return np.frombuffer(payload, np.uint8).reshape(shape)


def npz_limit(specs: Mapping[str, ArraySpec]) -> int:
    """The most bytes that an npz file with these arrays can sensibly have, however badly it is packed."""
    return 2 * sum(spec.nbytes for spec in specs.values()) + 1_000_000


def read_npz(data: bytes, specs: Mapping[str, ArraySpec], *, what: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file, which must be exactly those of `specs`.

    Names, types, shapes and declared sizes are compared before an array is read.

    Args:
        data: the file's bytes.
        specs: name of each array with its type and shape.
        what: the file's name for messages.

    Returns:
        The arrays by name, read-only.

    Raises:
        CorruptFileError: no npz, other arrays, other types or shapes, truncated, a wrong CRC.
    """
    with damage_in(what), zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if sorted(members) != sorted(specs) or len(archive.infolist()) != len(specs):
            raise CorruptFileError(what, expected=f"the arrays {sorted(specs)}", got=str(sorted(members))[:200])
        return {name: _read_member(archive, members[name], spec, what=what) for name, spec in specs.items()}


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, spec: ArraySpec, *, what: str) -> np.ndarray:
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
        declared = info.file_size - stream.tell()
        if (dtype, shape, declared) != (np.dtype(spec.dtype), spec.shape, spec.nbytes):
            raise CorruptFileError(
                what,
                expected=f"{info.filename} of type {spec.dtype} and shape {spec.shape}, {spec.nbytes} bytes",
                got=f"type {dtype}, shape {shape}, {declared} bytes",
            )
        payload = stream.read(spec.nbytes + 1)  # one byte more reaches the end, where the CRC is checked
    if len(payload) != spec.nbytes:
        raise CorruptFileError(what, expected=f"{spec.nbytes} bytes in {info.filename}", got=f"{len(payload)}")
    return np.frombuffer(payload, dtype).reshape(shape, order="F" if fortran_order else "C")


def read_gzipped_tar(data: bytes, sizes: Mapping[str, int], *, what: str) -> dict[str, bytes]:
    """Members of a gzipped tar archive, read in memory; nothing is extracted.

    Args:
        data: the archive's bytes.
        sizes: full name of each wanted member with its size in bytes.
        what: the archive's name for messages.

    Returns:
        The wanted members' bytes by name.

    Raises:
        CorruptFileError: no such archive, a wanted member missing, not a plain file, of another size or there
            twice, or an archive that unpacks to twice the size wanted.
    """
    found: dict[str, bytes] = {}
    most = 2 * sum(sizes.values()) + 1_000_000
    unpacked = gzip.GzipFile(fileobj=io.BytesIO(data))  # tarfile's own unpacking has no limit within a block
    with damage_in(what), unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
        for member in archive:
            if member.offset_data + member.size > most:
                raise CorruptFileError(what, expected=f"at most {most} bytes unpacked", got="more")
            if member.name not in sizes:
                continue
            content = archive.extractfile(member) if member.isreg() and member.name not in found else None
            if content is None or member.size != sizes[member.name]:
                raise CorruptFileError(
                    what,
                    expected=f"{member.name} once, a plain file of {sizes[member.name]} bytes",
                    got=f"a member of type {member.type!r} and {member.size} bytes",
                )
            found[member.name] = content.read(member.size)
    if missing := sorted(set(sizes) - set(found)):
        raise CorruptFileError(what, expected=f"the members {sorted(sizes)}", got=f"none called {missing}")
    return found


def content_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A sha256 of arrays by name: of each its name, type, shape and elements in C order, the names sorted.

    It stays the same however the arrays are packed or compressed.

    >>> import numpy as np
    >>> content_digest({"a": np.arange(3)}) == content_digest({"a": np.arange(6)[:3]})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def require_digest(got: str, expected: str, *, what: str, remedy: str = "") -> None:
    """Raises `CorruptFileError` unless both digests are the same.

    >>> require_digest("00", "00", what="a file")
    """
    if got != expected:
        raise CorruptFileError(what, expected=f"sha256 {expected}", got=f"sha256 {got}", remedy=remedy)


@contextmanager
def damage_in(what: str) -> Iterator[None]:
    """Whatever a decoder raises at damaged bytes, within the block, becomes a `CorruptFileError` about `what`."""
    try:
        yield
    except CorruptFileError:
        raise
    except Exception as error:  # zlib, lzma, zipfile, tarfile and numpy raise a dozen kinds for bad bytes
        raise CorruptFileError(what, expected="a whole file of its format", got=f"{error!r}"[:300]) from error


def _shown(header: bytes) -> str:
    return f"the bytes {header.hex(' ')}"
