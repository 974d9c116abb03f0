"""What a fit needs before its first step: batches, a seed, and a way back."""

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_bdl.compression.random_code.kl_budget import KLBudget
from pyro_bdl.data_checks import check_finite
from pyro_bdl.minibatches import Batch, Data, Minibatches


def batches_of(data: Data, batch_size: int | None, device: torch.device | str | None) -> Minibatches:
    """The batches of data of any kind, of 128 rows each where tensors come without a size."""
    if batch_size is None and isinstance(data, (Tensor, tuple)):
        batch_size = 128
    return Minibatches(data, batch_size=batch_size, size=_size(data), device=device)


def first_of(batches: Minibatches) -> Batch:
    """The first batch, looked at without taking it."""
    place = batches.state_dict()
    batch = batches.next()
    if place["order_state"] is None:
        batches.load_state_dict(batches.state_dict() | {"epoch": 0, "position": 0})
    else:
        batches.load_state_dict(place)
    check_finite(batch)
    return batch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """The fit's random numbers from a seed, the global generator left as it was; nothing without a seed."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def way_back(parameters: Sequence[Tensor], budget: KLBudget | None) -> Callable[[], None]:
    """A function that makes parameters and multipliers what they are now."""
    before = [parameter.detach().clone() for parameter in parameters]
    multipliers = None if budget is None else budget.state_dict()

    @torch.no_grad()
    def go_back() -> None:
        if budget is not None and multipliers is not None:
            budget.load_state_dict(multipliers)
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)

    return go_back


def _size(data: Any) -> int | None:
    """N: tensors know it, a `DataLoader` with a sampler too; other iterables are gone through once to count it."""
    if isinstance(data, (Tensor, tuple)):
        return None
    if isinstance(data, DataLoader) and data.batch_size is not None and isinstance(data.sampler, Sized):
        return len(data.sampler)
    size = 0
    for batch in Minibatches(data):
        check_finite(batch)
        size += batch.length
    return size or None
