"""A record of the registry into raw arrays: training and test part as they are published."""

import hashlib
from dataclasses import dataclass

import numpy as np

from pyro_bdl.data.files import Store
from pyro_bdl.data.formats import (
    ArraySpec,
    content_digest,
    npz_limit,
    read_gzipped_idx,
    read_gzipped_tar,
    read_npz,
    require_digest,
)
from pyro_bdl.data.records import CifarSet, DataRecord, EmbeddedSet, IdxPart, IdxSet, PartedImages, SplitTable
from pyro_bdl.data.splits import held_out
from pyro_bdl.data.tables import read_table
from pyro_bdl.errors import CorruptFileError


@dataclass(frozen=True)
class RawParts:
    """Training and test arrays as read; inputs are to be divided by `divisor`.

    `validation` tells how many of the last training rows are an official validation part.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    divisor: float = 1.0
    validation: int | None = None


def read(record: DataRecord, store: Store, *, split: int, test: int, seed: int) -> RawParts:
    """The training and test part of a data set.

    Args:
        record: which set.
        store: where its files are.
        split: which of its standard splits (tables only).
        test: size of the test part (embedded sets only).
        seed: of the test part (embedded sets only).
    """
    match record:
        case EmbeddedSet():
            return _read_embedded(record, test=test, seed=seed)
        case IdxSet():
            return _read_idx_set(record, store)
        case CifarSet():
            return _read_cifar(record, store)
        case PartedImages():
            return _read_parted(record, store)
        case SplitTable():
            return _read_table(record, store, split=split)


def _read_embedded(record: EmbeddedSet, *, test: int, seed: int) -> RawParts:
    from sklearn import datasets

    # Raw columns: scikit-learn's scaled diabetes data were scaled by statistics of all rows, the test rows among them.
    options = {"scaled": False} if record.loader == "load_diabetes" else {}
    x, y = getattr(datasets, record.loader)(return_X_y=True, **options)
    if record.image is not None:
        x = x.reshape(-1, *record.image)
    kept, held = held_out(y, test, seed=seed, stratify=record.classes is not None)
    return RawParts(x[kept], y[kept], x[held], y[held], record.divisor)


def _read_idx_set(record: IdxSet, store: Store) -> RawParts:
    train = _read_idx_part(record, record.train, store) if record.train else _no_images(record)
    return RawParts(*train, *_read_idx_part(record, record.test, store), divisor=255.0)


def _no_images(record: IdxSet) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((0, 1, *record.size), np.uint8), np.zeros(0, np.uint8)


def _read_idx_part(record: IdxSet, part: IdxPart, store: Store) -> tuple[np.ndarray, np.ndarray]:
    shape = (part.count, *record.size)
    images = read_gzipped_idx(store.pinned(part.images), shape, what=part.images.path)
    labels = read_gzipped_idx(store.pinned(part.labels), shape[:1], what=part.labels.path)
    _check_labels(labels, record.classes, what=part.labels.path)
    return images[:, None], labels


def _read_cifar(record: CifarSet, store: Store) -> RawParts:
    names = [name for name, _ in record.batches]
    if store.has(f"{record.folder}/{names[0]}.npz"):
        batches = {name: _batch_from_npz(record, name, store) for name in names}
    else:
        batches = _batches_from_archive(record, store)
    for name, sha256 in record.batches:
        require_digest(hashlib.sha256(batches[name].tobytes()).hexdigest(), sha256, what=f"{record.folder}/{name}")
        _check_labels(batches[name][:, 0], record.classes, what=f"{record.folder}/{name}")
    train = np.concatenate([batches[name] for name in names[:-1]])
    test = batches[names[-1]]

    def images(batch: np.ndarray) -> np.ndarray:
        return batch[:, 1:].reshape(-1, 3, 32, 32)

    return RawParts(images(train), train[:, 0], images(test), test[:, 0], divisor=255.0)


def _batch_from_npz(record: CifarSet, name: str, store: Store) -> np.ndarray:
    """The batch as in the binary version: rows of one label and 3,072 pixels."""
    path = f"{record.folder}/{name}.npz"
    specs = {
        "images": ArraySpec("u1", (record.count, 3, 32, 32)),
        "labels": ArraySpec("u1", (record.count,)),
    }
    arrays = read_npz(store.unpinned(path, at_most=npz_limit(specs), source=record.archive.urls[0]), specs, what=path)
    return np.concatenate([arrays["labels"][:, None], arrays["images"].reshape(record.count, -1)], axis=1)


def _batches_from_archive(record: CifarSet, store: Store) -> dict[str, np.ndarray]:
    members = {name: f"cifar-10-batches-bin/{name}.bin" for name, _ in record.batches}
    sizes = dict.fromkeys(members.values(), record.count * 3073)
    contents = read_gzipped_tar(store.pinned(record.archive), sizes, what=record.archive.path)
    return {
        name: np.frombuffer(contents[member], np.uint8).reshape(record.count, 3073) for name, member in members.items()
    }


def _read_parted(record: PartedImages, store: Store) -> RawParts:
    specs: dict[str, ArraySpec] = {}
    for part, count in zip(("train", "valid", "test"), record.counts, strict=True):
        specs |= {part: ArraySpec("u1", (count, *record.size)), f"label_{part}": ArraySpec("u1", (count,))}
    path = f"{record.path}.npz"
    arrays = read_npz(store.unpinned(path, at_most=npz_limit(specs), source=record.source), specs, what=path)
    require_digest(content_digest(arrays), record.content, what=f"the images of {record.path}")
    x, y = (np.concatenate([arrays[f"{prefix}{part}"] for part in ("train", "valid")]) for prefix in ("", "label_"))
    _check_labels(y, record.classes, what=path)
    return RawParts(x[:, None], y, arrays["test"][:, None], arrays["label_test"], validation=record.validation)


def _read_table(record: SplitTable, store: Store, *, split: int) -> RawParts:
    arrays = read_table(record, store)
    x, y, train, test = arrays["X"], arrays["y"], arrays["train_idx"][split], arrays["test_idx"][split]
    return RawParts(x[train], y[train], x[test], y[test])


def _check_labels(labels: np.ndarray, classes: tuple[str, ...], *, what: str) -> None:
    if labels.size and labels.max() >= len(classes):
        raise CorruptFileError(what, expected=f"labels below {len(classes)}", got=f"the label {labels.max()}")
