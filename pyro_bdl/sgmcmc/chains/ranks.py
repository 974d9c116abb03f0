"""The processes that share a run's chains, as `torchrun` starts them; one alone without it."""

import itertools
import os
from typing import Any

import numpy as np
import torch.distributed as dist

RUNS = itertools.count()


class Ranks:
    """This process among those of the run.

    A process group that is there is used; where `torchrun` started the process and there is none, one of the CPU
    (gloo) is made, and ended by `close`.

    Attributes:
        rank, count: this one's number, and how many there are.

    >>> Ranks().count
    1
    """

    def __init__(self) -> None:
        self._own = False
        if dist.is_available() and not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            base, rank, size = next(dist.rendezvous("env://"))
            own = dist.PrefixStore(f"pyro_bdl/{next(RUNS)}", base)  # a second run would read the first's addresses
            dist.init_process_group("gloo", store=own, rank=rank, world_size=size)
            self._own = True
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def share(self, value: Any) -> Any:
        """That of the first process, for all."""
        return self.all(value)[0]

    def all(self, value: Any) -> list[Any]:
        """Those of all processes; each waits for the others."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def chains(self, num_chains: int) -> range:
        """Which of the chains are this process's: neighbours, as many as another's, or one more."""
        share, more = divmod(num_chains, self.count)
        start = self.rank * share + min(self.rank, more)
        return range(start, start + share + (self.rank < more))

    def close(self) -> None:
        """End the process group, if it was made here."""
        if self._own and dist.is_initialized():
            dist.destroy_process_group()


def seed_of_chain(seed: int, chain: int) -> int:
    """A seed for each chain's own random numbers, by the run's and its place alone.

    >>> seed_of_chain(1, 0) == seed_of_chain(1, 0), seed_of_chain(1, 0) == seed_of_chain(1, 1)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, chain]).generate_state(1, np.uint64)[0] >> np.uint64(2))
