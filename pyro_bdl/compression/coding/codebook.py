"""Weights that share a few values: the codebook, and each weight's place in it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.floats import get_floats, put_floats
from pyro_bdl.compression.coding.protocol import corrupt
from pyro_bdl.compression.coding.symbols import Magnitudes, Uniform
from pyro_bdl.compression.coding.weights import Weights
from pyro_bdl.errors import InputError

MOST_VALUES = 1 << 12
HALF_TINY, HALF_MOST = 2.0**-14, 65504.0  # between which a 16-bit float has 11 bits of significand


@dataclass(frozen=True, eq=False)
class Codebook:
    """The values that weights share, besides zero.

    Attributes:
        below, above: float tensors of shape (K,), the values below and above zero, ascending. (Centroids that are
            trained further may go anywhere.)
    """

    below: Tensor
    above: Tensor

    def __len__(self) -> int:
        return len(self.below) + len(self.above)

    @property
    def bits(self) -> int:
        """Of a place as a number of fixed length, zero being one of them."""
        return len(self).bit_length()

    @property
    def table(self) -> Tensor:
        """All values with zero between those below and above it, shape (K + 1,); differentiable."""
        return torch.cat([self.below, self.below.new_zeros(1), self.above])


@dataclass(frozen=True, eq=False)
class Clustered:
    """A parameter as places in a codebook.

    Attributes:
        levels: int64, of the parameter's shape: 0 is zero, k > 0 is `book.above[k - 1]`, k < 0 is `book.below[k]`.
        book: may be that of several parameters.

    >>> book = Codebook(below=torch.tensor([-0.5]), above=torch.tensor([0.5, 2.0]))
    >>> Clustered(torch.tensor([[0, 1], [-1, 2]]), book).value(torch.zeros(1))
    tensor([[ 0.0000,  0.5000],
            [-0.5000,  2.0000]])
    """

    levels: Tensor
    book: Codebook

    def value(self, like: Tensor) -> Tensor:
        """The parameter, of another's dtype and device; differentiable with respect to the codebook."""
        return self.book.table[self.levels + len(self.book.below)].to(like)


def clustered(places: Mapping[str, Tensor], values: Tensor) -> dict[str, Clustered]:
    """Parameters whose weights are `values[places]`, with one codebook of the values that are used.

    The values are rounded as the file has them: to 16-bit floats where these keep eleven bits of each and all apart,
    else to 32-bit floats.

    Args:
        places: by parameter name, int64.
        values: (K,), in any order, zero and equal ones among them.

    Raises:
        InputError: more than 2^12 values below or above zero are used, or some are no 32-bit floats.

    >>> found = clustered({"w": torch.tensor([3, 0, 0, 1])}, torch.tensor([0.25, -1.0, 7.0, 0.0]))["w"]
    >>> found.levels, found.book.table
    (tensor([ 0,  1,  1, -1]), tensor([-1.0000,  0.0000,  0.2500]))
    """
    used = _used(places, values)
    rounded = torch.zeros_like(values, dtype=torch.float32)
    rounded[used] = as_stored(values[used])
    return _without_unused(places, rounded)


def recluster(parameters: Mapping[str, Clustered]) -> dict[str, Clustered]:
    """The same parameters with a codebook that has no value besides those that they use."""
    book = shared_book(parameters.values())
    if book is None:
        return {}
    return _without_unused({name: p.levels + len(book.below) for name, p in parameters.items()}, book.table.detach())


def _used(places: Mapping[str, Tensor], values: Tensor) -> Tensor:
    used = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    for place in places.values():
        used[place.reshape(-1).to(values.device)] = True
    return used


def _without_unused(places: Mapping[str, Tensor], values: Tensor) -> dict[str, Clustered]:
    distinct = values[_used(places, values)].unique()
    book = Codebook(distinct[distinct < 0], distinct[distinct > 0])
    level_of = torch.searchsorted(book.table, values) - len(book.below)
    return {name: Clustered(level_of[place.to(values.device)], book) for name, place in places.items()}


def as_stored(values: Tensor) -> Tensor:
    """Rounded to what `put_book` writes, float32."""
    single = values.detach().float()
    if not bool(torch.isfinite(single).all()):
        raise InputError("a codebook", expected="32-bit floats", got="NaN, infinity, or larger numbers")
    sizes = single[single != 0].abs()
    fits = bool(((sizes >= HALF_TINY) & (sizes <= HALF_MOST)).all())
    half = single.half().float()
    return half if fits and len(half.unique()) == len(single.unique()) else single


def shared_book(parameters: Iterable[Any]) -> Codebook | None:
    """The codebook of all those that have one; `None`: none has.

    Raises:
        InputError: there are several.
    """
    books = {id(p.book): p.book for p in parameters if isinstance(p, Clustered)}
    if len(books) > 1:
        raise InputError("the parameters of a file", expected="one codebook for all", got=f"{len(books)}")
    return next(iter(books.values()), None)


def put_book(encoder: Encoder, book: Codebook) -> None:
    """Append a codebook: 16 or 32 bits a value, how many are below and above zero, the values."""
    if max(len(book.below), len(book.above)) > MOST_VALUES:
        raise InputError("a codebook", expected=f"at most {MOST_VALUES} values on each side", got=f"{len(book)}")
    values = torch.cat([book.below, book.above]).float()
    half = bool((values.half().float() == values).all())
    encoder.put([int(half)], Uniform(2))
    encoder.put([len(book.below), len(book.above)], Magnitudes())
    put_floats(encoder, values, width=2 if half else 4)


def get_book(decoder: Decoder) -> Codebook:
    """The next codebook.

    Raises:
        CorruptFileError: too long, not ascending, on the wrong side of zero, or no numbers.
    """
    width = 2 if int(decoder.get(1, Uniform(2))[0]) else 4
    below, above = (int(n) for n in decoder.get(2, Magnitudes()))
    if max(below, above) > MOST_VALUES:
        raise corrupt(f"a codebook of at most {MOST_VALUES} values on each side", f"{below} and {above}")
    values = get_floats(decoder, below + above, width=width)
    book = Codebook(values[:below], values[below:])
    if bool((book.table.diff() <= 0).any()):
        raise corrupt("a codebook that ascends", f"{values[:8].tolist()}")
    return book


def get_clustered(decoder: Decoder, shape: tuple[int, ...], book: Codebook) -> Clustered:
    """The next parameter's places in a codebook.

    Raises:
        CorruptFileError: places that it does not have.
    """
    levels = torch.from_numpy(decoder.get(shape, Weights()).astype(np.int64))
    below, above = len(book.below), len(book.above)
    if levels.numel() and (int(levels.min()) < -below or int(levels.max()) > above):
        raise corrupt(f"places from {-below} to {above}", f"{int(levels.min())} to {int(levels.max())}")
    return Clustered(levels, book)
