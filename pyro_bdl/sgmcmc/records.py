"""What a chain notes of its draws, and how far its steps are from those of the posterior."""

from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Record:
    """Of one draw, see `StochasticGradientKernel.sample_stats`."""

    step_size: float
    lp: float
    kinetic_temperature: float
    acceptance: float
    noise_ratio: float


class Records:
    """The records of a chain's draws."""

    def __init__(self) -> None:
        self._rows: list[Record] = []

    def append(self, record: Record) -> None:
        """One more draw."""
        self._rows.append(record)

    def stats(self) -> dict[str, Tensor]:
        """By name, float64 of shape (draws,)."""
        columns = torch.tensor([list(asdict(row).values()) for row in self._rows], dtype=torch.float64)
        columns = columns.reshape(-1, len(fields(Record)))
        stats = {field.name: columns[:, k].clone() for k, field in enumerate(fields(Record))}
        return stats | {"energy": -stats["lp"]}


def kinetic_temperature(before: Tensor, after: Tensor, *, step_size: float, metric: Tensor | None = None) -> float:
    r"""The mean squared step, over e: the temperature that the chain has.

    .. math:: \frac1d \sum_i \frac{(\theta'_i - \theta_i)^2}{e\, G_i}

    For Langevin dynamics, with or without momentum, in a harmonic mode of precision lambda its expectation is exactly
    :math:`\lambda\, Var(\theta)`, which is T where the draws have the right variance: too large a step and the noise of
    the gradients both show in it.

    Args:
        before, after: theta and theta'.
        step_size: e.
        metric: G. Default: ones.

    >>> f"{kinetic_temperature(torch.zeros(2), torch.tensor([0.1, -0.3]), step_size=0.05):.3f}"
    '1.000'
    """
    step = (after - before).square_()
    if metric is not None:
        step.div_(metric)
    return float(step.mean()) / step_size
