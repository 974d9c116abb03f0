"""A look at an update now and then: would it be accepted, and how much of it is the noise of gradients?"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_bdl.errors import BDLError
from pyro_bdl.minibatches import Batch
from pyro_bdl.sgmcmc.flat import Number, number
from pyro_bdl.sgmcmc.updates import log_acceptance, probability

EVERY = 50  # updates from one look to the next, which takes two more gradients


@dataclass(frozen=True, eq=False)
class Update:
    """One update: from where to where, and how.

    Attributes:
        before, after: the flat parameters, (parameters,) or (chains, parameters).
        gradient: at `before`, by the update's batch.
        step_size, temperature: e and T.
        metric: the preconditioner; `None`: ones.
    """

    before: Tensor
    after: Tensor
    gradient: Tensor
    step_size: float
    temperature: float
    metric: Tensor | None


class Probe:
    """What was seen last.

    Attributes:
        acceptance: the probability with which a Metropolis-Hastings test would have taken the update, were another
            batch all data; NaN where it could not be seen. (By its own batch it would seem better than it is: an
            update goes uphill on its own noise.)
        noise_ratio: e V / (4 T), V the variance of a parameter's gradient from batch to batch.
        next_look: the first update that is due to be looked at.

    Args:
        every: updates from one look to the next. Default: `EVERY`.
    """

    def __init__(self, every: int | None = None) -> None:
        self.acceptance: Number = math.nan
        self.noise_ratio: Number = math.nan
        self.next_look = 0
        self._every = every

    @property
    def every(self) -> int:
        """Updates from one look to the next."""
        return self._every or EVERY

    def is_due(self, t: int) -> bool:
        """Whether it is time to look at update t."""
        return t >= self.next_look

    def look(
        self,
        t: int,
        update: Update,
        other: Batch | None,
        estimate: Callable[[Tensor, Batch | None], tuple[Number, Tensor]],
    ) -> None:
        """Look at update t; torch's generator is as it was afterwards.

        Args:
            t: its number.
            update: what it was.
            other: another batch; `None`: the program draws one.
            estimate: the log joint density and its gradient at a position, by a batch.
        """
        self.next_look = t + self.every
        root = torch.ones(()) if update.metric is None else update.metric.sqrt()
        now = torch.random.get_rng_state()
        try:
            here, gradient = estimate(update.before, other)
            gradient = gradient.clone()
            torch.random.set_rng_state(now)  # the same batch once more, where the program draws it
            there, gradient_there = estimate(update.after, other)
        except (BDLError, RuntimeError, IndexError, ValueError):  # the next update will tell, if it meets it
            self.acceptance = self.noise_ratio = math.nan
            return
        finally:
            torch.random.set_rng_state(now)
        log_ratio = log_acceptance(
            update.before / root, gradient * root, update.after / root, gradient_there * root,
            gain=there - here, step_size=update.step_size, temperature=update.temperature,
        )  # fmt: skip
        variance = (gradient - update.gradient).mul_(root).square_().mean(-1).mul_(0.5)
        self.acceptance = number(probability(log_ratio))
        self.noise_ratio = number(variance.mul_(update.step_size / (4 * update.temperature)))
