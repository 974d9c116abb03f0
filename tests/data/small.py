"""Small data sets in the published formats, and a network that is not there."""

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from urllib.request import BaseHandler, Request
from urllib.response import addinfourl

import numpy as np

from pyro_bdl.data.formats import content_digest
from pyro_bdl.data.records import CifarSet, IdxPart, IdxSet, PartedImages, PinnedFile, SplitTable

CLASSES = ("zero", "one", "two")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pinned(path: str, data: bytes, *, urls: tuple[str, ...] = ()) -> PinnedFile:
    return PinnedFile(path, len(data), sha256(data), urls)


def put(folder: Path, path: str, data: bytes) -> Path:
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def npz(**arrays: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def images(count: int, *, seed: int, shape: tuple[int, ...] = (4, 5)) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels that hold each class equally often."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES)).astype(np.uint8)
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8), labels


@dataclass
class SmallIdx:
    """An `IdxSet` with its arrays and the bytes of its files."""

    record: IdxSet
    arrays: dict[str, tuple[np.ndarray, np.ndarray]]
    files: dict[str, bytes]

    def write(self, folder: Path) -> None:
        for path, data in self.files.items():
            put(folder, path, data)


def small_idx_set(*, train: int = 60, test: int = 30, host: str = "https://example.org") -> SmallIdx:
    arrays = {"train": images(train, seed=1), "t10k": images(test, seed=2)}
    files: dict[str, bytes] = {}

    def part(prefix: str) -> IdxPart:
        x, y = arrays[prefix]
        for kind, array in (("images", x), ("labels", y)):
            files[f"small/{prefix}-{kind}.gz"] = gz(idx(array))
        made = [
            pinned(path, files[path], urls=(f"{host}/{path}",))
            for path in (f"small/{prefix}-images.gz", f"small/{prefix}-labels.gz")
        ]
        return IdxPart(made[0], made[1], len(y))

    record = IdxSet("small", CLASSES, part("train"), part("t10k"), validation=12, size=(4, 5))
    return SmallIdx(record, arrays, files)


@dataclass
class SmallCifar:
    """A `CifarSet` of two batches in both layouts."""

    record: CifarSet
    arrays: dict[str, tuple[np.ndarray, np.ndarray]]
    archive: bytes

    def write_npz(self, folder: Path) -> None:
        for name, (x, y) in self.arrays.items():
            put(folder, f"cifar/{name}.npz", npz(images=x, labels=y))


def tar_gz(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def small_cifar(*, count: int = 6) -> SmallCifar:
    arrays = {name: images(count, seed=i, shape=(3, 32, 32)) for i, name in enumerate(("data_batch_1", "test_batch"))}
    binary = {
        name: b"".join(bytes([k]) + image.tobytes() for image, k in zip(x, y, strict=True))
        for name, (x, y) in arrays.items()
    }
    folder = "cifar-10-batches-bin"
    archive = tar_gz({f"{folder}/readme.html": b"hello"} | {f"{folder}/{n}.bin": data for n, data in binary.items()})
    record = CifarSet(
        "cifar",
        CLASSES,
        folder="cifar",
        archive=pinned("cifar/binary.tar.gz", archive, urls=("https://example.org/binary.tar.gz",)),
        batches=tuple((name, sha256(data)) for name, data in binary.items()),
        count=count,
        validation=0,
    )
    return SmallCifar(record, arrays, archive)


@dataclass
class SmallParted:
    """A `PartedImages` with its arrays."""

    record: PartedImages
    arrays: dict[str, np.ndarray]

    def write(self, folder: Path) -> Path:
        return put(folder, "parted/small.npz", npz(**self.arrays))


def small_parted(*, counts: tuple[int, int, int] = (30, 9, 12)) -> SmallParted:
    arrays = {}
    for seed, (part, count) in enumerate(zip(("train", "valid", "test"), counts, strict=True)):
        x, y = images(count, seed=seed)
        arrays |= {part: x % 2, f"label_{part}": y}
    record = PartedImages("small", CLASSES, "parted/small", counts, content_digest(arrays), "a page", size=(4, 5))
    return SmallParted(record, arrays)


@dataclass
class SmallTable:
    """A `SplitTable` with its arrays."""

    record: SplitTable
    arrays: dict[str, np.ndarray]

    def write(self, folder: Path) -> Path:
        return put(folder, "uci/small.npz", npz(**self.arrays))

    def write_text(self, folder: Path) -> None:
        """As published: the target in a column of its own among others, indices as floats."""
        x, y = self.arrays["X"], self.arrays["y"]
        texts = {"data": np.c_[x[:, 0], y, np.zeros(len(y)), x[:, 1:]]}
        texts |= {"index_features": np.array([0, *range(3, 2 + x.shape[1])]), "index_target": np.array([1])}
        for part in ("train", "test"):
            texts |= {f"index_{part}_{split}": index for split, index in enumerate(self.arrays[f"{part}_idx"])}
        for name, array in texts.items():
            sink = io.StringIO()
            np.savetxt(sink, array, fmt="%.18e")
            put(folder, f"uci/small/data/{name}.txt", sink.getvalue().encode())


def small_table(*, rows: int = 40, columns: int = 3, splits: int = 2) -> SmallTable:
    rng = np.random.default_rng(3)
    order = np.stack([rng.permutation(rows) for _ in range(splits)]).astype(np.int32)
    test = rows // 10
    x = np.asfortranarray(rng.normal(size=(rows, columns)) * 5 + 1)
    arrays = {"X": x, "y": rng.normal(size=rows), "train_idx": order[:, test:], "test_idx": order[:, :test]}
    digest = content_digest(arrays)
    return SmallTable(SplitTable("uci/small", "uci/small", rows, columns, splits, digest, "a page"), arrays)


@dataclass
class Reply:
    """What a server answers: by default the body with its length."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    declared: str | None = "true length"


class FakeHttps(BaseHandler):
    """Answers https addresses from a table, through all of urllib's machinery above the socket."""

    def __init__(self, replies: dict[str, Reply]) -> None:
        self.replies = replies
        self.requested: list[str] = []

    def https_open(self, req: Request) -> addinfourl:
        self.requested.append(req.full_url)
        reply = self.replies.get(req.full_url, Reply(status=404))
        headers = Message()
        for name, value in reply.headers.items():
            headers[name] = value
        if reply.declared is not None:
            headers["Content-Length"] = str(len(reply.body)) if reply.declared == "true length" else reply.declared
        response = addinfourl(io.BytesIO(reply.body), headers, req.full_url, reply.status)
        response.msg = "answer"  # type: ignore[attr-defined]
        return response


def bit_flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)
