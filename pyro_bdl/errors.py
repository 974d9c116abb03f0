"""What can go wrong, said to people: what was expected, what was got, what to do.

One base class, few children. Bad input is an `InputError`, which is a `ValueError`; a computation that left the
finite numbers is a `NumericalError`. Whoever raises one has changed nothing yet.
"""

from typing import Any


class BDLError(Exception):
    """The base of every error that this package raises on purpose."""


class InputError(BDLError, ValueError):
    """Something handed in does not fit.

    Args:
        what: the argument or thing that does not fit.
        expected: what it should have been.
        got: what it was.
        remedy: what to do about it, if that is not plain from the rest.

    >>> raise InputError("labels", expected="integers in [0, 10)", got="the label 12")
    Traceback (most recent call last):
    ...
    pyro_bdl.errors.InputError: labels: expected integers in [0, 10), got the label 12
    """

    def __init__(self, what: str, *, expected: str = "", got: str = "", remedy: str = "") -> None:
        self.what, self.expected, self.got, self.remedy = what, expected, got, remedy
        # Pyro's trace raises a ValueError anew, as type(error)(message and shapes): then `what` is all there is.
        told = f"{what}: expected {expected}, got {got}" if expected or got else what
        super().__init__(told + (f". {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        """How a worker process hands the error over."""
        return _restore, (type(self), self.what, self.expected, self.got, self.remedy)


def _restore(kind: type[InputError], what: str, expected: str, got: str, remedy: str) -> InputError:
    return kind(what, expected=expected, got=got, remedy=remedy)


class ImproperPriorError(InputError):
    """A prior with infinite mass was asked for a draw, or for a posterior that need not exist."""


class UnsupportedModelError(InputError):
    """A Pyro program does something that this algorithm cannot handle."""


class CorruptFileError(InputError):
    """A file is damaged, truncated, or not of the kind expected; nothing of it was used."""


class FileUnavailableError(BDLError, OSError):
    """A file is not here and could not be fetched; the message says why and where to put it by hand."""


class StepSizeWarning(UserWarning):
    """A chain that has run took steps so large, or so noisy, that its draws are not those of the posterior."""


class PosteriorCollapseWarning(UserWarning):
    """The latent variables of a fitted model have the prior for their posterior: the model does not use them."""


class NumericalError(BDLError, ArithmeticError):
    """A loss, gradient or state became NaN or infinite; the message names the site and the step."""
