"""What Pyro programs return at the draws of many chains, so that it can be kept instead of the draws."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_bdl.errors import BDLError, InputError, UnsupportedModelError

Function = tuple[Any, ...]
"""A Pyro program and its arguments."""


def evaluate(name: str, function: Function, values: Mapping[str, Tensor], *, at_once: bool) -> Tensor:
    """What a program returns at values of its latent sites; torch's generator is as it was afterwards.

    Args:
        name: what the function is called in messages.
        function: the program and its arguments.
        values: of the sites, (chains, ...).
        at_once: all chains by `torch.vmap`, or one after another.

    Returns:
        Shape (chains, ...).

    Raises:
        InputError: it returns no tensor.
        UnsupportedModelError: it draws random numbers, or does not go through `torch.vmap`.

    >>> def line(x):
    ...     return pyro.sample("slope", pyro.distributions.Normal(0.0, 1.0)) * x
    >>> evaluate("f", (line, torch.ones(2)), {"slope": torch.tensor([1.0, 2.0, 3.0])}, at_once=True).shape
    torch.Size([3, 2])
    """
    program, *args = function

    def run(values: Mapping[str, Tensor]) -> Tensor:
        with pyro.poutine.block(), pyro.validation_enabled(False):
            found = pyro.poutine.condition(program, data=dict(values))(*args)
        if not isinstance(found, Tensor):
            raise InputError(
                f"the function {name!r}", expected="a program that returns a tensor", got=type(found).__name__
            )
        return found

    before = torch.get_rng_state()
    try:
        with torch.no_grad():
            found = _at_once(name, run, values) if at_once else _in_turns(run, values)
        if torch.equal(before, torch.get_rng_state()):
            return found
    finally:
        torch.set_rng_state(before)
    raise UnsupportedModelError(
        f"the function {name!r}", expected="the same at the same values of the sites", got="random numbers",
        remedy="Put dropout into evaluation mode, let it return a law's parameters, or keep the sites and use predict",
    )  # fmt: skip


def _at_once(name: str, run: Callable[..., Tensor], values: Mapping[str, Tensor]) -> Tensor:
    try:
        return torch.vmap(run, randomness="same")(dict(values))  # which `evaluate` then refuses
    except BDLError:
        raise
    except (RuntimeError, IndexError, ValueError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"the function {name!r}", expected="operations that torch.vmap knows",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            remedy='Draw the chains one after another (chain_method="sequential"), or keep the sites and use predict',
        ) from error  # fmt: skip


def _in_turns(run: Callable[..., Tensor], values: Mapping[str, Tensor]) -> Tensor:
    chains = len(next(iter(values.values())))
    return torch.stack([run({name: value[i] for name, value in values.items()}) for i in range(chains)])
