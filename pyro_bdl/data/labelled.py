"""A few labels among many images."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Batch
from pyro_bdl.number_checks import require_count


def balanced(y: Tensor, count: int, *, seed: int) -> Tensor:
    """Rows of `count` labelled examples, as many of each class, drawn by the seed.

    Raises:
        InputError: a count that the classes do not divide, or more than there are of one.

    >>> y = torch.arange(10) % 2
    >>> y[balanced(y, 4, seed=0)].bincount()
    tensor([2, 2])
    """
    classes = int(y.max()) + 1
    each, rest = divmod(count, classes)
    fewest = int(y.bincount(minlength=classes).min())
    if rest or not 1 <= each <= fewest:
        most = classes * fewest
        raise InputError("labels", expected=f"a multiple of {classes}, at most {most}", got=str(count))
    generator = torch.Generator().manual_seed(seed)
    rows = [(y == c).nonzero()[:, 0] for c in range(classes)]
    return torch.cat([own[torch.randperm(len(own), generator=generator)[:each]] for own in rows])


class BesideLabelled:
    """Batches for `fit_svi` of a `SemiSupervisedPair`: unlabelled x, and beside each some labelled x and y.

    Order and draws come from torch's global generator, whose state `fit_svi` keeps in its checkpoints.

    Args:
        x: unlabelled (N, *shape).
        x_labelled: (N', *shape).
        y: (N',).
        batch_size: unlabelled ones of a batch.
        labelled_batch_size: labelled ones of a batch, drawn anew for each; all of them if there are fewer.
        draw: makes of x what the model sees, anew each time. Default: x itself.
        images: of all data points and of the labelled ones; what `show` makes of them comes last in each batch.
        show: makes of images what a classifier is shown, anew each time. Default: the images themselves.

    Raises:
        InputError: no data, no batches, or other numbers of labels or images than of data points.

    >>> x, y = torch.zeros(10, 6), torch.arange(4)
    >>> batches = BesideLabelled(x, x[:4], y, batch_size=8, labelled_batch_size=3)
    >>> [[tuple(part.shape) for part in batch.args] for batch in batches]
    [[(8, 6), (3, 6), (3,)], [(2, 6), (3, 6), (3,)]]
    """

    def __init__(
        self,
        x: Tensor,
        x_labelled: Tensor,
        y: Tensor,
        *,
        batch_size: int,
        labelled_batch_size: int,
        draw: Callable[[Tensor], Tensor] = lambda x: x,
        images: tuple[Tensor, Tensor] | None = None,
        show: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        counts = [len(x), len(x_labelled)]
        if min(counts) == 0 or len(y) != len(x_labelled):
            got = f"{counts[0]} and {counts[1]} with {len(y)} labels"
            raise InputError("the data", expected="some without labels, and some with one each", got=got)
        require_count("batch_size", batch_size)
        require_count("labelled_batch_size", labelled_batch_size)
        if images is not None and [len(part) for part in images] != counts:
            got = " and ".join(str(len(part)) for part in images)
            raise InputError("images", expected=f"{counts[0]} and {counts[1]}, one for each data point", got=got)
        self.x, self.x_labelled, self.y = x, x_labelled, y
        self.batch_size, self.labelled_batch_size, self.draw = batch_size, min(labelled_batch_size, len(y)), draw
        self.images, self.show = images, show

    def __len__(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch."""
        for rows in torch.randperm(len(self.x)).split(self.batch_size):
            some = torch.randperm(len(self.y))[: self.labelled_batch_size]
            seen = (self.draw(self.x[rows]), self.draw(self.x_labelled[some]), self.y[some])
            pairs = () if self.images is None else zip(self.images, (rows, some), strict=True)
            yield Batch((*seen, *(self.show(images[which]) for images, which in pairs)))
