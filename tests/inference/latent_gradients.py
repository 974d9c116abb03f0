"""Gradients of a bound, drawn many times: data repeated within a call are independent draws of the same gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn


def gradients(
    elbo: Any, pair: Any, data: Sequence[Tensor], parameters: Sequence[nn.Parameter], *, calls: int, repeats: int
) -> np.ndarray:
    """The mean gradient of `repeats` draws, so many times: (calls, numbers), each nearly normal.

    The data plate is told that there are twice as many data points as those of a call.
    """
    many = [tensor.repeat(repeats, *(1,) * (tensor.dim() - 1)) for tensor in data]
    pair.size = 2 * len(many[0])
    found = []
    for _ in range(calls):
        for parameter in parameters:
            parameter.grad = None
        with pyro.validation_enabled(False):
            elbo.loss_and_grads(pair.model, pair.guide, *many)
        found.append(torch.cat([gradient(parameter).reshape(-1) for parameter in parameters]) / repeats)
    return torch.stack(found).numpy()


def by_hand(
    bound: Callable[..., Tensor],
    data: Sequence[Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    calls: int,
    repeats: int,
) -> np.ndarray:
    """The same of a bound of each row that is written out, without Pyro."""
    many = [tensor.repeat(repeats, *(1,) * (tensor.dim() - 1)) for tensor in data]
    found = []
    for _ in range(calls):
        each = torch.autograd.grad(-2.0 * bound(*many).sum(), list(parameters))
        found.append(torch.cat([part.reshape(-1) for part in each]) / repeats)
    return torch.stack(found).numpy()


def gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
