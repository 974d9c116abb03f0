"""Update equations of stochastic-gradient samplers, as functions of tensors.

One function an equation, without Pyro, without state and without randomness of its own: it is handed the state, a
gradient of the log joint density and standard normal numbers, and gives the next state.
"""

import math
from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor


@overload
def langevin(
    position: Tensor,
    gradient: Tensor,
    noise: Tensor,
    *,
    step_size: float,
    temperature: float = ...,
    out: Tensor | None = ...,
) -> Tensor: ...


@overload
def langevin(
    position: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    noise: Mapping[str, Tensor],
    *,
    step_size: float,
    temperature: float = ...,
) -> dict[str, Tensor]: ...


def langevin(
    position: Tensor | Mapping[str, Tensor],
    gradient: Tensor | Mapping[str, Tensor],
    noise: Tensor | Mapping[str, Tensor],
    *,
    step_size: float,
    temperature: float = 1.0,
    out: Tensor | None = None,
) -> Tensor | dict[str, Tensor]:
    """One Langevin update: theta' = theta + e/2 grad log p(theta, data) + sqrt(e T) z, with z ~ N(0, I).

    Welling & Teh (2011), equation 4. With a minibatch the gradient is that of the log prior plus N/B times that of the
    batch's log likelihood. For a normal target of precision P and the full gradient, theta' - mean =
    (I - e/2 P) (theta - mean) + noise, whose stationary covariance C solves C = A C A' + e T I with A = I - e/2 P.

    Args:
        position: theta, a tensor or a dictionary of tensors; independent chains may share a tensor.
        gradient: of the log joint density at theta, alike.
        noise: z, standard normal numbers, alike.
        step_size: e, see `schedules`.
        temperature: T; the target becomes p(theta, data)^(1/T), and 0 leaves gradient ascent.
        out: a tensor for the result, for which the noise may be given up. Default: a new one.

    >>> zero = torch.zeros(2)
    >>> langevin({"w": torch.ones(2)}, {"w": torch.tensor([2.0, -4.0])}, {"w": zero}, step_size=0.1)
    {'w': tensor([1.1000, 0.8000])}
    """
    if isinstance(position, Tensor):
        assert isinstance(gradient, Tensor)
        assert isinstance(noise, Tensor)
        moved = torch.add(position, noise, alpha=math.sqrt(step_size * temperature), out=out)
        return moved.add_(gradient, alpha=0.5 * step_size)
    assert not isinstance(gradient, Tensor)
    assert not isinstance(noise, Tensor)
    return {
        name: langevin(value, gradient[name], noise[name], step_size=step_size, temperature=temperature)
        for name, value in position.items()
    }
