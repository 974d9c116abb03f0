"""What the way from Metropolis-Hastings to SGLD keeps of each chain."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain that has run.

    Attributes:
        name: as the table calls it.
        changes: what is new in it.
        mcmc: Pyro's object.
        draws: shape (draws, weights).
        updates: of the draws, without warm-up.
        seconds: of the processor, for warm-up and draws.
        step_size: e; `None` where Pyro adapts it.
        acceptance, kinetic_temperature: means over the draws; `None` where there are none.
    """

    name: str
    changes: str
    mcmc: Any
    draws: Tensor
    updates: int
    seconds: float
    step_size: float | None = None
    acceptance: float | None = None
    kinetic_temperature: float | None = None
