"""Readers: what is right is read, whatever is damaged is refused, and bombs stay small."""

import tarfile
import tracemalloc
import warnings
import zipfile
from io import BytesIO

import numpy as np
import pytest

from pyro_bdl.data.formats import ArraySpec, content_digest, read_gzipped_idx, read_gzipped_tar, read_npz
from pyro_bdl.errors import CorruptFileError
from tests.data.small import bit_flips, gz, idx, npz, tar_gz

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)
TABLE = {"a": np.asfortranarray(RNG.normal(size=(4, 3))), "b": np.arange(6, dtype=np.int32).reshape(2, 3)}
SPECS = {"a": ArraySpec("<f8", (4, 3)), "b": ArraySpec("<i4", (2, 3))}


def read_pixels(data: bytes) -> np.ndarray:
    return read_gzipped_idx(data, PIXELS.shape, what="pixels")


def read_table(data: bytes) -> dict[str, np.ndarray]:
    return read_npz(data, SPECS, what="table")


def same_table(got: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(got[name], TABLE[name]) for name in TABLE)


def test_what_is_right_is_read() -> None:
    np.testing.assert_array_equal(read_pixels(gz(idx(PIXELS))), PIXELS)
    assert same_table(read_table(npz(**TABLE)))
    assert read_gzipped_tar(tar_gz({"d/x": b"123", "y": b"4"}), {"d/x": 3}, what="tar") == {"d/x": b"123"}


def test_every_bit_flip_of_an_idx_file_is_refused_or_harmless() -> None:
    """gzip keeps no check of its own header (time, system): a flip there may leave the array as it is, never other."""
    refused = 0
    for bit, damaged in bit_flips(gz(idx(PIXELS))):
        try:
            assert np.array_equal(read_pixels(damaged), PIXELS), f"bit {bit} changed the array unnoticed"
        except CorruptFileError:
            refused += 1
    assert refused > 8 * (PIXELS.size + 8)  # at least all flips in elements and CRC


def test_every_bit_flip_of_an_npz_file_is_refused_or_harmless() -> None:
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bit, damaged in bit_flips(npz(**TABLE)):
            try:
                assert same_table(read_table(damaged)), f"bit {bit} changed an array unnoticed"
            except CorruptFileError:
                refused += 1
    assert refused > 8 * sum(array.nbytes for array in TABLE.values())


@pytest.mark.parametrize(("read", "data"), [(read_pixels, gz(idx(PIXELS))), (read_table, npz(**TABLE))])
def test_every_truncation_is_refused(read, data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(CorruptFileError):
            read(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(idx(PIXELS), id="not compressed"),
        pytest.param(gz(idx(PIXELS)) + b"\0", id="bytes after the end"),
        pytest.param(gz(idx(PIXELS)) * 2, id="two members"),
        pytest.param(gz(idx(PIXELS) + b"\0"), id="one element too many"),
        pytest.param(gz(idx(PIXELS)[:-1]), id="one element too few"),
        pytest.param(gz(idx(PIXELS.reshape(5, 12))), id="other rank"),
        pytest.param(gz(idx(PIXELS.transpose(0, 2, 1).copy())), id="other shape"),
        pytest.param(gz(idx(PIXELS)[:2] + b"\x0d" + idx(PIXELS)[3:]), id="floats"),
        pytest.param(gz(b"\0\0\x08\x03" + b"\xff" * 12), id="2^96 elements"),
        pytest.param(b"", id="empty"),
    ],
)
def test_wrong_idx_files_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match=r"pixels: expected .*, got"):
        read_pixels(data)


def npy_member(header: str, payload: bytes) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + payload


def zipped(**members: bytes) -> bytes:
    sink = BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return sink.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(npz(a=TABLE["a"]), id="an array missing"),
        pytest.param(npz(**TABLE, c=np.zeros(1)), id="an array too many"),
        pytest.param(npz(a=TABLE["a"].astype(np.float32), b=TABLE["b"]), id="another type"),
        pytest.param(npz(a=TABLE["a"].T, b=TABLE["b"]), id="another shape"),
        pytest.param(
            zipped(
                a=npy_member("{'descr': '|O', 'fortran_order': False, 'shape': (4, 3), }", b"\x80\x04K\x01."),
                b=b"",
            ),
            id="objects, which are a pickle",
        ),
        pytest.param(
            zipped(a=npy_member(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**60}, 3), }}", b""), b=b""),
            id="2^60 rows",
        ),
        pytest.param(
            zipped(a=npy_member("{'descr': '<f8', 'fortran_order': False, 'shape': (4, 3), }", b"\0" * 8), b=b""),
            id="elements missing",
        ),
        pytest.param(zipped(a=npy_member("(" * 100, b""), b=b""), id="a header that is no dictionary"),
        pytest.param(b"not a zip file", id="no zip file"),
    ],
)
def test_wrong_npz_files_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match=r"table: expected .*, got"):
        read_table(data)


def test_a_member_named_twice_is_refused() -> None:
    sink = BytesIO(zipped(a=npy_member("", b"")))
    with warnings.catch_warnings(), zipfile.ZipFile(sink, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.npy", b"")
    with pytest.raises(CorruptFileError):
        read_npz(sink.getvalue(), {"a": ArraySpec("<f8", (1,))}, what="table")


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tar_gz({"other": b"123"}), id="member missing"),
        pytest.param(tar_gz({"x": b"1234"}), id="member too long"),
        pytest.param(tar_gz({"x": link("x", "/etc/passwd")}), id="member is a link"),
        pytest.param(tar_gz({"../x": b"123"}), id="member outside"),
        pytest.param(tar_gz({"x": b"123"})[:-20], id="truncated"),
        pytest.param(b"no archive", id="no archive"),
    ],
)
def test_wrong_tar_files_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match=r"tar: expected .*, got"):
        read_gzipped_tar(data, {"x": 3}, what="tar")


BOMB = 64_000_000  # bytes unpacked, of which the files are a thousandth
F8 = "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 3), }"


def read_small_tar(data: bytes) -> dict[str, bytes]:
    return read_gzipped_tar(data, {"x": 3}, what="tar")


@pytest.mark.parametrize(
    ("read", "pack"),
    [
        pytest.param(read_pixels, lambda zeros: gz(idx(PIXELS) + zeros), id="idx"),
        pytest.param(read_table, lambda zeros: zipped(a=zeros, b=zeros), id="npz"),
        pytest.param(read_table, lambda zeros: zipped(a=npy_member(F8, zeros), b=b""), id="npz elements"),
        pytest.param(read_small_tar, lambda zeros: tar_gz({"x": zeros}), id="tar member"),
        pytest.param(read_small_tar, lambda zeros: tar_gz({"other": zeros}), id="tar other member"),
    ],
)
def test_bombs_are_refused_before_they_unpack(read, pack) -> None:
    bomb = pack(bytes(BOMB))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError):
            read(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BOMB / 16


def test_content_digest_sees_names_types_shapes_and_elements() -> None:
    base = {"a": np.arange(6.0)}
    others = [
        {"b": np.arange(6.0)},
        {"a": np.arange(6.0, dtype=np.float32)},
        {"a": np.arange(6.0).reshape(2, 3)},
        {"a": np.array([0.0, 1, 2, 3, 4, 6])},
        {"a": np.arange(6.0), "b": np.zeros(0)},
    ]
    digests = {content_digest(arrays) for arrays in [base, *others]}
    assert len(digests) == 1 + len(others)
    assert content_digest({"a": np.asfortranarray(TABLE["a"])}) == content_digest({"a": TABLE["a"].copy(order="C")})
