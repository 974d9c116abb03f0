"""Parameters of modules in Pyro's parameter store."""

from typing import Any

import pyro
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

from pyro_bdl.errors import InputError


def own_parameter(name: str, parameter: nn.Parameter) -> nn.Parameter:
    """A `pyro.param` statement that is always this very parameter.

    Pyro's store is global and keeps whatever came first under a name, so that a second guide or network of the same
    name would silently work on the parameters of the first. Here the caller's own parameter takes the name over. One
    that is frozen (`requires_grad_(False)`) is no parameter of the program: the store would have it learned again.

    Raises:
        InputError: another parameter has the name within the same program: only one of them would be trained.

    >>> import torch
    >>> first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    >>> own_parameter("doctest.loc", first) is first, own_parameter("doctest.loc", second) is second
    (True, True)
    """
    if not parameter.requires_grad:
        return parameter
    store = pyro.get_param_store()
    if name in store and _stored(name) is not parameter:
        _refuse_two(name, parameter)
        del store[name]
    pyro.param(name, parameter)
    return parameter


def _stored(name: str) -> Any:
    value: Any = pyro.get_param_store()[name]
    return value.unconstrained()


def _refuse_two(name: str, parameter: nn.Parameter) -> None:
    """Refuse a name that another parameter has in a trace that is being taken, and in which it would be lost."""
    for handler in _PYRO_STACK:
        node: Any = handler.trace.nodes.get(name) if isinstance(handler, TraceMessenger) else None
        if node is not None and node["value"].unconstrained() is not parameter:
            raise InputError(
                f"the parameter {name}", expected="one of that name in a program", got="a second one",
                remedy="Give each network a name of its own (name=), and put guides into an AutoGuideList",
            )  # fmt: skip


def picklable_state(module: nn.Module) -> dict[str, Any]:
    """What a module's `__getstate__` returns whose parameters have been in Pyro's store.

    The store leaves a weak reference on each, which no pickle takes, and leaves it anew when it is asked again.

    >>> layer = nn.Linear(2, 1)
    >>> _ = own_parameter("doctest.weight", layer.weight)
    >>> list(vars(layer.weight)), "training" in picklable_state(layer), vars(layer.weight)
    (['unconstrained'], True, {})
    """
    for parameter in module.parameters():
        vars(parameter).pop("unconstrained", None)
    return vars(module)
