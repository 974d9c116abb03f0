"""`load`: the parts, their shapes and types, the split by the seed, and bad options."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_bdl.data import Dataset, formats, load, names
from pyro_bdl.data.files import Store
from pyro_bdl.data.loading import load_record
from pyro_bdl.data.records import IdxSet
from pyro_bdl.errors import CorruptFileError, FileUnavailableError, InputError
from tests.data.small import npz, put, small_cifar, small_idx_set, small_parted, small_table

PARTS = ("train", "validation", "test")
EMBEDDED = {"digits": (1797, (1, 8, 8)), "diabetes": (442, (10,)), "breast_cancer": (569, (30,))}


def inputs(data: Dataset, part: str) -> torch.Tensor:
    return getattr(data, f"x_{part}")


def outputs(data: Dataset, part: str) -> torch.Tensor:
    return getattr(data, f"y_{part}")


def local(folder: Path) -> Store:
    return Store(folder, fetch=False, progress=False)


def rows(data: Dataset, part: str) -> list[tuple[float, ...]]:
    """Each example with its label as one tuple, to be compared as sets."""
    both = zip(inputs(data, part).flatten(1).tolist(), outputs(data, part).tolist(), strict=True)
    return sorted((*x, y) for x, y in both)


def same(a: Dataset, b: Dataset, part: str) -> bool:
    return torch.equal(inputs(a, part), inputs(b, part)) and torch.equal(outputs(a, part), outputs(b, part))


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_are_divided_and_nothing_is_lost(name: str) -> None:
    count, shape = EMBEDDED[name]
    data = load(name)
    assert data.name == name
    assert sum(len(outputs(data, part)) for part in PARTS) == count
    for part in PARTS:
        assert inputs(data, part).shape == (len(outputs(data, part)), *shape)
        assert inputs(data, part).dtype == torch.float32
        assert outputs(data, part).dtype == (torch.float32 if data.classes is None else torch.int64)
    whole = load(name, validation=0)
    assert rows(whole, "train") == sorted(rows(data, "train") + rows(data, "validation"))
    assert rows(whole, "test") == rows(data, "test")


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_rows_are_scikit_learns_own(name: str) -> None:
    from sklearn import datasets

    options = {"scaled": False} if name == "diabetes" else {}
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True, **options)
    data = load(name, dtype=torch.float64)
    scale = 16.0 if name == "digits" else 1.0
    got = np.concatenate([(inputs(data, part).flatten(1) * scale).numpy() for part in PARTS])
    labels = np.concatenate([outputs(data, part).numpy() for part in PARTS])
    np.testing.assert_array_equal(np.sort(np.c_[got, labels], axis=0), np.sort(np.c_[x, y], axis=0))


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_every_part_has_the_classes_in_their_proportions(name: str) -> None:
    data = load(name, seed=7)
    assert data.classes is not None
    counts = {part: torch.bincount(outputs(data, part), minlength=len(data.classes)) for part in PARTS}
    share = sum(counts.values()) / sum(int(c.sum()) for c in counts.values())
    for part in PARTS:
        assert (counts[part] - share * counts[part].sum()).abs().max() <= 1.5, part


def test_the_seed_decides_and_nothing_else() -> None:
    data, again, other = load("digits", seed=3), load("digits", seed=3), load("digits", seed=4)
    state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002 - the global state, to be left alone
    for part in PARTS:
        assert same(data, again, part)
        assert not same(data, other, part)
    load("digits", seed=5)
    assert (np.random.get_state()[1] == state[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state[1])


def test_the_test_part_does_not_depend_on_the_validation_part() -> None:
    data, other = load("digits", validation=500), load("digits", validation=10)
    assert same(data, other, "test")
    assert (len(data.y_validation), len(other.y_validation)) == (500, 10)


def test_sizes_by_option() -> None:
    data = load("digits", test=100, validation=50)
    assert [len(outputs(data, part)) for part in PARTS] == [1647, 50, 100]
    data = load("diabetes", test=0, validation=1)
    assert [len(outputs(data, part)) for part in PARTS] == [441, 1, 0]


def test_digits_are_images_from_zero_to_one() -> None:
    data = load("digits")
    assert data.classes == tuple("0123456789")
    values = torch.cat([inputs(data, part).flatten() for part in PARTS])
    assert (float(values.min()), float(values.max())) == (0.0, 1.0)
    assert torch.equal(values * 16, (values * 16).round())


def test_idx_set(tmp_path: Path) -> None:
    small = small_idx_set()
    small.write(tmp_path)
    data = load_record(small.record, local(tmp_path))
    x, y = small.arrays["t10k"]
    assert torch.equal(data.x_test, torch.from_numpy(x)[:, None].float() / 255)
    assert data.y_test.tolist() == y.tolist()
    assert [tuple(inputs(data, part).shape) for part in PARTS] == [(48, 1, 4, 5), (12, 1, 4, 5), (30, 1, 4, 5)]
    assert torch.bincount(data.y_validation).tolist() == [4, 4, 4]
    whole = load_record(small.record, local(tmp_path), validation=0)
    x, y = small.arrays["train"]
    assert torch.equal(whole.x_train, torch.from_numpy(x)[:, None].float() / 255)
    assert whole.y_train.tolist() == y.tolist()
    assert rows(whole, "train") == sorted(rows(data, "train") + rows(data, "validation"))


def test_a_wrong_file_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_idx_set()
    small.write(tmp_path)
    first = next(iter(small.files))
    put(tmp_path, first, small.files[first][::-1])
    monkeypatch.setattr(formats, "zlib", None)
    with pytest.raises(CorruptFileError, match="sha256"):
        load_record(small.record, local(tmp_path))
    put(tmp_path, first, small.files[first])
    with pytest.raises(AttributeError):  # and with the right file it is unpacked
        load_record(small.record, local(tmp_path))


def test_a_set_of_test_images_only_has_empty_training_parts(tmp_path: Path) -> None:
    small = small_idx_set()
    small.write(tmp_path)
    record = IdxSet("small", small.record.classes, None, small.record.test, validation=0, size=(4, 5))
    data = load_record(record, local(tmp_path))
    assert [tuple(inputs(data, part).shape) for part in PARTS] == [(0, 1, 4, 5), (0, 1, 4, 5), (30, 1, 4, 5)]
    assert data.y_train.dtype == torch.int64
    with pytest.raises(InputError, match="validation: expected 0 of the 0 examples, got 3"):
        load_record(record, local(tmp_path), validation=3)


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    small = small_idx_set()
    small.write(tmp_path)
    record = IdxSet("small", ("zero", "one"), small.record.train, small.record.test, validation=0, size=(4, 5))
    with pytest.raises(CorruptFileError, match="labels below 2, got the label 2"):
        load_record(record, local(tmp_path))


def test_cifar_from_either_layout(tmp_path: Path) -> None:
    small = small_cifar()
    put(tmp_path / "archive", small.record.archive.path, small.archive)
    small.write_npz(tmp_path / "npz")
    official, repacked = (load_record(small.record, local(tmp_path / layout)) for layout in ("archive", "npz"))
    x, y = small.arrays["data_batch_1"]
    assert torch.equal(official.x_train, torch.from_numpy(x).float() / 255)
    assert official.y_train.tolist() == y.tolist()
    assert torch.equal(official.x_test, torch.from_numpy(small.arrays["test_batch"][0]).float() / 255)
    assert all(same(official, repacked, part) for part in PARTS)


@pytest.mark.parametrize("array", ["images", "labels"])
def test_repacked_cifar_must_have_the_official_content(tmp_path: Path, array: str) -> None:
    small = small_cifar()
    small.write_npz(tmp_path)
    x, y = (part.copy() for part in small.arrays["test_batch"])
    changed = {"images": x, "labels": y}
    changed[array].flat[0] = (changed[array].flat[0] + 1) % 3
    put(tmp_path, "cifar/test_batch.npz", npz(**changed))
    with pytest.raises(CorruptFileError, match="sha256"):
        load_record(small.record, local(tmp_path))


def test_cifar_with_a_batch_missing(tmp_path: Path) -> None:
    small = small_cifar()
    small.write_npz(tmp_path)
    (tmp_path / "cifar" / "test_batch.npz").unlink()
    with pytest.raises(FileUnavailableError, match=r"test_batch\.npz"):
        load_record(small.record, local(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_with_official_parts(tmp_path: Path, dtype: torch.dtype) -> None:
    small = small_parted()
    small.write(tmp_path)
    data = load_record(small.record, local(tmp_path), dtype=dtype, seed=3)
    for part, key in zip(PARTS, ("train", "valid", "test"), strict=True):
        assert torch.equal(inputs(data, part), torch.from_numpy(small.arrays[key])[:, None].to(dtype))
        assert outputs(data, part).tolist() == small.arrays[f"label_{key}"].tolist()
    whole, other = (load_record(small.record, local(tmp_path), validation=size) for size in (0, 6))
    assert rows(whole, "train") == sorted(rows(data, "train") + rows(data, "validation"))
    assert rows(whole, "train") == sorted(rows(other, "train") + rows(other, "validation"))
    assert torch.bincount(other.y_validation).tolist() == [2, 2, 2]
    assert all(same(data, one, "test") for one in (whole, other))


@pytest.mark.parametrize("array", ["train", "valid", "test", "label_train", "label_valid", "label_test"])
def test_official_parts_must_have_the_pinned_content(tmp_path: Path, array: str) -> None:
    small = small_parted()
    small.arrays[array] = small.arrays[array].copy()
    small.arrays[array].flat[0] ^= 1
    small.write(tmp_path)
    with pytest.raises(CorruptFileError, match="sha256"):
        load_record(small.record, local(tmp_path))


@pytest.mark.parametrize("change", [{"extra": np.zeros(1)}, {"train": np.zeros((30, 4, 4), np.uint8)}, {"test": None}])
def test_other_arrays_than_the_official_parts_are_refused(tmp_path: Path, change: dict) -> None:
    small = small_parted()
    small.arrays = {name: array for name, array in (small.arrays | change).items() if array is not None}
    small.write(tmp_path)
    with pytest.raises(CorruptFileError, match=r"parted/small\.npz: expected"):
        load_record(small.record, local(tmp_path))


def test_official_parts_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileUnavailableError, match=r"parted/small\.npz"):
        load_record(small_parted().record, local(tmp_path))


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_table_with_standard_splits(tmp_path: Path, split: int, dtype: torch.dtype) -> None:
    small = small_table()
    small.write(tmp_path)
    data = load_record(small.record, local(tmp_path), split=split, validation=0, dtype=dtype)
    for part in ("train", "test"):
        index = small.arrays[f"{part}_idx"][split]
        assert torch.equal(inputs(data, part), torch.from_numpy(small.arrays["X"][index]).to(dtype))
        assert torch.equal(outputs(data, part), torch.from_numpy(small.arrays["y"][index]).to(dtype))
    assert data.classes is None
    default = load_record(small.record, local(tmp_path), split=split, dtype=dtype)
    assert [len(outputs(default, part)) for part in PARTS] == [32, 4, 4]
    assert same(default, data, "test")
    assert rows(data, "train") == sorted(rows(default, "train") + rows(default, "validation"))


def test_a_table_from_its_published_text_files(tmp_path: Path) -> None:
    small = small_table()
    small.write(tmp_path / "npz")
    small.write_text(tmp_path / "text")
    one, other = (load_record(small.record, local(tmp_path / layout), split=1) for layout in ("npz", "text"))
    assert all(same(one, other, part) for part in PARTS)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("data", b"1 2 3\n4 5\n", "data.txt: expected a whole file"),
        ("data", b"import os", "data.txt: expected a whole file"),
        ("data", b"\xff\xfe", "data.txt: expected a whole file"),
        ("index_target", b"2", "sha256"),
        ("index_target", b"99", "expected a whole file"),
        ("index_features", b"0 3 99", "expected a whole file"),
        ("index_test_1", b"0 1 2", "expected a whole file"),
        ("index_test_1", b"0 1 2 3", "sha256"),
    ],
)
def test_other_text_files_are_refused(tmp_path: Path, name: str, text: bytes, error: str) -> None:
    small = small_table()
    small.write_text(tmp_path)
    put(tmp_path, f"uci/small/data/{name}.txt", text)
    with pytest.raises(CorruptFileError, match=error):
        load_record(small.record, local(tmp_path))


@pytest.mark.parametrize("array", ["X", "y", "train_idx", "test_idx"])
def test_a_table_must_have_the_pinned_content(tmp_path: Path, array: str) -> None:
    small = small_table()
    small.arrays[array] = small.arrays[array].copy()
    small.arrays[array].flat[0] += 1
    small.write(tmp_path)
    with pytest.raises(CorruptFileError, match="sha256"):
        load_record(small.record, local(tmp_path))


@pytest.mark.parametrize("name", ["../mnist", "uci/../mnist", "/etc/passwd", "MNIST", "", None, 3, "uci/", b"digits"])
def test_an_unknown_name_lists_the_known_ones(name: object) -> None:
    with pytest.raises(InputError) as told:
        load(name)  # type: ignore[arg-type]
    assert all(known in str(told.value) for known in names())


@pytest.mark.parametrize(
    "options",
    [
        {"split": 1},
        {"split": -1},
        {"split": 0.0},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": None},
        {"seed": True},
        {"validation": -1},
        {"validation": 0.1},
        {"validation": 9},
        {"validation": 1437},
        {"test": 9},
        {"test": 1797},
        {"test": "360"},
        {"dtype": torch.float16},
        {"dtype": "float32"},
        {"root": 3},
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        load("digits", **options)


def test_a_test_size_for_a_set_with_its_own_is_refused() -> None:
    with pytest.raises(InputError, match="mnist has a test part of its own"):
        load("mnist", test=100)
    with pytest.raises(InputError, match="from 0 to 4, got 5"):
        load("uci/protein", split=5)


def test_a_dataset_is_frozen_and_says_what_it_is() -> None:
    data = load("diabetes")
    assert repr(data) == "Dataset('diabetes', regression, x (10,), train 310, validation 44, test 88)"
    with pytest.raises(AttributeError):
        data.x_train = data.x_test  # type: ignore[misc]


def test_parts_share_no_memory(tmp_path: Path) -> None:
    """Changing one load's tensors in place must not reach another's."""
    small = small_idx_set()
    small.write(tmp_path)
    data = load_record(small.record, local(tmp_path), validation=0)
    kept = data.x_train.clone()
    data.x_test.zero_()
    data.y_test.zero_()
    assert torch.equal(data.x_train, kept)
    assert load_record(small.record, local(tmp_path)).x_test.any()
