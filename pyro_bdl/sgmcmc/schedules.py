"""Step-size schedules: functions of the update's number t = 0, 1, 2, ... that give its step size e_t."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_bdl.errors import InputError

Schedule = Callable[[int], float]
"""What a kernel takes: any function t -> e_t > 0; these classes, or one of the user's own."""


@dataclass(frozen=True)
class Constant:
    """e_t = e.

    The chain does not slow down, but its law keeps a bias of order e: for a normal posterior of deviation s, SGLD's
    stationary deviation is s (1 + e / (8 s^2) + O(e^2)) with the full gradient (Vollmer, Zygalakis & Teh 2016).

    Args:
        step_size: e, positive and finite, in units of the (unconstrained) parameter squared.

    Raises:
        InputError: e is not positive and finite.

    >>> Constant(1e-4)(1000)
    0.0001
    """

    step_size: float

    def __post_init__(self) -> None:
        if not 0 < self.step_size < math.inf:
            raise InputError("step_size", expected="a positive finite number", got=str(self.step_size))

    def __call__(self, t: int) -> float:
        """The step size of update t."""
        return self.step_size


@dataclass(frozen=True)
class PolynomialDecay:
    """e_t = a (b + t)^-gamma, the schedule of Welling & Teh (2011), section 3.

    Their conditions, sum e_t = infinity (the chain goes everywhere) and sum e_t^2 < infinity (it ends in the exact
    posterior), hold for gamma in (0.5, 1]. For averages, any gamma in (0, 1] with `step_size_weighted_mean` is
    consistent, and 1/3 is the best rate (Teh, Thiery & Vollmer 2016).

    Args:
        a: the scale, positive, in units of the (unconstrained) parameter squared.
        b: the number of updates during which the step size stays about a b^-gamma, positive.
        gamma: the decay, in (0, 1].

    Raises:
        InputError: a number outside its range. (With gamma > 1 the sum of all steps is finite: the chain would stop.)

    >>> schedule = PolynomialDecay(a=0.2, b=231.0, gamma=0.55)
    >>> f"{schedule(0):.4f} {schedule(10_000):.4f}"
    '0.0100 0.0012'
    """

    a: float
    b: float
    gamma: float

    def __post_init__(self) -> None:
        if not 0 < self.a < math.inf:
            raise InputError("a", expected="a positive finite number", got=str(self.a))
        if not 0 < self.b < math.inf:
            raise InputError("b", expected="a positive finite number", got=str(self.b))
        if not 0 < self.gamma <= 1:
            raise InputError("gamma", expected="a number in (0, 1]", got=str(self.gamma))

    def __call__(self, t: int) -> float:
        """The step size of update t."""
        return self.a * (self.b + t) ** -self.gamma


@dataclass(frozen=True)
class Cyclical:
    r"""Large steps that explore, then small ones that sample, over and over (Zhang et al. 2020, equation 1).

    .. math:: e_t = \frac{e_0}2 \Bigl(1 + \cos \frac{\pi\, (t \bmod L)}{L}\Bigr)

    In the first part of each cycle a kernel goes without noise (temperature 0), from mode to mode as an optimizer would
    with a warm restart; in the rest it samples, and only these updates give draws. Each cycle's draws count alike,
    whatever the masses of the modes that it finds: with finitely many cycles the weights between modes are those of the
    search, not of the posterior.

    Args:
        step_size: e_0, the first and largest of each cycle, positive and finite.
        cycle: L, the number of updates of a cycle, at least 2.
        exploration: the share of each cycle without noise, in [0, 1). Default 0.8: it takes most of a cycle to get to a
            mode.

    Raises:
        InputError: a number outside its range, or an exploration that leaves no update for sampling.

    >>> schedule = Cyclical(1e-2, cycle=100)
    >>> schedule(0), f"{schedule(50):.3f}", schedule(100)
    (0.01, '0.005', 0.01)
    >>> schedule.explores(79), schedule.explores(80), schedule.explores(100)
    (True, False, True)
    """

    step_size: float
    cycle: int
    exploration: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.step_size < math.inf:
            raise InputError("step_size", expected="a positive finite number", got=str(self.step_size))
        if isinstance(self.cycle, bool) or not isinstance(self.cycle, int) or self.cycle < 2:
            raise InputError("cycle", expected="an integer, at least 2", got=repr(self.cycle))
        if not 0 <= self.exploration < 1 or math.ceil(self.exploration * self.cycle) >= self.cycle:
            expected = "a share in [0, 1) that leaves an update for sampling"
            raise InputError("exploration", expected=expected, got=str(self.exploration))

    def __call__(self, t: int) -> float:
        """The step size of update t."""
        return 0.5 * self.step_size * (1 + math.cos(math.pi * (t % self.cycle) / self.cycle))

    def explores(self, t: int) -> bool:
        """Whether update t is without noise, and gives no draw."""
        return t % self.cycle < self.exploration * self.cycle


def explores(schedule: Schedule | None, t: int) -> bool:
    """Whether a schedule says that update t is without noise; one that does not speak of it never does."""
    asked = getattr(schedule, "explores", None)
    return asked is not None and asked(t)


def step_size_weighted_mean(samples: Tensor, step_sizes: Tensor) -> Tensor:
    """The paper's estimate of a posterior expectation: sum_t e_t f(theta_t) / sum_t e_t.

    With a decaying schedule late draws stand closer together than early ones and are weighted accordingly
    (Welling & Teh 2011, equation 11). With a constant step size it is the plain mean.

    Args:
        samples: f(theta_t), shape (draws, ...), or (chains, draws, ...) with step sizes of shape (chains, draws).
        step_sizes: e_t of each draw, shape (draws,) or (chains, draws): `sample_stats()["step_size"]` of a kernel.

    Returns:
        The average over draws (and chains), of shape (...).

    Raises:
        InputError: shapes that do not fit, no draws, or step sizes that are not positive.

    >>> step_size_weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([0.75, 0.25]))
    tensor(2.)
    """
    if step_sizes.dim() not in (1, 2) or step_sizes.numel() == 0:
        raise InputError(
            "step_sizes", expected="shape (draws,) or (chains, draws)", got=f"shape {tuple(step_sizes.shape)}"
        )
    if samples.shape[: step_sizes.dim()] != step_sizes.shape:
        raise InputError(
            "samples", expected=f"first dimensions {tuple(step_sizes.shape)}", got=f"shape {tuple(samples.shape)}"
        )
    if not (step_sizes > 0).all():
        raise InputError("step_sizes", expected="positive numbers", got=f"a smallest of {float(step_sizes.min())}")
    weights = (step_sizes / step_sizes.sum()).to(samples.dtype if samples.is_floating_point() else step_sizes.dtype)
    return torch.tensordot(weights, samples.to(weights.dtype), dims=step_sizes.dim())
