"""Images that are shifted and mirrored at random, anew in each epoch."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_bdl.errors import InputError


class FlipsAndCrops:
    """Batches of images for `fit_svi`: each moved by up to `shift` pixels, half of them mirrored left to right.

    The usual augmentation of CIFAR-10 (He et al. 2016, section 4.2): pad with zeros, cut out a window at random. The
    order, the shifts and the mirrors come from one generator, whose state `fit_svi` keeps in its checkpoints.

    A model of augmented images has no likelihood of N independent points. The fit takes N of them an epoch, each in one
    random version, so the data term is the mean over the versions, and no sharper than that of N points.

    Args:
        x: images (N, C, H, W); what is moved in is zero, their mean where they are standardised.
        y: labels (N,).
        batch_size: B; the last batch of an epoch may be smaller.
        seed: of the generator.
        shift: the most pixels that an image moves along an axis. Default 4.

    Raises:
        InputError: no images, labels of another number, numbers out of range.

    >>> batches = FlipsAndCrops(torch.zeros(10, 3, 8, 8), torch.arange(10), batch_size=4, seed=0)
    >>> [tuple(x.shape) for x, _ in batches]
    [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)]
    """

    def __init__(self, x: Tensor, y: Tensor, *, batch_size: int, seed: int, shift: int = 4) -> None:
        if x.dim() != 4 or len(x) == 0 or len(x) != len(y):
            got = f"images {tuple(x.shape)}, labels {tuple(y.shape)}"
            raise InputError("the data", expected="images (N, C, H, W) with a label each", got=got)
        if batch_size < 1 or shift < 0:
            raise InputError("batch_size and shift", expected="at least 1 and 0", got=f"{batch_size} and {shift}")
        self.x, self.y, self.batch_size, self.shift = x, y, batch_size, shift
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch."""
        for rows in torch.randperm(len(self.x), generator=self.generator).split(self.batch_size):
            yield self._moved(self.x[rows]), self.y[rows]

    def _moved(self, x: Tensor) -> Tensor:
        """Each image at a place of its own in a frame of zeros, seen through the window of its size."""
        count, channels, height, width = x.shape
        down, right = torch.randint(2 * self.shift + 1, (2, count, 1), generator=self.generator)
        rows, columns = down + torch.arange(height), right + torch.arange(width)
        mirrored = torch.rand(count, 1, generator=self.generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        framed = F.pad(x, (self.shift,) * 4).flatten(2)
        places = (rows[:, :, None] * (width + 2 * self.shift) + columns[:, None, :]).flatten(1)
        places = places.to(x.device)[:, None, :].expand(-1, channels, -1)
        return framed.gather(2, places).view(count, channels, height, width)
