"""Numbers that must be finite."""

import math

from torch import Tensor

from pyro_bdl.errors import NumericalError


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
