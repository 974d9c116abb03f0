"""What a chain notes of its draws, and how far its steps are from those of the posterior."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pyro_bdl.sgmcmc.flat import Number, number


@dataclass(frozen=True, eq=False)
class Record:
    """Of one draw, or of one of each of many chains, see `StochasticGradientKernel.sample_stats`."""

    step_size: float
    lp: Number
    kinetic_temperature: Number
    acceptance: Number
    noise_ratio: Number


class Records:
    """The records of draws.

    Args:
        chains: () for one chain, (chains,) for many.
    """

    def __init__(self, chains: tuple[int, ...] = ()) -> None:
        self._chains = chains
        self._rows: list[Record] = []

    def append(self, record: Record) -> None:
        """One more draw."""
        self._rows.append(record)

    def stats(self) -> dict[str, Tensor]:
        """By name, float64 of shape (draws,), or (chains, draws)."""
        stats = {field.name: self._column(field.name) for field in fields(Record)}
        return stats | {"energy": -stats["lp"]}

    def forget(self) -> None:
        """Begin anew: the records so far are kept elsewhere."""
        self._rows.clear()

    def _column(self, name: str) -> Tensor:
        values = [torch.as_tensor(getattr(row, name), dtype=torch.float64).expand(self._chains) for row in self._rows]
        return torch.stack(values, dim=-1) if values else torch.empty(*self._chains, 0, dtype=torch.float64)


def kinetic_temperature(before: Tensor, after: Tensor, *, step_size: float, metric: Tensor | None = None) -> Number:
    r"""The mean squared step, over e: the temperature that the chain has.

    .. math:: \frac1d \sum_i \frac{(\theta'_i - \theta_i)^2}{e\, G_i}

    For Langevin dynamics, with or without momentum, in a harmonic mode of precision lambda its expectation is exactly
    :math:`\lambda\, Var(\theta)`, which is T where the draws have the right variance: too large a step and the noise of
    the gradients both show in it.

    Args:
        before, after: theta and theta', shape (..., d).
        step_size: e.
        metric: G. Default: ones.

    >>> f"{kinetic_temperature(torch.zeros(2), torch.tensor([0.1, -0.3]), step_size=0.05):.3f}"
    '1.000'
    """
    step = (after - before).square_()
    if metric is not None:
        step.div_(metric)
    return number(step.mean(-1).div_(step_size))
