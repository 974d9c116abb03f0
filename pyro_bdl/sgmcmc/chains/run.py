"""Many chains of a stochastic-gradient sampler: at once, over processes, to disk, and on from where they stopped."""

import copy
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc.chains.draws import Chains, Draws
from pyro_bdl.sgmcmc.chains.moments import Moments
from pyro_bdl.sgmcmc.chains.ranks import Ranks
from pyro_bdl.sgmcmc.chains.stopping import StopRequests
from pyro_bdl.sgmcmc.chains.store import ChainStore
from pyro_bdl.sgmcmc.chains.walk import ChainMethod, Function, Walk, set_up, walk
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel
from pyro_bdl.sgmcmc.large_steps import warn_of_large_steps

SECONDS = 5.0  # from one save to the next, about
FIRST = 16  # draws to the first save; from its time follow the next ones'
MOST_BYTES = 1 << 25  # of draws in memory, before they are saved
BAR_SECONDS = 0.25


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

    def check(self) -> None:
        """Refuse numbers and names out of their range."""
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


class Run:
    """One process's part of a run.

    Args:
        kernel: how each chain is drawn; it is left as it is.
        options: of the run.
        ranks: the processes.
    """

    def __init__(self, kernel: StochasticGradientKernel, options: Options, ranks: Ranks) -> None:
        options.check()
        if not isinstance(kernel, StochasticGradientKernel):
            raise InputError("kernel", expected="SGLD or another of this package's", got=type(kernel).__name__)
        if options.num_chains < ranks.count:
            raise InputError("num_chains", expected=f"at least one for each of {ranks.count} processes",
                             got=str(options.num_chains))  # fmt: skip
        self.options, self.ranks = options, ranks
        self.store = None
        if options.store is not None:
            self.store = ChainStore(options.store, rank=ranks.rank, count=ranks.count)
        begun = self._is_begun()
        saved = self.store.load_state() if self.store is not None and begun else None
        known = [seed for seed in ranks.all(None if saved is None else saved[1]["seed"]) if seed is not None]
        seed = known[0] if known and options.seed is None else options.seed
        self.seed = ranks.share(int(torch.randint(2**62, ())) if seed is None else int(seed))
        self.chains = ranks.chains(options.num_chains)
        self.walk = self._walk(kernel, options.chain_method if saved is None else saved[1]["method"])
        self.moments = Moments() if options.moments else None
        names = list(self.walk.kernels[0]._sites) if options.var_names is None else list(options.var_names)
        self.draws = Draws(self.walk, names, options.functions)
        self.told = self._told(kernel)
        self.done = 0
        if self.store is not None:
            self._open(self.store, begun)
        if saved is not None:
            self._resume(*saved)

    def go(self) -> Chains:
        """Draw what is left."""
        options, ranks = self.options, self.ranks
        kernel, total = self.walk.kernels[0], options.warmup_steps + options.num_samples
        most = max(1, MOST_BYTES // self.draws.bytes_of_a_draw)
        seen, every = 0.0, min(FIRST, most)
        with StopRequests(heed=self.store is not None) as stop, self._bar(total, kernel._calls) as bar:
            while True:
                begin, count = time.perf_counter(), 0
                while kernel._calls < total and (count < every or self.store is None):
                    self._sample()
                    count += 1
                    bar.update()
                    if time.perf_counter() - seen > BAR_SECONDS:
                        seen = time.perf_counter()
                        bar.set_postfix(kernel.logging(), refresh=False)
                    if stop.asked is not None and ranks.count == 1:
                        break
                if self.store is not None:
                    self._save(self.store)
                seconds = (time.perf_counter() - begin) / max(count, 1)
                wanted = min(most, 2 * every, max(1, int(SECONDS / max(seconds, 1e-6))))
                told = ranks.all((self.done, stop.asked is not None, kernel._calls >= total, wanted))
                if self.store is not None and ranks.rank == 0:
                    self.store.publish(min(done for done, _, _, _ in told))
                if any(asked for _, asked, _, _ in told) or all(ended for _, _, ended, _ in told):
                    break
                every = told[0][3]
        ranks.all(None)  # all is published
        stop.obey()
        return self._result()

    def _sample(self) -> None:
        """One draw of each chain, noted unless it is of the warm-up."""
        self.walk.sample()
        if self.walk.kernels[0]._calls > self.options.warmup_steps:
            self.draws.add(keep_on=self.options.device if self.store is None else "cpu")
            if self.moments is not None:
                self.moments.add(self.walk.values())

    def _walk(self, kernel: StochasticGradientKernel, method: ChainMethod) -> Walk:
        options = self.options
        kernel = copy.copy(kernel)
        if options.thinning is not None:
            kernel.thinning = options.thinning

        def chain(number: int) -> tuple[StochasticGradientKernel, Tensor]:
            return set_up(
                kernel, seed=self.seed, chain=number, warmup_steps=options.warmup_steps, args=options.model_args,
                kwargs=options.model_kwargs,
            )  # fmt: skip

        kernels, random = map(list, zip(*[chain(number) for number in self.chains], strict=True))
        first = kernels[0] if self.chains.start == 0 else chain(0)[0]
        for each in kernels:
            each.schedule = first.schedule  # a default that goes by the start is that of the first chain for all
            each._density = kernels[0]._density  # one trace of the model
        found, reason = walk(kernels, random, method)
        if reason:
            warnings.warn(f"The chains are drawn one after another: {reason}", stacklevel=4)
        return found

    def _told(self, kernel: StochasticGradientKernel) -> dict[str, Any]:
        """What a run that goes on from this one must have in common with it."""
        first, options = self.walk.kernels[0], self.options
        plain = {
            n: v for n, v in vars(first).items() if n[0] != "_" and isinstance(v, (bool, int, float, str, type(None)))
        }
        schedule = first.schedule
        batches = kernel.batches
        return {
            "kernel": type(first).__name__, **plain,
            "step_size": repr(schedule) if hasattr(schedule, "__dataclass_fields__") else type(schedule).__name__,
            "gradient": [type(first._estimator).__name__, getattr(first._estimator, "every", None)],
            "data": None if batches is None else [batches.size, getattr(batches, "batch_size", None)],
            "sites": {n: [*map(int, first._require_density().target.layout.shapes[n])] for n in first._sites},
            "dtype": str(first._position.dtype), "num_chains": options.num_chains,
            "warmup_steps": options.warmup_steps, "stored": [v.name for v in self.draws.variables],
            "moments": options.moments,
        }  # fmt: skip

    def _is_begun(self) -> bool:
        """Whether the store is there to go on from."""
        store, options = self.store, self.options
        exists = self.ranks.share(store is not None and store.exists)
        if store is None or not exists:
            return False
        store.require_own()
        if not options.resume:
            raise InputError(
                f"the store {store.path}", expected="a folder that does not exist yet", got="one with draws",
                remedy="Name another folder, or go on from it with resume=True",
            )  # fmt: skip
        return self.ranks.share(store.has_states)  # else the run before ended before its first save

    def _open(self, store: ChainStore, begun: bool) -> None:
        options, variables = self.options, self.draws.variables
        if not begun and self.ranks.rank == 0:
            store.create(
                variables, chains=options.num_chains, draws=options.num_samples,
                attributes={
                    "inference_library": "pyro-ppl", "modeling_interface": "pyro_bdl", "kernel": self.told["kernel"],
                },
            )  # fmt: skip
        self.ranks.all(None)
        if self.ranks.rank == 0:
            store.open(variables, draws=options.num_samples)
        self.ranks.all(None)
        if self.ranks.rank != 0:
            store.open(variables, draws=options.num_samples)

    def _resume(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        assert self.store is not None
        differ = [f"{n}={v!r} (was {facts['run'].get(n)!r})" for n, v in self.told.items() if facts["run"].get(n) != v]
        if facts["seed"] != self.seed:
            differ.append(f"seed={self.seed} (was {facts['seed']})")
        if differ:
            raise InputError(
                f"the store {self.store.path}", expected="the model and the settings with which it began",
                got=", ".join(differ), remedy="Go on with those, or name another folder",
            )  # fmt: skip
        moments = {n.removeprefix("moments."): v for n, v in tensors.items() if n.startswith("moments.")}
        self.walk.restore({n: v for n, v in tensors.items() if n not in moments}, facts)
        self.done = facts["done"]
        if self.moments is not None:
            self.moments.restore(moments, self.done)
        then, now = facts["log joint"], self.walk.log_joint()
        if abs(then - now) > 1e-4 * max(1.0, abs(then)):
            raise InputError(
                f"the store {self.store.path}", expected=f"the model with which it began, of log joint density {then}",
                got=f"one of {now} at the same parameters and data", remedy="Name another folder for another model",
            )  # fmt: skip

    def _save(self, store: ChainStore) -> None:
        """Put the draws since the last time, and the state to go on from, on disk."""
        values = self.draws.take()
        if values:
            store.write(values, chains=self.chains, start=self.done)
            self.done += next(iter(values.values())).shape[1]
        tensors, facts = self.walk.state()
        if self.moments is not None:
            tensors |= {f"moments.{name}": value for name, value in self.moments.state().items()}
        store.save_state(tensors, {
            **facts, "run": self.told, "seed": self.seed, "method": self.walk.method, "done": self.done,
            "log joint": self.walk.log_joint(),
        })  # fmt: skip

    def _bar(self, total: int, done: int) -> "tqdm[Any]":
        options = self.options
        disabled = not options.progress or self.ranks.rank != 0
        return tqdm(total=total, initial=done, desc=f"{options.num_chains} chains", unit="draw", disable=disabled)

    def _result(self) -> Chains:
        self.walk.close()
        kernel = self.walk.kernels[0]
        chains = Chains(
            kernel=kernel, chains=self.chains, chain_method=self.walk.method, seed=self.seed,
            moments=self.moments, store=self.store, names=self.draws.names, functions=list(self.options.functions),
            kept={} if self.store is not None else self.draws.take(), args=self.options.model_args,
            kwargs=self.options.model_kwargs,
        )  # fmt: skip
        if self.ranks.rank == 0:
            warn_of_large_steps(
                chains.sample_stats(), temperature=kernel.temperature, parameters=kernel._position.shape[-1],
                every=kernel._probe.every, thinning=kernel.thinning, stacklevel=4,
            )  # fmt: skip
        return chains


def sample_chains(
    kernel: StochasticGradientKernel,
    *,
    num_samples: int,
    warmup_steps: int = 0,
    num_chains: int = 4,
    thinning: int | None = None,
    model_args: tuple[Any, ...] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    chain_method: ChainMethod = "auto",
    var_names: Sequence[str] | None = None,
    functions: Mapping[str, Function] | None = None,
    moments: bool = False,
    store: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Chains:
    """Draw many chains, all at once where that is quicker, into memory or into a store on disk.

    A chain's draws depend on the seed and on its number alone: not on how many other chains there are, nor (but for
    rounding) on whether all go through the model at once by `torch.vmap` or one after another. Each has its own start,
    its own order of the data and its own noise.

    Under `torchrun` the chains are spread over the processes, all into one store.

    Args:
        kernel: `SGLD` or another of this package's, not yet run; it is left as it is. Its data must be tensors, or the
            model's own.
        num_samples: draws that are kept of each chain.
        warmup_steps: draws before them that are not kept.
        num_chains: how many chains. Default 4, as many as R-hat wants at least.
        thinning: updates per draw. Default: the kernel's.
        model_args: positional arguments of the model, after the tensors of a batch.
        model_kwargs: its keyword arguments.
        seed: of all random numbers. Default: from torch's generator, so that `pyro.set_rng_seed` decides it.
        chain_method: "vectorized": all chains at once; "sequential": one after another, in turns; "auto": the quicker
            of the two by a trial (they differ by rounding, so name one for the same bits each time), and one after
            another, with a warning, where the model does not go through `torch.vmap`: it draws a batch of its own,
            branches on a value, or changes a module's buffers.
        var_names: the sites to keep. Default: all.
        functions: what else to keep of each draw, {"f": (network, x)}: what the Pyro program `network(x)` returns, so
            that a large network's weights need not be kept.
        moments: also keep each site's running mean and variance, by chain, of all sites.
        store: a folder for the draws, in Zarr's format, which ArviZ opens while it grows (`from_chains`). Draws then
            are not kept in memory. SIGINT and SIGTERM end the run after the draws so far are saved; without a store
            they are lost.
        resume: go on from the store, if it is there, exactly as if there had been no stop; also to get more samples.
        device: where draws are kept that are not in a store.
        progress: show a bar with step size, log joint density and acceptance.

    Raises:
        InputError: an argument out of its range; a store that is there already, holds something else or belongs to
            another model or other settings; more processes than chains.
        UnsupportedModelError: see the kernel; or "vectorized" with a model that cannot be.
        NumericalError: a density or an update that is not finite: the site, the chain and the step are named. The store
            has the draws up to the last save, and can be read.
        CorruptFileError: a store that is damaged.

    >>> import pyro, pyro_bdl as bdl, pyro.distributions as dist
    >>> x, y = torch.randn(100), torch.randn(100)
    >>> def model(x, y):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", size=100, subsample_size=len(x)):
    ...         pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> kernel = bdl.SGLD(model, step_size=1e-3, data=(x, y), batch_size=10)
    >>> chains = bdl.sample_chains(kernel, num_samples=20, num_chains=8, progress=False)
    >>> chains.get_samples(group_by_chain=True)["slope"].shape
    torch.Size([8, 20])
    """
    ranks = Ranks()
    try:
        options = Options(
            num_samples=num_samples, warmup_steps=warmup_steps, num_chains=num_chains, thinning=thinning,
            model_args=tuple(model_args), model_kwargs=dict(model_kwargs or {}), seed=seed, chain_method=chain_method,
            var_names=var_names, functions=dict(functions or {}), moments=moments, store=store, resume=resume,
            device=device, progress=progress,
        )  # fmt: skip
        return Run(kernel, options, ranks).go()
    finally:
        ranks.close()
