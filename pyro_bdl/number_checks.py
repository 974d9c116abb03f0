"""Numbers that must be counts, or not negative: checked where they are given."""

import math
from numbers import Integral, Real
from typing import Any

from pyro_bdl.errors import InputError


def require_count(name: str, count: Any, *, least: int = 1) -> None:
    """Raise unless a number of things is an integer, `least` or more.

    >>> require_count("epochs", 2.5)
    Traceback (most recent call last):
    ...
    pyro_bdl.errors.InputError: epochs: expected an integer, got 2.5
    """
    if not isinstance(count, Integral) or isinstance(count, bool):
        raise InputError(name, expected="an integer", got=repr(count))
    if int(count) < least:
        raise InputError(name, expected=f"at least {least}", got=str(count))


def not_negative(name: str, number: Any) -> float:
    """The number, if it is one, finite and not negative.

    >>> not_negative("kl_weight", -1.0)
    Traceback (most recent call last):
    ...
    pyro_bdl.errors.InputError: kl_weight: expected a finite number, 0 or more, got -1.0
    """
    if not isinstance(number, Real) or not 0.0 <= float(number) < math.inf:
        raise InputError(name, expected="a finite number, 0 or more", got=repr(number))
    return float(number)
