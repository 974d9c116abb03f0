"""What a kernel is given, and whether it fits."""

import math
from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Batch, Data, Minibatches
from pyro_bdl.sgmcmc.gradients import GradientEstimator
from pyro_bdl.sgmcmc.schedules import Schedule
from pyro_bdl.sgmcmc.sites import Point


class Options(TypedDict, total=False):
    """The keyword arguments that all kernels have in common, see `StochasticGradientKernel`."""

    step_size: Schedule | float | None
    temperature: float
    data: Data | Minibatches | None
    batch_size: int | None
    plate: str | None
    init: Point | None
    thinning: int
    gradient: GradientEstimator
    jit_compile: bool


def as_minibatches(data: Data | Minibatches | None, batch_size: int | None) -> Minibatches | None:
    """The stream of batches; `None` where the model has its own data."""
    if data is None or isinstance(data, Minibatches):
        if batch_size is not None:
            what = "data to draw batches from" if data is None else "None, as the Minibatches have their own"
            raise InputError("batch_size", expected=what, got=str(batch_size))
        return data
    batches = Minibatches(data, batch_size=batch_size, drop_last=True)
    if batches.batch_size is not None and batches.batch_size == batches.size:
        batches.shuffle = False  # all of them in each batch
    return batches


def batches_of_an_epoch(batches: Minibatches | None, batch: Batch | None) -> int:
    """After how many updates each data point has been seen, as far as that is known."""
    if batches is None or batch is None:
        return 1
    if batches.batches_per_epoch is not None:
        return batches.batches_per_epoch
    return 1 if batches.size is None else math.ceil(batches.size / batch.length)


def check_unconstrained(given: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Given unconstrained values, if they are those of the sites."""
    for name, value in like.items():
        if name not in given or given[name].shape != value.shape or not torch.isfinite(given[name]).all():
            got = "none" if name not in given else f"shape {tuple(given[name].shape)}, or numbers that are not finite"
            raise InputError(
                f'unconstrained values of "{name}"', expected=f"finite, shape {tuple(value.shape)}", got=got
            )
    return {name: given[name].to(value) for name, value in like.items()}
