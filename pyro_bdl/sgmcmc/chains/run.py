"""One process's part of a run of many chains: draw, save, tell the other processes, and go on."""

import copy
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc.chains.draws import Chains, Draws
from pyro_bdl.sgmcmc.chains.moments import Moments
from pyro_bdl.sgmcmc.chains.options import Options
from pyro_bdl.sgmcmc.chains.ranks import Ranks
from pyro_bdl.sgmcmc.chains.settings import require_same_model, require_same_settings, settings_of
from pyro_bdl.sgmcmc.chains.stopping import StopRequests
from pyro_bdl.sgmcmc.chains.store import ChainStore
from pyro_bdl.sgmcmc.chains.walk import ChainMethod, Walk, set_up, walk
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel
from pyro_bdl.sgmcmc.large_steps import warn_of_large_steps

SECONDS = 5.0  # from one save to the next, about
FIRST = 16  # draws to the first save; from its time follow the next ones'
MOST_BYTES = 1 << 25  # of draws in memory, before they are saved
BAR_SECONDS = 0.25


class Run:
    """One process's part of a run.

    Args:
        kernel: how each chain is drawn; it is left as it is.
        options: of the run.
        ranks: the processes.

    Raises:
        InputError: see `sample_chains`, as for the other errors.
    """

    def __init__(self, kernel: StochasticGradientKernel, options: Options, ranks: Ranks) -> None:
        _check(kernel, options, ranks)
        self.options, self.ranks = options, ranks
        self.store = None
        if options.store is not None:
            self.store = ChainStore(options.store, rank=ranks.rank, count=ranks.count)
        self._begun = self._is_begun()
        saved = self._saved = self.store.load_state() if self.store is not None and self._begun else None
        self.seed = self._shared_seed(None if saved is None else saved[1]["seed"])
        self.chains = ranks.chains(options.num_chains)
        self.walk = self._walk(kernel, options.chain_method if saved is None else saved[1]["method"])
        self.moments = Moments() if options.moments else None
        names = list(self.walk.kernels[0].chain.values) if options.var_names is None else list(options.var_names)
        self.draws = Draws(self.walk, names, options.functions)
        self._needed = None if options.functions or options.moments else names  # sites, of each draw; None: all
        self.settings = settings_of(self.walk.kernels[0], options, self.draws.variables, seed=self.seed)
        self.done = 0

    def close(self) -> None:
        """End the threads of the chains."""
        self.walk.close()

    def go(self) -> Chains:
        """Draw what is left, and save it now and then."""
        self._begin()
        every = min(FIRST, self._most) if self.store is not None else self.options.total
        with StopRequests(heed=self.store is not None) as stop, self._bar() as bar:
            while every:
                begin = time.perf_counter()
                count = self._draw(every, bar, stop)
                if self.store is not None:
                    self._save(self.store)
                every = self._next_stretch(every, (time.perf_counter() - begin) / max(count, 1), stop)
        self.ranks.all(None)  # all is published
        stop.obey()
        return self._result()

    # The set-up ------------------------------------------------------------------------------------------------------

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

    def _shared_seed(self, saved: int | None) -> int:
        """That of the options, of the store, or a new one; the same in all processes."""
        known = [seed for seed in self.ranks.all(saved) if seed is not None]
        seed = known[0] if known and self.options.seed is None else self.options.seed
        return self.ranks.share(int(torch.randint(2**62, ())) if seed is None else int(seed))

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
            each.chain.share(kernels[0].chain.density)
        found, reason = walk(kernels, random, method)
        if reason:
            warnings.warn(f"The chains are drawn one after another: {reason}", stacklevel=4)
        return found

    def _begin(self) -> None:
        """Go on from the state that was saved, if there is one, and open the store."""
        saved, self._saved = self._saved, None
        if saved is not None:
            self._resume(*saved)
        if self.store is not None:
            self._open(self.store)

    def _resume(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        assert self.store is not None
        path = self.store.path
        require_same_settings(path, {**facts["run"], "seed": facts["seed"]}, self.settings)
        moments = {n.removeprefix("moments."): v for n, v in tensors.items() if n.startswith("moments.")}
        self.walk.restore({n: v for n, v in tensors.items() if not n.startswith("moments.")}, facts)
        self.done = facts["done"]
        if self.moments is not None:
            self.moments.restore(moments, self.done)
        require_same_model(path, facts["log joint"], self.walk.log_joint())

    def _open(self, store: ChainStore) -> None:
        options, variables = self.options, self.draws.variables
        if self.ranks.rank == 0 and self._begun:
            store.make_room(variables, draws=options.num_samples)
        elif self.ranks.rank == 0:
            store.create(
                variables, chains=options.num_chains, draws=options.num_samples,
                attributes={
                    "inference_library": "pyro-ppl", "modeling_interface": "pyro_bdl",
                    "kernel": self.settings["kernel"],
                },
            )  # fmt: skip
        self.ranks.all(None)
        store.open(variables)

    # The draws -------------------------------------------------------------------------------------------------------

    @property
    def _calls(self) -> int:
        """Draws of each chain so far, with those of the warm-up."""
        return self.walk.kernels[0].chain.draws

    @property
    def _most(self) -> int:
        """Draws from one save to the next at most."""
        return max(1, MOST_BYTES // self.draws.bytes_of_a_draw)

    def _draw(self, most: int, bar: "tqdm[Any]", stop: StopRequests) -> int:
        """So many draws of each chain, if there are as many left and no stop is asked for. Returns how many."""
        count, shown = 0, 0.0
        while self._calls < self.options.total and count < most:
            self._sample()
            count += 1
            bar.update()
            if time.perf_counter() - shown > BAR_SECONDS:
                shown = time.perf_counter()
                bar.set_postfix(self.walk.kernels[0].logging(), refresh=False)
            if stop.asked is not None and self.ranks.count == 1:
                break
        return count

    def _sample(self) -> None:
        """One draw of each chain, noted unless it is of the warm-up."""
        self.walk.sample()
        if self._calls > self.options.warmup_steps:
            values = self.walk.values(self._needed)
            self.draws.add(values, keep_on=self.options.device if self.store is None else "cpu")
            if self.moments is not None:
                self.moments.add(values)

    def _next_stretch(self, every: int, seconds: float, stop: StopRequests) -> int:
        """Publish what all processes have saved, and agree on how many draws come next; none at the end.

        Args:
            every: how many there were at most.
            seconds: a draw took.
            stop: whether this process was asked to stop.
        """
        wanted = min(self._most, 2 * every, max(1, int(SECONDS / max(seconds, 1e-6))))
        told = self.ranks.all((self.done, stop.asked is not None, self._calls >= self.options.total, wanted))
        if self.store is not None and self.ranks.rank == 0:
            self.store.publish(min(done for done, _, _, _ in told))
        if any(asked for _, asked, _, _ in told) or all(ended for _, _, ended, _ in told):
            return 0
        return told[0][3]

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
            **facts, "run": self.settings, "seed": self.seed, "method": self.walk.method, "done": self.done,
            "log joint": self.walk.log_joint(),
        })  # fmt: skip

    def _bar(self) -> "tqdm[Any]":
        options = self.options
        return tqdm(
            total=options.total, initial=self._calls, desc=f"{options.num_chains} chains", unit="draw",
            disable=not options.progress or self.ranks.rank != 0,
        )  # fmt: skip

    def _result(self) -> Chains:
        kernel = self.walk.kernels[0]
        chains = Chains(
            kernel=kernel, chains=self.chains, chain_method=self.walk.method, seed=self.seed,
            moments=self.moments, store=self.store, names=self.draws.names, functions=list(self.options.functions),
            kept={} if self.store is not None else self.draws.take(), _args=self.options.model_args,
            _kwargs=self.options.model_kwargs,
        )  # fmt: skip
        if self.ranks.rank == 0:
            warn_of_large_steps(
                chains.sample_stats(), temperature=kernel.temperature, parameters=kernel.chain.position.shape[-1],
                every=kernel.chain.probe.every, thinning=kernel.thinning, stacklevel=4,
            )  # fmt: skip
        return chains


def _check(kernel: StochasticGradientKernel, options: Options, ranks: Ranks) -> None:
    options.check()
    if not isinstance(kernel, StochasticGradientKernel):
        raise InputError("kernel", expected="SGLD or another of this package's", got=type(kernel).__name__)
    if options.num_chains < ranks.count:
        raise InputError(
            "num_chains", expected=f"at least one for each of {ranks.count} processes", got=str(options.num_chains)
        )
