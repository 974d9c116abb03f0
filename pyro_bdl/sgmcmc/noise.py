"""Standard normal numbers for all parameters of a chain, drawn by as many threads as torch uses.

Torch draws random numbers on a CPU in one thread: for a network that is a third of a sampler's step, and more with
every core that speeds up the rest. Here the flat tensor is cut into `STREAMS` parts, each with a generator of its own,
so that the numbers do not depend on how many threads there are.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

STREAMS = 8
SMALLEST = 1 << 16  # with fewer numbers the threads would cost more than they save


class Noise:
    """A source of standard normal tensors, all of one shape.

    Its generators are seeded from torch's global one, so that `pyro.set_rng_seed` decides the numbers. Small tensors,
    and those on other devices than the CPU, are drawn from a single generator.

    Args:
        like: a flat tensor, for shape (size,), dtype and device.

    >>> Noise(torch.zeros(5)).draw().shape
    torch.Size([5])
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        streams = STREAMS if like.device.type == "cpu" and like.numel() >= SMALLEST else 1
        self.generators = [torch.Generator(like.device) for _ in range(streams)]
        for generator in self.generators:
            generator.manual_seed(int(torch.randint(2**62, ())))
        self._pool: ThreadPoolExecutor | None = None

    def draw(self) -> Tensor:
        """A new tensor of standard normal numbers."""
        noise = torch.empty_like(self._like)
        if len(self.generators) == 1:
            return noise.normal_(generator=self.generators[0])
        parts = noise.chunk(len(self.generators))
        threads = min(torch.get_num_threads(), len(parts))
        if threads > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(len(parts) - 1, thread_name_prefix="noise")
        waiting = [self._pool.submit(self._fill, parts, i, threads) for i in range(1, threads)] if self._pool else []
        self._fill(parts, 0, threads)
        for future in waiting:
            future.result()
        return noise

    def close(self) -> None:
        """End the threads; the next draw would start new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _fill(self, parts: tuple[Tensor, ...], first: int, step: int) -> None:
        for part, generator in list(zip(parts, self.generators, strict=True))[first::step]:
            part.normal_(generator=generator)
