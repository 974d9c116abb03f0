"""Arrays and tensors as the metrics want them, checked once, at the interface."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_bdl.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SUM_TOLERANCE = 1e-3  # a softmax over 1,000 classes in single precision is off by 1e-6, in half precision by 1e-3


def as_numpy(value: Any) -> NDArray[Any]:
    """A tensor, array or nested list as a NumPy array; bfloat16, which NumPy lacks, as float32."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def as_floats(what: str, value: Any, *, shape: str, ndim: int | tuple[int, ...]) -> Floats:
    """Finite numbers in double precision.

    Args:
        what: the argument's name, for the error.
        value: array, tensor or nested list.
        shape: the shape expected, in words.
        ndim: the number of axes, or those allowed.

    Raises:
        InputError: not numbers, another rank, empty, NaN or infinite.
    """
    array = as_numpy(value)
    if array.dtype.kind not in "biuf":
        raise InputError(what, expected=f"numbers of shape {shape}", got=f"dtype {array.dtype}")
    if array.ndim not in (ndim if isinstance(ndim, tuple) else (ndim,)):
        raise InputError(what, expected=f"shape {shape}", got=f"shape {array.shape}")
    if array.size == 0:
        raise InputError(what, expected=f"at least one element in each axis of {shape}", got=f"shape {array.shape}")
    floats = array.astype(np.float64)
    if not np.isfinite(floats).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(floats))[0])
        raise InputError(what, expected="finite numbers", got=f"{floats[place]} at {place}")
    return floats


def as_probabilities(value: Any, *, draws: bool | None = None) -> Floats:
    """Class probabilities (N, classes), or (draws, N, classes).

    Args:
        value: the probabilities.
        draws: whether the axis of draws has to be there; None where it may.

    Raises:
        InputError: as `as_floats`; fewer than two classes, a negative probability, or a sum unlike 1.
    """
    ndim = (2, 3) if draws is None else (3,) if draws else (2,)
    shape = "([draws,] N, classes)" if draws is None else "(draws, N, classes)" if draws else "(N, classes)"
    probs = as_floats("probabilities", value, shape=shape, ndim=ndim)
    if probs.shape[-1] < 2:
        raise InputError(
            "probabilities",
            expected="at least two classes along the last axis",
            got=f"shape {probs.shape}",
            remedy="Of the probability p of one class make the two columns 1 - p and p",
        )
    if probs.min() < 0:
        raise InputError(
            "probabilities", expected="nothing negative", got=f"{probs.min():.4g}", remedy="Are they logits?"
        )
    worst = float(np.abs(probs.sum(-1) - 1).max())
    if worst > _SUM_TOLERANCE:
        raise InputError(
            "probabilities",
            expected="a sum of 1 over classes",
            got=f"a sum that is off by {worst:.3g}",
            remedy="Are they logits?",
        )
    return probs


def mean_probabilities(value: Any) -> Floats:
    """The posterior predictive probabilities (N, classes): the mean over draws, where there is such an axis."""
    probs = as_probabilities(value)
    return probs.mean(0) if probs.ndim == 3 else probs


def as_labels(value: Any, *, length: int, classes: int) -> Ints:
    """Integer class labels (N,) in [0, classes).

    Raises:
        InputError: another rank or length, a dtype that is not an integer, or a label out of range.
    """
    labels = as_numpy(value)
    if labels.dtype.kind not in "iu":
        raise InputError("labels", expected="an integer dtype", got=f"dtype {labels.dtype}")
    if labels.shape != (length,):
        raise InputError("labels", expected=f"shape ({length},), as the probabilities", got=f"shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        bad = labels[(labels < 0) | (labels >= classes)][0]
        raise InputError("labels", expected=f"integers in [0, {classes})", got=f"the label {bad}")
    return labels.astype(np.int64)


def require_shape(what: str, array: NDArray[Any], shape: tuple[int, ...], like: str) -> None:
    """Refuse an array that has not the shape of another."""
    if array.shape != shape:
        raise InputError(what, expected=f"shape {shape}, as {like}", got=f"shape {array.shape}")


def require_in_unit_interval(what: str, value: float) -> None:
    """Refuse a level that is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise InputError(what, expected="a number strictly between 0 and 1", got=repr(value))
