"""What a run of many chains is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc.chains.functions import Function
from pyro_bdl.sgmcmc.chains.walk import ChainMethod


@dataclass(frozen=True)
class Options:
    """The arguments of `sample_chains`, see there."""

    num_samples: int
    warmup_steps: int
    num_chains: int
    thinning: int | None
    model_args: tuple[Any, ...]
    model_kwargs: Mapping[str, Any]
    seed: int | None
    chain_method: ChainMethod
    var_names: Sequence[str] | None
    functions: Mapping[str, Function]
    moments: bool
    store: str | Path | None
    resume: bool
    device: torch.device | str
    progress: bool

    @property
    def total(self) -> int:
        """The draws of a chain, with those of the warm-up."""
        return self.warmup_steps + self.num_samples

    def check(self) -> None:
        """Refuse numbers and names out of their range.

        Raises:
            InputError: one is.
        """
        if self.seed is not None and (not isinstance(self.seed, int) or self.seed < 0):
            raise InputError("seed", expected="an integer, at least 0", got=repr(self.seed))
        for name, least in (("num_samples", 1), ("num_chains", 1), ("warmup_steps", 0), ("thinning", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(name, expected=f"an integer, at least {least}", got=repr(value))
        if self.chain_method not in ("auto", "vectorized", "sequential"):
            raise InputError(
                "chain_method", expected='"auto", "vectorized" or "sequential"', got=repr(self.chain_method)
            )
        if self.resume and self.store is None:
            raise InputError("resume", expected="a store to go on from", got="store=None")
        for name, function in self.functions.items():
            if not isinstance(function, tuple) or not function or not callable(function[0]):
                raise InputError(f"the function {name!r}", expected="(program, *arguments)", got=repr(function)[:60])
