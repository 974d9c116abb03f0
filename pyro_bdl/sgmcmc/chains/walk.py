"""The chains of one process, drawn all at once or one after another, with the same draws either way."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.sgmcmc.chains.ranks import seed_of_chain
from pyro_bdl.sgmcmc.chains.stacking import check_all_data, stacked
from pyro_bdl.sgmcmc.flat import mean
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel

ChainMethod = Literal["auto", "vectorized", "sequential"]
TRIALS = 3


class Walk:
    """Chains that go on together, a draw at a time.

    Args:
        kernels: one a chain, after `set_up`; or one for all of them, `stacked`.
        random: the state of torch's generator of each kernel: what the model itself draws from.

    Attributes:
        method: how the chains are drawn.
    """

    def __init__(self, kernels: Sequence[StochasticGradientKernel], random: Sequence[Tensor]) -> None:
        self.kernels, self._random = list(kernels), list(random)
        self._stacked = len(kernels) == 1 and kernels[0].chain.position.dim() > 1
        self.method: ChainMethod = "vectorized" if self._stacked else "sequential"

    def sample(self) -> None:
        """The next draw of each chain."""
        for i, kernel in enumerate(self.kernels):
            with _random_state(self._random, i):
                kernel.sample(kernel.chain.values)

    def values(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The present values of these sites (`None`: all), constrained, (chains, ...), in tensors of their own."""
        together = self._together([kernel.chain.constrained(names) for kernel in self.kernels])
        return {name: value.clone() for name, value in together.items()} if self._stacked else together

    def take_stats(self) -> dict[str, Tensor]:
        """The records of the draws since the last call, (chains, draws)."""
        each = [kernel.sample_stats() for kernel in self.kernels]
        for kernel in self.kernels:
            kernel.chain.records.forget()
        return self._together(each)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how the chains go on."""
        tensors: dict[str, Tensor] = {}
        facts: list[dict[str, Any]] = []
        for i, kernel in enumerate(self.kernels):
            own, known = kernel.chain.state()
            tensors |= {f"{i}.{name}": value for name, value in own.items()} | {f"{i}.random": self._random[i]}
            facts.append(known)
        return tensors, {"kernels": facts}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from a state of a walk over the same model by the same method."""
        for i, (kernel, known) in enumerate(zip(self.kernels, facts["kernels"], strict=True)):
            own = {name.removeprefix(f"{i}."): t for name, t in tensors.items() if name.startswith(f"{i}.")}
            self._random[i] = own.pop("random")
            kernel.chain.restore(own, known)

    def log_joint(self) -> float:
        """The mean log joint density of the chains by the first of the data: it tells one model from another.

        Of a model that draws its own batch there is no such number, and it is 0.
        """
        if self.kernels[0].batches is None and self.kernels[0].subsampled:
            return 0.0
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(0)  # of a model that draws numbers of its own, dropout say: the same each time
            return sum(map(_log_joint, self.kernels)) / len(self.kernels)

    def close(self) -> None:
        """End the kernels' threads."""
        for kernel in self.kernels:
            kernel.chain.noise.close()

    def _together(self, each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What each kernel has, with a first dimension for the chains."""
        return each[0] if self._stacked else {name: torch.stack([e[name] for e in each]) for name in each[0]}


def set_up(
    kernel: StochasticGradientKernel, *, seed: int, chain: int, warmup_steps: int, args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[StochasticGradientKernel, Tensor]:  # fmt: skip
    """A kernel for one chain, and torch's random state after its set-up, by the seed and the chain's number alone.

    Raises:
        InputError: batches of which there is only one stream; and see the kernel's `setup`.
        NumericalError: the log joint density is not finite where the chain begins.
    """
    own = copy.copy(kernel)
    own.numbers = (chain,)
    if own.batches is not None:
        if own.batches.tensors is None:
            raise InputError(
                "data", expected="tensors", got="an iterable of batches", remedy="Use pyro.infer.MCMC for these"
            )
        own.batches = copy.copy(own.batches)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of_chain(seed, chain))
        own.setup(warmup_steps, *args, **kwargs)
        return own, torch.get_rng_state()


def walk(
    kernels: Sequence[StochasticGradientKernel], random: Sequence[Tensor], method: ChainMethod
) -> tuple[Walk, str]:
    """The chains, all at once if they shall or if that is quicker, and why not if they are not.

    Raises:
        UnsupportedModelError: they shall, but the model cannot.
    """
    apart = Walk(kernels, random)
    if method == "sequential" or (method == "auto" and len(kernels) == 1):
        return apart, ""
    try:
        many = stacked(kernels)
    except UnsupportedModelError as error:
        if method == "vectorized":
            raise
        return apart, str(error)
    if method == "auto" and _seconds(many) > len(kernels) * _seconds(kernels[0]):
        return apart, ""
    check_all_data(kernels[0])
    return Walk([many], random[:1]), ""


def _log_joint(kernel: StochasticGradientKernel) -> float:
    """By the first of the data; the mean over the kernel's chains."""
    source, batch = kernel.batches, None
    if source is not None and source.batch_size is not None and source.tensors is not None:
        batch = source.gather(torch.arange(source.batch_size, device=source.tensors[0].device))
    return mean(kernel.chain.density(kernel.chain.position, batch, refuse=False)[0])


def _seconds(kernel: StochasticGradientKernel) -> float:
    """Of one gradient, at its best."""
    chain, times = kernel.chain, []
    for _ in range(TRIALS):
        begin = time.perf_counter()
        chain.density(chain.position, chain.pending)
        times.append(time.perf_counter() - begin)
    return min(times)


@contextmanager
def _random_state(states: list[Tensor], place: int) -> Iterator[None]:
    """Within it torch's generator is this one; afterwards it is what it was."""
    before = torch.get_rng_state()
    torch.set_rng_state(states[place])
    try:
        yield
    finally:
        states[place] = torch.get_rng_state()
        torch.set_rng_state(before)
