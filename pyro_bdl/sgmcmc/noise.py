"""Standard normal numbers for all parameters of a chain, drawn by as many threads as torch uses.

Torch draws random numbers on a CPU in one thread: for a network that is a third of a sampler's step, and more with
every core that speeds up the rest. Here the flat tensor is cut into `STREAMS` parts, each with a generator of its own,
so that the numbers do not depend on how many threads there are.
"""

from collections.abc import Sequence
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

    Attributes:
        generators: whose states are that of the source.

    >>> Noise(torch.zeros(5)).draw().shape
    torch.Size([5])
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        streams = STREAMS if like.device.type == "cpu" and like.numel() >= SMALLEST else 1
        self.generators = [torch.Generator(like.device) for _ in range(streams)]
        for generator in self.generators:
            generator.manual_seed(int(torch.randint(2**62, ())))
        self._pool: ThreadPoolExecutor | None = None

    def draw(self) -> Tensor:
        """A new tensor of standard normal numbers."""
        noise = torch.empty_like(self.like)
        self.fill(noise)
        return noise

    def uniform(self) -> Tensor:
        """One number between 0 and 1, float64."""
        first = self.generators[0]
        return torch.rand((), generator=first, device=first.device, dtype=torch.float64)

    def fill(self, noise: Tensor) -> None:
        """Put standard normal numbers into a tensor of the shape."""
        if len(self.generators) == 1:
            noise.normal_(generator=self.generators[0])
            return
        parts = noise.chunk(len(self.generators))
        threads = min(torch.get_num_threads(), len(parts))
        if threads > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(len(parts) - 1, thread_name_prefix="noise")
        waiting = [self._pool.submit(self._fill, parts, i, threads) for i in range(1, threads)] if self._pool else []
        self._fill(parts, 0, threads)
        for future in waiting:
            future.result()

    def close(self) -> None:
        """End the threads; the next draw would start new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _fill(self, parts: tuple[Tensor, ...], first: int, step: int) -> None:
        for part, generator in list(zip(parts, self.generators, strict=True))[first::step]:
            part.normal_(generator=generator)


class NoiseOfChains:
    """The noise of many chains, each from a source of its own, so that what one draws does not depend on the others.

    Args:
        sources: one a chain.

    >>> NoiseOfChains([Noise(torch.zeros(5)) for _ in range(3)]).draw().shape
    torch.Size([3, 5])
    """

    def __init__(self, sources: Sequence[Noise]) -> None:
        self._sources = sources

    @property
    def generators(self) -> list[torch.Generator]:
        """Those of all sources."""
        return [generator for source in self._sources for generator in source.generators]

    def draw(self) -> Tensor:
        """A new tensor of standard normal numbers, (chains, size)."""
        like = self._sources[0].like
        noise = like.new_empty((len(self._sources), *like.shape))
        for source, row in zip(self._sources, noise, strict=True):
            source.fill(row)
        return noise

    def uniform(self) -> Tensor:
        """A number between 0 and 1 a chain, float64."""
        return torch.stack([source.uniform() for source in self._sources])

    def close(self) -> None:
        """End the threads."""
        for source in self._sources:
            source.close()
