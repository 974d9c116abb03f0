import os

import numpy as np
import pytest

from pyro_bdl.compression.coding import container
from pyro_bdl.compression.coding.container import (
    OtherArchitectureError,
    fingerprint,
    pack,
    read_container,
    unpack,
    write_container,
)
from pyro_bdl.errors import CorruptFileError, InputError
from pyro_bdl.files import replace_file

ARCH = fingerprint({"w": (3, 4)})


@pytest.mark.parametrize(
    "sections", [[b""], [b"a"], [b"", b""], [b"a" * 127, b"b" * 128, b""], [b"x" * 300] * 16, [bytes(70_000), b"end"]]
)
@pytest.mark.parametrize("kind", [0, 15])
def test_round_trip(sections: list[bytes], kind: int, tmp_path) -> None:
    content = pack(sections, kind=kind, architecture=ARCH)
    assert [bytes(s) for s in unpack(content, kind=kind, architecture=ARCH).sections] == sections
    size = write_container(tmp_path / "n.bdl", sections, kind=kind, architecture=ARCH)
    assert (tmp_path / "n.bdl").read_bytes() == content
    assert size == len(content)
    found = read_container(tmp_path / "n.bdl")
    assert (found.kind, found.architecture, [bytes(s) for s in found.sections]) == (kind, ARCH, sections)


def test_one_section_costs_16_bytes_around_it() -> None:
    assert len(pack([b"abc"], kind=1, architecture=ARCH)) == 3 + 16


def test_another_architecture_is_no_damage() -> None:
    content = pack([b"abc"], kind=1, architecture=ARCH)
    with pytest.raises(OtherArchitectureError):
        unpack(content, architecture=fingerprint({"w": (4, 3)}))
    with pytest.raises(CorruptFileError, match="kind 2"):
        unpack(content, kind=2, architecture=ARCH)
    assert not issubclass(OtherArchitectureError, CorruptFileError)


def test_fingerprints_differ() -> None:
    cases = [{"w": (3, 4)}, {"w": (4, 3)}, {"w": (34,)}, {"v": (3, 4)}, {"w": (3,), "v": (4,)}, {"v": (4,), "w": (3,)}]
    assert len({fingerprint(case) for case in cases}) == len(cases)


@pytest.mark.parametrize(
    ("sections", "kind", "arch"),
    [
        ([], 0, ARCH),
        ([b""] * 17, 0, ARCH),
        ([b""], 16, ARCH),
        ([b""], -1, ARCH),
        ([b""], 0, b"abc"),
        ([b""], 0, "abcd"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_old_file_stays(sections, kind, arch, tmp_path) -> None:
    path = tmp_path / "n.bdl"
    path.write_bytes(b"old")
    with pytest.raises(InputError):
        write_container(path, sections, kind=kind, architecture=arch)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["n.bdl"]


def test_too_large_is_refused_before_reading(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(container, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="at most 1000"):
        pack([bytes(1000)], kind=0, architecture=ARCH)
    with (tmp_path / "n.bdl").open("wb") as file:
        file.truncate(1 << 40)  # a sparse file: reading it would take a terabyte
    with pytest.raises(CorruptFileError, match="at most 1000"):
        read_container(tmp_path / "n.bdl")


def test_no_plain_file(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorruptFileError, match="plain file"):
        read_container(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        read_container(tmp_path / "none")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "f"
    replace_file(path, [b"old"])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, [b"new"])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_numpy_buffers() -> None:
    array = np.arange(5, dtype=np.uint32)
    content = pack([memoryview(array)], kind=0, architecture=ARCH)
    assert np.frombuffer(unpack(content).sections[0], dtype=np.uint32).tolist() == [0, 1, 2, 3, 4]
