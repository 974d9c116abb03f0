"""The batches of many chains."""

from collections.abc import Sequence
from typing import Any

import torch

from pyro_bdl.minibatches import Batch, Minibatches


class MinibatchesOfChains:
    """The batches of many chains, each in an order of its own, gathered at once.

    Args:
        streams: one a chain, of the same tensors.

    >>> x = torch.arange(4.0)
    >>> both = MinibatchesOfChains([Minibatches(x, batch_size=2, shuffle=False) for _ in range(2)])
    >>> both.next().args[0].tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """

    def __init__(self, streams: Sequence[Minibatches]) -> None:
        self.streams = streams

    def next(self) -> Batch:
        """One batch a chain, (chains, B, ...)."""
        return self.streams[0].gather(torch.stack([stream.next_indices() for stream in self.streams]))

    def state_dict(self) -> list[dict[str, Any]]:
        """The places in the streams."""
        return [stream.state_dict() for stream in self.streams]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Return to these places."""
        for stream, state in zip(self.streams, states, strict=True):
            stream.load_state_dict(state)
