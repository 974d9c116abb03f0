"""Numbers that must be finite, or counts, or not negative."""

import math
from typing import Any

from torch import Tensor

from pyro_bdl.errors import InputError, NumericalError


def refuse_non_finite(value: Tensor, what: str, site: str) -> Tensor:
    """The value, if it is finite.

    Raises:
        NumericalError: it is not; the message names the site.

    >>> import torch
    >>> refuse_non_finite(torch.tensor(float("nan")), "the KL", "fc1.weight")
    Traceback (most recent call last):
    ...
    pyro_bdl.errors.NumericalError: the KL of fc1.weight is nan
    """
    number = float(value.detach())
    if not math.isfinite(number):
        raise NumericalError(f"{what} of {site} is {number}")
    return value


def require_count(name: str, count: Any) -> None:
    """Raise unless a number of things is an integer, 1 or more.

    >>> require_count("epochs", 2.5)
    Traceback (most recent call last):
    ...
    pyro_bdl.errors.InputError: epochs: expected an integer, got 2.5
    """
    if not isinstance(count, int) or isinstance(count, bool):
        raise InputError(name, expected="an integer", got=repr(count))
    if count < 1:
        raise InputError(name, expected="at least 1", got=str(count))


def not_negative(name: str, number: Any) -> float:
    """The number, if it is one, finite and not negative.

    >>> not_negative("kl_weight", -1.0)
    Traceback (most recent call last):
    ...
    pyro_bdl.errors.InputError: kl_weight: expected a finite number, 0 or more, got -1.0
    """
    if not isinstance(number, (int, float)) or not 0.0 <= number < math.inf:
        raise InputError(name, expected="a finite number, 0 or more", got=repr(number))
    return number
