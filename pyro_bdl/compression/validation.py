"""The validation error of a network, by which compression makes its choices."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bdl.compression.units.probing import positional
from pyro_bdl.errors import InputError, NumericalError

Validation = tuple[Any, Tensor] | Callable[[nn.Module], float]
Error = Callable[..., float]  # of a network, and the error `above` which it need not be exact

ROWS = 250  # a processor's cache holds what a layer makes of so many images; 1000 took half as long again


def error_function(validation: Validation) -> tuple[Error, int | None]:
    """The error of a network as a function, and the number of validation points where it is known.

    The function takes `above`, too: an error beyond it is told as soon as it is certain, and then is a lower bound. So
    a search for what is within a limit goes through all data only for what is, nearly.

    Args:
        validation: inputs (a tensor, or a tuple of positional ones) and class labels; the error is the share of points
            whose largest output is another class. Or a function from a network to its error.

    Raises:
        InputError: no inputs, labels of another number or type. From the function: labels that the network has no
            output for; from both functions NumericalError for an error outside [0, 1], or outputs that are NaN.

    >>> error, points = error_function((torch.eye(4), torch.tensor([0, 1, 2, 0])))
    >>> error(nn.Identity()), points
    (0.25, 4)
    """
    if callable(validation):
        return _checked(validation), None
    if not (isinstance(validation, (tuple, list)) and len(validation) == 2):
        raise InputError("validation", expected="inputs and labels, or a function", got=type(validation).__name__)
    inputs, labels = positional(validation[0]), validation[1]
    _check(inputs, labels)

    @torch.no_grad()
    def error(net: nn.Module, above: float = math.inf) -> float:
        wrong = 0
        for start in range(0, len(labels), ROWS):
            outputs = net(*(x[start : start + ROWS] for x in inputs))
            targets = labels[start : start + ROWS]
            _check_outputs(outputs, targets)
            wrong += int((outputs.argmax(-1) != targets.to(outputs.device)).sum())
            if wrong / len(labels) > above:
                break
        return wrong / len(labels)

    return error, len(labels)


def standard_error(error: float, points: int) -> float:
    r"""Of a validation error e on n points, :math:`\sqrt{p (1 - p) / n}` with :math:`p = (n e + 1) / (n + 2)`.

    It is never zero. A smaller difference is noise of the validation set (the one-standard-error rule of Breiman et
    al. 1984, section 3.4.3).

    >>> round(standard_error(0.1, 100), 4)
    0.031
    """
    p = (error * points + 1) / (points + 2)
    return math.sqrt(p * (1 - p) / points)


def _checked(validation: Callable[[nn.Module], float]) -> Error:
    def error(net: nn.Module, above: float = math.inf) -> float:
        found = float(validation(net))
        if not 0 <= found <= 1:
            raise NumericalError(f"the validation error: expected a fraction in [0, 1], got {found}")
        return found

    return error


def _check(inputs: tuple[Any, ...], labels: Any) -> None:
    if not all(isinstance(x, Tensor) and x.dim() for x in (*inputs, labels)) or not inputs:
        raise InputError("validation", expected="tensors of inputs and labels", got="something else")
    if len({len(x) for x in (*inputs, labels)}) > 1 or len(labels) == 0:
        lengths = ", ".join(str(len(x)) for x in inputs)
        raise InputError(
            "validation", expected="inputs with a label each", got=f"{lengths} inputs, {len(labels)} labels"
        )
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            "the validation labels", expected="integers, one a point",
            got=f"{labels.dtype} of shape {tuple(labels.shape)}",
            remedy="For anything but classes, give a function from a network to its error, a fraction in [0, 1]",
        )  # fmt: skip


def _check_outputs(outputs: Any, labels: Tensor) -> None:
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(labels):
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(
            "the network's outputs on validation data", expected=f"({len(labels)}, classes) numbers", got=got,
            remedy="For other networks, give a function from a network to its error, a fraction in [0, 1]",
        )  # fmt: skip
    if not bool(torch.isfinite(outputs).all()):
        raise NumericalError("the network's outputs on validation data: expected finite numbers, got NaN or infinity")
    if int(labels.min()) < 0 or int(labels.max()) >= outputs.shape[-1]:
        raise InputError(
            "the validation labels", expected=f"integers in [0, {outputs.shape[-1]})",
            got=f"{int(labels.min())} to {int(labels.max())}",
        )  # fmt: skip
