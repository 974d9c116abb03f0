"""Parameters of modules in Pyro's parameter store."""

from typing import Any

import pyro
from torch import nn


def own_parameter(name: str, parameter: nn.Parameter) -> nn.Parameter:
    """A `pyro.param` statement that is always this very parameter.

    Pyro's store is global and keeps whatever came first under a name, so that a second guide or network of the same
    name would silently work on the parameters of the first. Here the caller's own parameter takes the name over.

    >>> import torch
    >>> first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    >>> own_parameter("doctest.loc", first) is first, own_parameter("doctest.loc", second) is second
    (True, True)
    """
    store = pyro.get_param_store()
    if name in store and _stored(name) is not parameter:
        del store[name]
    pyro.param(name, parameter)
    return parameter


def _stored(name: str) -> Any:
    value: Any = pyro.get_param_store()[name]
    return value.unconstrained()
