"""Grey images made black and white, anew each time they are seen."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.number_checks import require_count


class DynamicallyBinarized:
    """Batches for `fit_svi` whose pixels are white with the probability that their grey value is.

    As in Burda, Grosse & Salakhutdinov (2016), section 5.

    Order and pixels come from torch's global generator, whose state `fit_svi` keeps in its checkpoints.

    Args:
        x: grey values in [0, 1], (N, *shape).
        batch_size: B; the last batch of an epoch may be smaller.

    Raises:
        InputError: no images, grey values outside [0, 1], no batch.

    >>> batches = DynamicallyBinarized(torch.full((10, 1, 8, 8), 0.5), batch_size=4)
    >>> [tuple(x.shape) for (x,) in batches]
    [(4, 1, 8, 8), (4, 1, 8, 8), (2, 1, 8, 8)]
    """

    def __init__(self, x: Tensor, *, batch_size: int) -> None:
        require_count("batch_size", batch_size)
        if len(x) == 0:
            raise InputError("the data", expected="at least one image", got="none")
        if not bool(((x >= 0) & (x <= 1)).all()):
            got = f"{float(x.min())} to {float(x.max())}"
            raise InputError("the images", expected="grey values in [0, 1]", got=got)
        self.x, self.batch_size = x, batch_size

    def __len__(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        """The batches of one epoch."""
        for rows in torch.randperm(len(self.x)).split(self.batch_size):
            yield (torch.bernoulli(self.x[rows]),)


def binarized(x: Tensor, *, seed: int) -> Tensor:
    """One binarisation of grey images, for evaluation.

    >>> binarized(torch.tensor([0.0, 1.0]), seed=0)
    tensor([0., 1.])
    """
    return torch.bernoulli(x, generator=torch.Generator().manual_seed(seed))
