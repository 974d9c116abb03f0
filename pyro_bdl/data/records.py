"""What is known of a data set before it is read: where its files are, their sha256, and how it is divided."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeAlias

from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class PinnedFile:
    """A file of which every byte is known beforehand: its place below the data folder, size, sha256 and sources."""

    path: str
    size: int
    sha256: str
    urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or "\\" in self.path or ":" in self.path or {"/", ".."} & set(parts):
            raise InputError("path of a data file", expected="a relative path without '..'", got=repr(self.path))


@dataclass(frozen=True)
class EmbeddedSet:
    """A set that comes with scikit-learn; its test set is drawn by the seed."""

    name: str
    loader: str
    classes: tuple[str, ...] | None
    test: int
    validation: int
    image: tuple[int, int, int] | None = None
    divisor: float = 1.0


@dataclass(frozen=True)
class IdxPart:
    """The images and labels of one part (training or test) in MNIST's idx format, compressed by gzip."""

    images: PinnedFile
    labels: PinnedFile
    count: int


@dataclass(frozen=True)
class IdxSet:
    """Grey images of 8 bits with labels, in MNIST's format; `train` is None where only test images are to be had."""

    name: str
    classes: tuple[str, ...]
    train: IdxPart | None
    test: IdxPart
    validation: int
    size: tuple[int, int] = (28, 28)


@dataclass(frozen=True)
class CifarSet:
    """Colour images in CIFAR-10's binary batches, `(name, sha256)` each; the last batch is the test set.

    A batch is `count` records of one byte label and 3 x 32 x 32 bytes of pixels. It is read from
    `<folder>/<name>.npz` (arrays `images` and `labels`, whose bytes put back into the binary form have that
    sha256) if such a file is there, else from the official archive.
    """

    name: str
    classes: tuple[str, ...]
    folder: str
    archive: PinnedFile
    batches: tuple[tuple[str, str], ...]
    count: int
    validation: int


@dataclass(frozen=True)
class PartedImages:
    r"""Grey images whose training, validation and test part are all official, in one npz file at `path`.

    Its arrays are `train`, `valid` and `test` (N, \*size) of bytes, and `label_train`, `label_valid` and `label_test`
    (N,). `content` is the sha256 of the arrays (`formats.content_digest`), not of the file, which may be packed anew.
    """

    name: str
    classes: tuple[str, ...]
    path: str
    counts: tuple[int, int, int]
    content: str
    source: str
    size: tuple[int, int] = (28, 28)

    @property
    def validation(self) -> int:
        """Examples of the official validation part."""
        return self.counts[1]


@dataclass(frozen=True)
class SplitTable:
    """A regression table with standard splits, in the layouts of `tables.read_table`.

    `content` is the sha256 of the arrays (`formats.content_digest`), not of the file, which may be packed anew.
    """

    name: str
    path: str
    rows: int
    columns: int
    splits: int
    content: str
    source: str

    classes = None

    @property
    def test(self) -> int:
        """Rows held out in each split: a tenth, rounded."""
        return round(self.rows / 10)

    @property
    def validation(self) -> int:
        """The default: a tenth of the training rows, rounded."""
        return round((self.rows - self.test) / 10)


DataRecord: TypeAlias = EmbeddedSet | IdxSet | CifarSet | PartedImages | SplitTable
