"""What `load` returns, and standardisation by training statistics."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from pyro_bdl.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set in three parts, as tensors on the CPU.

    Images are channel first with values in [0, 1]: (N, 1, 8, 8) for digits, (N, 1, 28, 28) for the MNIST family,
    (N, 3, 32, 32) for CIFAR-10. Tables are (N, D), raw. Labels are (N,) of type int64, targets of a regression
    (N,) of the inputs' type. A part that is empty has N = 0 and the same trailing shape.

    Attributes:
        name: the name it was loaded by, without alias.
        classes: the names of the classes by label, or None for a regression.
        x_train: training inputs.
        y_train: training labels or targets.
        x_validation: inputs held out from the training data.
        y_validation: their labels or targets.
        x_test: test inputs.
        y_test: test labels or targets.
    """

    name: str
    classes: tuple[str, ...] | None
    x_train: Tensor
    y_train: Tensor
    x_validation: Tensor
    y_validation: Tensor
    x_test: Tensor
    y_test: Tensor

    def __repr__(self) -> str:
        kind = "regression" if self.classes is None else f"{len(self.classes)} classes"
        sizes = f"train {len(self.y_train)}, validation {len(self.y_validation)}, test {len(self.y_test)}"
        return f"Dataset({self.name!r}, {kind}, x {tuple(self.x_train.shape[1:])}, {sizes})"


@dataclass(frozen=True, eq=False)
class Standardizer:
    """The affine map z = (x - mean) / scale, column by column.

    Attributes:
        mean: of each column, shape of one example.
        scale: the standard deviation (divisor N) of each column, and 1 where the column is constant.

    >>> import torch
    >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    >>> Standardizer.fit(x)(x)
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, x: Tensor) -> "Standardizer":
        """The map that gives `x` (N, ...) mean 0 and standard deviation 1 in each column that is not constant.

        Moments are taken in float64 and rounded to the type of `x`. A deviation that rounds to 0 counts as constant.

        Raises:
            InputError: `x` is empty, not of a floating type, or not finite; or its range is not.
        """
        if not x.is_floating_point() or x.ndim == 0 or len(x) == 0 or not bool(x.isfinite().all()):
            got = f"shape {tuple(x.shape)}, {x.dtype}" + (", not finite" if x.numel() else "")
            raise InputError("x", expected="a finite floating tensor with at least one row", got=got)
        exact = x.double()
        low, span = exact.amin(0), exact.amax(0) - exact.amin(0)
        unit = (exact - low) / span.where(span > 0, 1.0)  # in [0, 1], so that no square under- or overflows
        mean = (low + span * unit.mean(0)).to(x.dtype)
        scale = (span * unit.std(0, correction=0)).to(x.dtype)
        if not bool(scale.isfinite().all()):
            raise InputError("x", expected="columns whose range is finite", got=f"a range of {float(span.max())}")
        return cls(mean, scale.where(scale > 0, 1.0))

    def __call__(self, x: Tensor) -> Tensor:
        """Standardised values of `x` (..., shape of one example)."""
        return (x - self.mean) / self.scale

    def inverse(self, z: Tensor) -> Tensor:
        """The values of which `z` are the standardised ones."""
        return z * self.scale + self.mean


class Standardized(NamedTuple):
    """A data set in standard units and the maps that made it; `targets` is None for a classification."""

    data: Dataset
    inputs: Standardizer
    targets: Standardizer | None


def standardize(data: Dataset) -> Standardized:
    """Standardises a table's inputs, and its targets if it is a regression, by the training part's statistics only.

    A prediction m with deviation s in standard units is `targets.inverse(m)` with deviation `s * targets.scale`; its
    log density is that in standard units minus `log(targets.scale)`.

    Raises:
        InputError: the inputs are no table (N, D).

    >>> from pyro_bdl.data import load
    >>> data, inputs, targets = standardize(load("diabetes"))
    >>> abs(float(data.x_train.mean())) < 1e-6, inputs.mean.shape, targets.mean.shape
    (True, torch.Size([10]), torch.Size([]))
    """
    if data.x_train.ndim != 2:
        got = f"{data.name} with inputs of shape {tuple(data.x_train.shape)}"
        raise InputError("data", expected="a table, inputs (N, D)", got=got)
    x = Standardizer.fit(data.x_train)
    scaled = replace(data, x_train=x(data.x_train), x_validation=x(data.x_validation), x_test=x(data.x_test))
    if data.classes is not None:
        return Standardized(scaled, x, None)
    y = Standardizer.fit(data.y_train)
    scaled = replace(scaled, y_train=y(data.y_train), y_validation=y(data.y_validation), y_test=y(data.y_test))
    return Standardized(scaled, x, y)
