"""What the batch tells the model's data plate, `pyro.plate("data", size=N, subsample_size=B)`.

The plate is told which data points the batch holds, instead of letting Pyro draw a permutation of all N at each step,
and a plate whose numbers are not those of the data is refused.
"""

from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message, am_i_wrapped, apply_stack
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Batch


class SubsampleIndices(Messenger):
    """A handler that tells the model's data plate which data points the batch holds.

    Around a model (and guide), for each batch: `handler.set(batch)`, then run the program within `with handler:`.
    `pyro.plate("data", size=N, subsample_size=B)` then has the batch's indices for its own, and no permutation of
    all N is drawn. For a batch of unknown indices they are 0 to B - 1, and a model must not use them.

    Args:
        size: N, the number of data points; `None`: not known, so it is not checked.
        plate: the name of the data plate. Default: each plate to which a `subsample_size` is given.

    Raises:
        InputError: by the plate, when its `size` is not N, or its `subsample_size` is not B.

    >>> import pyro
    >>> handler = SubsampleIndices(size=100)
    >>> handler.set(Batch((torch.zeros(3),), torch.tensor([7, 70, 42])))
    >>> with handler, pyro.plate("data", size=100, subsample_size=3) as indices:
    ...     print(indices.tolist())
    [7, 70, 42]
    """

    def __init__(self, *, size: int | None, plate: str | None = None) -> None:
        super().__init__()
        self.size, self.plate = size, plate
        self.answered: set[str] = set()
        self._length = 0
        self._indices: Tensor | None = None

    def set(self, batch: Batch) -> None:
        """The batch with which the program runs next; `answered` then collects the plates that asked for it."""
        self._length, self._indices = batch.length, batch.indices
        self.answered.clear()

    def require_plate(self) -> None:
        """Refuse a program that was run on a part of the data and asked for no plate: it would lack the scale N/B.

        Raises:
            InputError: no data plate was met since `set`, although the batch is smaller than the data.
        """
        if not self.answered and self.size is not None and self._length < self.size:
            plate = f'"{self.plate}"' if self.plate else "of the data"
            raise InputError(
                f"the plate {plate}",
                expected=f"size={self.size}, subsample_size={self._length}",
                got="no plate with a subsample_size",
                remedy="Without it the batch would count as all of the data: observe within "
                f'pyro.plate("data", size={self.size}, subsample_size=len(x))',
            )

    def _pyro_data_size(self, msg: Message) -> None:
        if self.size is not None:
            msg["value"] = self.size

    def _pyro_sample(self, msg: Message) -> None:
        fn = msg["fn"]
        if type(fn) is not _Subsample or msg["done"]:
            return
        if (msg["name"] != self.plate) if self.plate is not None else (fn.subsample_size is None):
            return
        if self.size is not None and fn.size != self.size:
            raise InputError(
                f'the plate "{msg["name"]}"',
                expected=f"size={self.size}, the number of data points",
                got=f"size={fn.size}",
                remedy="" if self.plate else "If this is not the data's plate, name that one with plate=",
            )
        if (fn.size if fn.subsample_size is None else fn.subsample_size) != self._length:
            raise InputError(
                f'the plate "{msg["name"]}"',
                expected=f"subsample_size={self._length}, the number of data points in the batch",
                got=f"subsample_size={fn.subsample_size}",
                remedy="" if self.plate else "If this is not the data's plate, name that one with plate=",
            )
        if self._indices is None:
            self._indices = torch.arange(self._length)
        msg["value"], msg["done"] = self._indices, True
        self.answered.add(str(msg["name"]))


def data_size(batch_length: int) -> int:
    """The number of data points N of which a model sees a batch, as whoever feeds it says; else the batch's own.

    >>> with SubsampleIndices(size=100):
    ...     data_size(3)
    100
    >>> data_size(3)
    3
    """
    if not am_i_wrapped():
        return batch_length
    msg: Any = {
        "type": "data_size", "name": None, "fn": data_size, "is_observed": False, "args": (), "kwargs": {},
        "value": batch_length, "scale": 1.0, "mask": None, "cond_indep_stack": (), "done": True, "stop": False,
        "continuation": None, "infer": None,
    }  # fmt: skip
    apply_stack(msg)
    return msg["value"]


def observation_plate(name: str, batch_length: int, size: int | None = None) -> pyro.plate:
    """The data plate of a batch: of `size` data points, or of as many as `data_size` says.

    >>> observation_plate("data", 3, 100).subsample_size
    3
    """
    return pyro.plate(name, size=data_size(batch_length) if size is None else size, subsample_size=batch_length)
