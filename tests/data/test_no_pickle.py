"""No public load looks up a class for a pickle, seen by Python's audit hook."""

import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pyro_bdl.data import load
from pyro_bdl.data.download import https_opener
from pyro_bdl.data.files import Store
from pyro_bdl.data.loading import load_record
from pyro_bdl.errors import CorruptFileError
from tests.data.small import FakeHttps, Reply, npz, put, small_cifar, small_idx_set, small_parted, small_table

_seen: list[tuple[str, object]] | None = None
_installed = False


def _hook(event: str, arguments: object) -> None:
    if _seen is not None and event == "pickle.find_class":
        _seen.append((event, arguments))


@contextmanager
def pickled_classes() -> Iterator[list[tuple[str, object]]]:
    """Collects the classes that pickles ask for. An audit hook cannot be removed, so it is put in once and switched."""
    global _seen, _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    seen: list[tuple[str, object]] = []
    _seen = seen
    try:
        yield seen
    finally:
        _seen = None


def test_the_hook_sees_a_pickle() -> None:
    data = pickle.dumps(OrderedDict(a=1))
    with pickled_classes() as seen:
        pickle.loads(data)
    assert seen


@pytest.mark.parametrize("name", ["digits", "diabetes", "breast_cancer"])
def test_embedded_sets(name: str) -> None:
    with pickled_classes() as seen:
        load(name)
    assert seen == []


def test_files_and_downloads(tmp_path: Path) -> None:
    idx_set, cifar, table, parted = small_idx_set(), small_cifar(), small_table(), small_parted()
    web = FakeHttps({f"https://example.org/{path}": Reply(data) for path, data in idx_set.files.items()})
    cifar.write_npz(tmp_path / "npz")
    put(tmp_path / "archive", cifar.record.archive.path, cifar.archive)
    table.write(tmp_path)
    parted.write(tmp_path)
    with pickled_classes() as seen:
        load_record(idx_set.record, Store(tmp_path, progress=False, open_url=https_opener(web).open))
        load_record(cifar.record, Store(tmp_path / "npz", fetch=False))
        load_record(cifar.record, Store(tmp_path / "archive", fetch=False))
        load_record(table.record, Store(tmp_path, fetch=False))
        load_record(parted.record, Store(tmp_path, fetch=False))
    assert seen == []


def test_a_pickle_in_an_npz_file_is_refused_unread(tmp_path: Path) -> None:
    table = small_table()
    objects = table.arrays | {"y": np.array([OrderedDict(a=1)] * len(table.arrays["y"]), dtype=object)}
    put(tmp_path, "uci/small.npz", npz(**objects))
    with pickled_classes() as seen, pytest.raises(CorruptFileError, match="type object"):
        load_record(table.record, Store(tmp_path, fetch=False))
    assert seen == []
