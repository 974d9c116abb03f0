"""Tensors, a `DataLoader` or any iterable of batches as a stream of batches whose place can be saved and restored."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_bdl.errors import InputError
from pyro_bdl.number_checks import require_count

Data = Tensor | tuple[Tensor, ...] | Iterable[Any]


class Batch(NamedTuple):
    """The positional arguments of one model call, and which data points they are (`None`: not known)."""

    args: tuple[Tensor, ...]
    indices: Tensor | None = None

    @property
    def length(self) -> int:
        """The number of data points B."""
        return len(self.args[0])


class Minibatches:
    """Batches of a data set, epoch after epoch, in an order that a saved state restores exactly.

    Args:
        data: a tensor or a *tuple* of tensors with the same first dimension N, from which batches of `batch_size` are
            drawn without replacement, newly shuffled each epoch; or a `torch.utils.data.DataLoader`; or any other
            iterable of batches that can be gone through more than once (a *list* of tuples, say). Each batch of an
            iterable is a tensor or a tuple or list of tensors with the same first dimension, the positional arguments
            of the model; or a `Batch`, whose first tensor alone counts the data points.
        batch_size: B, for tensors only; at most N. Default: all of the data.
        size: N, for an iterable whose size is not known otherwise (a `DataLoader` knows its own).
        shuffle: a new order each epoch; for tensors only.
        drop_last: leave out the N mod B points that remain at an epoch's end (others each time, if shuffled), so that
            each batch has B points; for tensors only. Default: they are a batch of their own.
        generator: the source of the order. Default: a new one, seeded from torch's global generator at the first use,
            so that `pyro.set_rng_seed` decides the order, and drawing batches moves the global generator only once.
        device: where batches are put. Default: where they are.

    Raises:
        InputError: empty data, first dimensions that differ, floating-point tensors with NaN or infinity, an iterator
            that can be used only once, a batch that is not made of tensors.

    >>> x, y = torch.arange(10.0), torch.arange(10)
    >>> batches = Minibatches((x, y), batch_size=4, shuffle=False)
    >>> [batch.indices.tolist() for batch in batches]
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    >>> batches.size, batches.batches_per_epoch
    (10, 3)
    """

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int | None = None,
        size: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.shuffle, self.drop_last, self.device = shuffle, drop_last, device
        self._generator = generator
        self._tensors = _as_tensors(data)
        if self._tensors is not None:
            self._tensors = tuple(t if device is None else t.to(device) for t in self._tensors)
            n = _check_tensors(self._tensors)
            if size not in (None, n):
                raise InputError("size", expected=f"{n}, the data's first dimension", got=str(size))
            if batch_size is not None:
                require_count("batch_size", batch_size)
            self.size: int | None = n
            self.batch_size: int | None = min(batch_size or n, n)
        else:
            if batch_size is not None:
                raise InputError("batch_size", expected="None for an iterable of batches", got=str(batch_size))
            _check_iterable(data)
            self._iterable: Iterable[Any] = data
            self.size, self.batch_size = _iterable_size(data, size), None
        self.epoch, self._position = 0, 0
        self._order: Tensor | None = None
        self._order_state: Tensor | None = None
        self._iterator: Iterator[Any] | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...] | None:
        """All of the data, in their own order, where they are tensors; `None` for an iterable of batches.

        >>> Minibatches(torch.arange(3), batch_size=2).tensors
        (tensor([0, 1, 2]),)
        """
        return self._tensors

    @property
    def batches_per_epoch(self) -> int | None:
        """How many batches an epoch has, if that is known."""
        if self._tensors is None:
            return len(self._iterable) if isinstance(self._iterable, Sized) else None
        assert self.size is not None
        assert self.batch_size is not None
        whole, rest = divmod(self.size, self.batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the current epoch; after the last one `epoch` counts up."""
        while (batch := self._next_in_epoch()) is not None:
            yield batch

    def next_indices(self) -> Tensor:
        """Which data points the next batch has, for tensors only: the batch counts as given, but is not gathered.

        >>> Minibatches(torch.zeros(5), batch_size=2, shuffle=False).next_indices()
        tensor([0, 1])
        """
        indices = self._next_indices()
        if indices is None:
            indices = self._next_indices()
        assert indices is not None
        return indices

    def next(self) -> Batch:
        """One more batch; after the last one of an epoch, the first of the next."""
        if self._tensors is not None:
            return self.gather(self.next_indices())
        for _ in range(2):  # the epoch may be at its end
            if (batch := self._next_of_iterable()) is not None:
                return batch
        raise InputError("data", expected="at least one batch an epoch", got="none")

    def restart(self, generator: torch.Generator | None = None) -> None:
        """Go back to epoch 0, with a new order from `generator` (default: seeded anew from torch's global one)."""
        self._generator = generator
        self.epoch = 0
        self._begin_again()

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream: epoch, batches already given in it, and the generator's state at its start."""
        order_state = self._order_state
        if order_state is None and self._own_generator is not None:
            order_state = self._own_generator.get_state()
        return {"epoch": self.epoch, "position": self._position, "order_state": order_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to the place that `state_dict` told, for the same data and settings.

        Of an iterable the batches before that place are read again and skipped. The order of a `DataLoader` comes
        back if it is drawn from its own `generator` or from torch's global one (which is left as it was).
        """
        self._begin_again()
        self.epoch, position, order_state = state["epoch"], state["position"], state["order_state"]
        if order_state is None:
            return
        if self._tensors is not None:
            self._generator = self._generator or torch.Generator()
            self._generator.set_state(order_state)
            self._begin_epoch()
        else:
            generator = self._own_generator or torch.default_generator
            before = generator.get_state()
            generator.set_state(order_state)
            self._begin_epoch()
            assert self._iterator is not None
            for _ in range(position):
                next(self._iterator)
            if generator is torch.default_generator:
                generator.set_state(before)
        self._position = position

    @property
    def _own_generator(self) -> torch.Generator | None:
        """The source of the order, unless that is torch's global one or not yet made."""
        if self._tensors is not None:
            return self._generator
        generator = getattr(self._iterable, "generator", None)
        return generator if isinstance(generator, torch.Generator) else None

    def _begin_again(self) -> None:
        self._position, self._order, self._order_state, self._iterator = 0, None, None, None

    def _begin_epoch(self) -> None:
        """Fix this epoch's order."""
        if self._tensors is None:
            self._order_state = (self._own_generator or torch.default_generator).get_state()
            self._iterator = iter(self._iterable)
            return
        if self._generator is None:
            self._generator = torch.Generator()
            self._generator.manual_seed(int(torch.randint(2**62, ())))
        self._order_state = self._generator.get_state()
        assert self.size is not None
        if self.shuffle:
            order = torch.randperm(self.size, generator=self._generator)
        else:
            order = torch.arange(self.size)
        self._order = order.to(self._tensors[0].device)

    def _next_in_epoch(self) -> Batch | None:
        if self._tensors is None:
            return self._next_of_iterable()
        indices = self._next_indices()
        return None if indices is None else self.gather(indices)

    def gather(self, indices: Tensor) -> Batch:
        """The batch of these data points, for tensors only; of many batches' indices, (batches, B), all of them."""
        assert self._tensors is not None
        if indices.dim() == 1 and len(indices) == self.size and not self.shuffle:
            return Batch(self._tensors, indices)
        flat = indices.reshape(-1)
        return Batch(tuple(t.index_select(0, flat).view(*indices.shape, *t.shape[1:]) for t in self._tensors), indices)

    def _next_indices(self) -> Tensor | None:
        if self._order_state is None:
            self._begin_epoch()
        assert self._order is not None
        assert self.batch_size is not None
        indices = self._order[self._position * self.batch_size : (self._position + 1) * self.batch_size]
        ended = len(indices) == 0 or (self.drop_last and len(indices) < self.batch_size)
        self._count(ended=ended)
        return None if ended else indices

    def _next_of_iterable(self) -> Batch | None:
        if self._order_state is None:
            self._begin_epoch()
        assert self._iterator is not None
        try:
            item = next(self._iterator)
        except StopIteration:
            self._count(ended=True)
            return None
        self._count(ended=False)
        return Batch(_check_batch(item, self.device))

    def _count(self, *, ended: bool) -> None:
        """Go on to the next batch, or to the next epoch."""
        if ended:
            self.epoch += 1
            self._begin_again()
        else:
            self._position += 1


def _as_tensors(data: Data) -> tuple[Tensor, ...] | None:
    """Data that are tensors, as a tuple; `None` for an iterable of batches."""
    if isinstance(data, Tensor):
        return (data,)
    if isinstance(data, tuple) and data and all(isinstance(t, Tensor) for t in data):
        return data
    return None


def _check_tensors(tensors: tuple[Tensor, ...]) -> int:
    lengths = _lengths(tensors)
    for position, tensor in enumerate(tensors):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            where = (~torch.isfinite(tensor)).nonzero()[0].tolist()
            bad = float(tensor[tuple(where)])
            raise InputError(f"data[{position}]", expected="finite numbers", got=f"{bad} at {where}")
    return lengths


def _lengths(tensors: tuple[Tensor, ...]) -> int:
    for position, tensor in enumerate(tensors):
        if tensor.dim() == 0:
            raise InputError(f"data[{position}]", expected="a first dimension that counts data points", got="a number")
    lengths = [len(t) for t in tensors]
    if len(set(lengths)) > 1:
        raise InputError("data", expected="tensors with the same first dimension", got=f"first dimensions {lengths}")
    if lengths[0] == 0:
        raise InputError("data", expected="at least one data point", got="none")
    return lengths[0]


def _check_batch(item: Any, device: torch.device | str | None) -> tuple[Tensor, ...]:
    item, whole = (item.args, item.args[:1]) if isinstance(item, Batch) else (item, None)
    batch = (item,) if isinstance(item, Tensor) else tuple(item) if isinstance(item, (tuple, list)) else ()
    if not batch or not all(isinstance(t, Tensor) for t in batch):
        raise InputError("a batch", expected="a tensor, or a tuple or list of tensors", got=type(item).__name__)
    _lengths(batch if whole is None else whole)
    return batch if device is None else tuple(t.to(device) for t in batch)


def _check_iterable(data: Any) -> None:
    if not isinstance(data, Iterable):
        raise InputError(
            "data", expected="tensors, a DataLoader or an iterable of batches", got=f"a {type(data).__name__}"
        )
    if isinstance(data, Iterator):
        raise InputError(
            "data",
            expected="an iterable that can be gone through once an epoch",
            got=f"an iterator ({type(data).__name__})",
            remedy="Hand over a list of batches, or an object whose __iter__ begins anew",
        )
    if isinstance(data, Sized) and len(data) == 0:
        raise InputError("data", expected="at least one batch", got="none")


def _iterable_size(data: Any, size: int | None) -> int | None:
    if size is None and isinstance(data, DataLoader) and isinstance(data.dataset, Sized):
        return len(data.dataset)
    return size
