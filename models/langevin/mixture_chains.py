"""SGLD on the mixture, one data point an update, for many chains at once."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.langevin.mixture_target import prior_precisions, score
from pyro_bdl.sgmcmc.schedules import Schedule, explores
from pyro_bdl.sgmcmc.updates import preconditioned_langevin

APART = 0.5  # |theta_2| beyond which a draw belongs to a mode


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of one schedule, one a sweep.

    Attributes:
        theta: shape (2, draws, chains).
        steps: e of each draw, (draws,).
        updates: after how many updates each was taken, (draws,).
        weights: of each draw in averages, (draws,).
    """

    theta: Tensor
    steps: Tensor
    updates: Tensor
    weights: Tensor

    def chain(self, index: int) -> Tensor:
        """The draws of one chain, (2, draws)."""
        return self.theta[:, :, index]


@torch.inference_mode()
def sample(
    x: Tensor, schedules: Mapping[str, Schedule], *, sweeps: int, chains: int, progress: bool
) -> dict[str, Chains]:
    """SGLD with one data point an update, for all chains of all schedules in one tensor, from draws of the prior.

    Each chain goes through the data in an order of its own, a new one each sweep.
    """
    columns = len(schedules) * chains
    precisions = prior_precisions(x)
    theta = torch.randn(2, columns, dtype=x.dtype) / precisions.sqrt()
    draws = torch.empty(sweeps, 2, columns, dtype=x.dtype)
    for sweep in tqdm(range(sweeps), "mixture", unit="sweep", disable=not progress):
        updates = range(sweep * len(x), (sweep + 1) * len(x))
        points = x[torch.rand(columns, len(x)).argsort(-1)].T
        by_schedule = torch.tensor([[schedule(t) for schedule in schedules.values()] for t in updates], dtype=x.dtype)
        noisy = [[not explores(schedule, t) for schedule in schedules.values()] for t in updates]
        steps = by_schedule.repeat_interleave(chains, 1)
        noise = torch.randn(len(x), 2, columns, dtype=x.dtype)
        noise *= torch.tensor(noisy).repeat_interleave(chains, 1)[:, None]
        for point, step, z in zip(points, steps, noise, strict=True):
            gradient = score(theta, point, times=len(x)).addcmul_(theta, precisions, value=-1)
            theta = preconditioned_langevin(theta, gradient, z, step, step_size=1.0)  # each chain has its own e
        draws[sweep] = theta
    return {
        name: _kept(draws[:, :, i * chains : (i + 1) * chains], schedule, len(x))
        for i, (name, schedule) in enumerate(schedules.items())
    }


def _kept(draws: Tensor, schedule: Schedule, points: int) -> Chains:
    """The draws but for those of exploration.

    Weights are the step sizes (equation 11 of the paper), or equal where the schedule is cyclical; none for the first
    hundredth.
    """
    ends = torch.arange(1, len(draws) + 1) * points
    ends = ends[[not explores(schedule, t - 1) for t in ends.tolist()]]
    steps = torch.tensor([schedule(t - 1) for t in ends.tolist()], dtype=draws.dtype)
    weights = torch.ones_like(steps) if hasattr(schedule, "explores") else steps
    weights = weights.where(ends > len(draws) * points // 100, 0.0)
    return Chains(draws[ends // points - 1].permute(1, 0, 2), steps, ends, weights)


def visits(theta_2: Tensor) -> int:
    """How often a chain, (draws,), came from one mode to the other."""
    side = np.where(theta_2 > APART, 1, np.where(theta_2 < -APART, -1, 0))
    side = side[side != 0]
    return int((side[1:] != side[:-1]).sum())
