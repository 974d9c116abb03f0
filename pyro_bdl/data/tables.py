"""A regression table with its standard splits, from one npz file or from the text files it was published as."""

import io
from typing import Literal

import numpy as np

from pyro_bdl.data.files import Store
from pyro_bdl.data.formats import ArraySpec, content_digest, damage_in, npz_limit, read_npz, require_digest
from pyro_bdl.data.records import SplitTable

_TEXT_LIMIT = 50_000_000  # bytes of one text file


def read_table(record: SplitTable, store: Store) -> dict[str, np.ndarray]:
    """The arrays `X` (N, D), `y` (N,), `train_idx` and `test_idx` (splits, ...), which must have the pinned content.

    They come from `<path>.npz`, or, if there is a folder `<path>/data`, from its text files: `data.txt`, whose columns
    `index_features.txt` and `index_target.txt` choose, and `index_train_<split>.txt`, `index_test_<split>.txt`.

    Raises:
        CorruptFileError: damaged, or other numbers than those published.
        FileUnavailableError: neither layout is there.
    """
    is_text = store.has(f"{record.path}/data") and not store.has(f"{record.path}.npz")
    arrays = _from_text(record, store) if is_text else _from_npz(record, store)
    require_digest(content_digest(arrays), record.content, what=f"the numbers of {record.path}")
    return arrays


def _from_npz(record: SplitTable, store: Store) -> dict[str, np.ndarray]:
    specs = {
        "X": ArraySpec("<f8", (record.rows, record.columns)),
        "y": ArraySpec("<f8", (record.rows,)),
        "train_idx": ArraySpec("<i4", (record.splits, record.rows - record.test)),
        "test_idx": ArraySpec("<i4", (record.splits, record.test)),
    }
    path = f"{record.path}.npz"
    return read_npz(store.unpinned(path, at_most=npz_limit(specs), source=record.source), specs, what=path)


def _from_text(record: SplitTable, store: Store) -> dict[str, np.ndarray]:
    def numbers(name: str, *, dimensions: Literal[1, 2]) -> np.ndarray:
        path = f"{record.path}/data/{name}.txt"
        data = store.unpinned(path, at_most=_TEXT_LIMIT, source=record.source)
        with damage_in(path):
            return np.loadtxt(io.StringIO(data.decode("ascii")), ndmin=dimensions)

    def rows(name: str) -> np.ndarray:
        return numbers(name, dimensions=1).astype("<i4")

    table = numbers("data", dimensions=2)
    features, target = rows("index_features"), rows("index_target")
    parts = {
        f"{part}_idx": [rows(f"index_{part}_{split}") for split in range(record.splits)] for part in ("train", "test")
    }
    with damage_in(f"{record.path}/data"):
        return {"X": table[:, features], "y": table[:, target.item()]} | {
            name: np.stack(index) for name, index in parts.items()
        }
