"""Update equations of stochastic-gradient samplers, as functions of tensors.

One function an equation, without Pyro and without state of its own: it is handed the state and a gradient of the log
joint density, and gives the change of the state. Its randomness comes from torch's generator.
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
    *,
    step_size: float,
    temperature: float = ...,
    generator: torch.Generator | None = ...,
) -> Tensor: ...


@overload
def langevin(
    position: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    *,
    step_size: float,
    temperature: float = ...,
    generator: torch.Generator | None = ...,
) -> dict[str, Tensor]: ...


def langevin(
    position: Tensor | Mapping[str, Tensor],
    gradient: Tensor | Mapping[str, Tensor],
    *,
    step_size: float,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor | dict[str, Tensor]:
    """One Langevin update: theta' = theta + e/2 grad log p(theta, data) + N(0, e T).

    Welling & Teh (2011), equation 4. With a minibatch the gradient is that of the log prior plus N/B times that of the
    batch's log likelihood. For a normal target of precision P and the full gradient, theta' - mean =
    (I - e/2 P) (theta - mean) + noise, whose stationary covariance C solves C = A C A' + e T I with A = I - e/2 P.

    Args:
        position: theta, a tensor or a dictionary of tensors; independent chains may share a tensor.
        gradient: of the log joint density at theta, alike.
        step_size: e, see `schedules`.
        temperature: T; the target becomes p(theta, data)^(1/T), and 0 leaves gradient ascent.
        generator: the source of the noise. Default: torch's global one.

    >>> langevin({"w": torch.ones(2)}, {"w": torch.tensor([2.0, -4.0])}, step_size=0.1, temperature=0.0)
    {'w': tensor([1.1000, 0.8000])}
    """
    if isinstance(position, Tensor):
        assert isinstance(gradient, Tensor)
        noise = torch.empty_like(position).normal_(0.0, math.sqrt(step_size * temperature), generator=generator)
        return noise.add_(gradient, alpha=0.5 * step_size).add_(position)
    assert not isinstance(gradient, Tensor)
    return {
        name: langevin(value, gradient[name], step_size=step_size, temperature=temperature, generator=generator)
        for name, value in position.items()
    }
