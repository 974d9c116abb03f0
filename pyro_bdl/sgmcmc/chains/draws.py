"""Draws of many chains on their way to memory or to disk, and the result of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc.chains.functions import Function, evaluate
from pyro_bdl.sgmcmc.chains.moments import Moments
from pyro_bdl.sgmcmc.chains.store import ChainStore, Variable
from pyro_bdl.sgmcmc.chains.walk import ChainMethod, Walk
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel


class Draws:
    """What is kept of each draw: sites, functions and the sampler's records.

    Args:
        walk: the chains.
        names: the sites.
        functions: programs and their arguments, by name.

    Attributes:
        variables: what is kept, with shapes.

    Raises:
        InputError: a name that the model does not have, or that two things have; a function that returns no tensor.
        UnsupportedModelError: a function that draws random numbers, or does not go through `torch.vmap` where it must.
    """

    def __init__(self, walk: Walk, names: Sequence[str], functions: Mapping[str, Function]) -> None:
        self._walk, self.names, self._functions = walk, list(names), dict(functions)
        known = list(walk.kernels[0].chain.values)
        for name in self.names:
            if name not in known:
                raise InputError("var_names", expected=f"some of the sites {known}", got=repr(name))
        stats = walk.take_stats()
        twice = sorted(set(self._functions) & set(known) | {*self.names, *self._functions} & {*stats, "chain", "draw"})
        if twice:
            raise InputError(
                "var_names and functions",
                expected="names that nothing else has, nor a record of the sampler",
                got=repr(twice),
            )
        example = self._chosen(walk.values())
        self.variables = [
            *(
                Variable(n, "posterior", tuple(v.shape[1:]), str(v.dtype).rpartition(".")[2])
                for n, v in example.items()
            ),
            *(Variable(n, "sample_stats", (), "float64") for n in stats),
        ]
        self.bytes_of_a_draw = sum(v.numel() * v.element_size() for v in example.values()) + 1
        self._rows: dict[str, list[Tensor]] = {name: [] for name in example}

    def add(self, values: Mapping[str, Tensor], *, keep_on: torch.device | str) -> None:
        """Note a draw of each chain, by its sites, (chains, ...)."""
        for name, value in self._chosen(values).items():
            self._rows[name].append(value.to(keep_on))

    def take(self) -> dict[str, Tensor]:
        """The draws since the last call with their records, (chains, draws, ...); empty if there are none."""
        taken = {name: torch.stack(rows, dim=1) for name, rows in self._rows.items() if rows}
        for rows in self._rows.values():
            rows.clear()
        stats = self._walk.take_stats()
        return taken | stats if next(iter(stats.values())).shape[1] else taken

    def _chosen(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is kept of these values of all sites, the functions first."""
        at_once = self._walk.method == "vectorized"
        found = {name: evaluate(name, f, values, at_once=at_once) for name, f in self._functions.items()}
        return found | {name: values[name] for name in self.names}


@dataclass(frozen=True, eq=False)
class Chains:
    """The result of `sample_chains`, for `from_pyro` and `from_chains`, or `predict` on its samples.

    Attributes:
        kernel: what drew the chains, with the last parameters, (chains, parameters) if all at once.
        chains: the numbers of this process's chains; without `torchrun`, all.
        chain_method: "vectorized" or "sequential".
        seed: of the run.
        moments: running moments, if asked for.
        store: where the draws are; `None`: in memory.
    """

    kernel: StochasticGradientKernel
    chains: range
    chain_method: ChainMethod
    seed: int
    moments: Moments | None
    store: ChainStore | None
    names: list[str]
    functions: list[str]
    kept: dict[str, Tensor]
    _args: tuple[Any, ...]  # the model's, by the names that from_pyro knows from Pyro's MCMC
    _kwargs: Mapping[str, Any]

    def get_samples(self, *, group_by_chain: bool = False) -> dict[str, Tensor]:
        """The draws of the sites, (chains * draws, ...), or (chains, draws, ...); from a store, of all processes."""
        return self._grouped(self.names, group_by_chain)

    def get_functions(self, *, group_by_chain: bool = False) -> dict[str, Tensor]:
        """Likewise what the functions returned."""
        return self._grouped(self.functions, group_by_chain)

    def sample_stats(self) -> dict[str, Tensor]:
        """The sampler's records, (chains, draws), see the kernel's `sample_stats`."""
        names = list(self.kernel.sample_stats())
        if self.store is not None:
            return self.store.read(names, group="sample_stats")
        return {name: self.kept[name] for name in names}

    def diagnostics(self) -> dict[str, dict[str, Any]]:
        """The records as `pyro.infer.MCMC.diagnostics` tells them."""
        stats = self.sample_stats()
        chains = next(iter(stats.values())).shape[0]
        return {"sample_stats": {f"chain {c}": {n: v[c] for n, v in stats.items()} for c in range(chains)}}

    def _grouped(self, names: Sequence[str], group_by_chain: bool) -> dict[str, Tensor]:
        draws = self.store.read(list(names)) if self.store is not None else {name: self.kept[name] for name in names}
        return draws if group_by_chain else {name: value.flatten(0, 1) for name, value in draws.items()}
