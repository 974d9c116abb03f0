"""The published files themselves, where a folder with them is to be had."""

import os
from pathlib import Path

import pytest
import torch

from pyro_bdl.data import load, names, standardize
from pyro_bdl.data.files import FOLDER_VARIABLE

FOLDER = Path(os.environ.get(FOLDER_VARIABLE) or Path(__file__).parents[3] / "shared" / "data")

PARTS = ("train", "validation", "test")
# Mean and deviation of the training pixels (of notMNIST the test pixels), from the sets' descriptions.
PIXELS = {
    "mnist": ([0.13066], [0.30811]),
    "fashion_mnist": ([0.28604], [0.35302]),
    "notmnist": ([0.42662], [0.45893]),
    "cifar10": ([0.49140, 0.48216, 0.44653], [0.24703, 0.24349, 0.26159]),
}
TABLES = [name for name in names() if name.startswith("uci/")]


def needs(folder: str) -> None:
    if not (FOLDER / folder).is_dir():
        pytest.skip(f"no {folder} in {FOLDER}; set {FOLDER_VARIABLE} to a folder with it")


@pytest.mark.parametrize(
    "name", ["mnist", "fashion_mnist", "notmnist", pytest.param("cifar10", marks=pytest.mark.slow)]
)
def test_images(name: str) -> None:
    needs(name)
    data = load(name, root=FOLDER, download=False, validation=0)
    x, y = (data.x_test, data.y_test) if name == "notmnist" else (data.x_train, data.y_train)
    mean, deviation = PIXELS[name]
    flat = x.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(flat.mean(1), torch.tensor(mean).double(), atol=6e-6, rtol=0)
    torch.testing.assert_close(flat.std(1), torch.tensor(deviation).double(), atol=6e-6, rtol=0)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    if name == "mnist":
        assert torch.bincount(y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    else:
        assert torch.bincount(y).unique().numel() == 1


def test_mnist_is_divided_55_5_10() -> None:
    needs("mnist")
    data = load("mnist", root=FOLDER, download=False)
    assert [len(getattr(data, f"y_{part}")) for part in PARTS] == [55_000, 5_000, 10_000]


def test_binarized_mnist_is_as_published() -> None:
    """Black and white; the means of its parts; labels as often as MNIST's."""
    needs("binarized_mnist")
    data = load("binarized_mnist", root=FOLDER, download=False)
    assert [tuple(getattr(data, f"x_{part}").shape) for part in PARTS] == [
        (50_000, 1, 28, 28), (10_000, 1, 28, 28), (10_000, 1, 28, 28),
    ]  # fmt: skip
    assert all(getattr(data, f"x_{part}").unique().tolist() == [0.0, 1.0] for part in PARTS)
    assert float(data.x_train.double().mean()) == pytest.approx(0.130562, abs=1e-6)
    assert float(data.x_test.double().mean()) == pytest.approx(0.132512, abs=1e-6)
    training = torch.bincount(data.y_train) + torch.bincount(data.y_validation)
    assert training.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(data.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str) -> None:
    needs("uci")
    splits = 5 if name == "uci/protein" else 20
    first, last = (load(name, root=FOLDER, download=False, split=split) for split in (0, splits - 1))
    assert not torch.equal(first.x_test, last.x_test)
    standard = standardize(first)
    for part in PARTS:
        assert torch.isfinite(getattr(standard.data, f"x_{part}")).all()
        assert getattr(standard.data, f"x_{part}").abs().max() < 1e3
    deviation = standard.data.x_train.double().std(0, correction=0)
    constant = (first.x_train.amax(0) == first.x_train.amin(0)).nonzero().flatten().tolist()
    assert constant == ([8, 11] if name == "uci/naval" else [])
    varying = [k for k in range(len(deviation)) if k not in constant]
    torch.testing.assert_close(deviation[varying], torch.ones(len(varying)).double(), atol=1e-3, rtol=0)


def test_a_table_by_its_name_in_the_literature() -> None:
    needs("uci")
    assert load("uci/bostonHousing", root=FOLDER, download=False).name == "uci/boston"
