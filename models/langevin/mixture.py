"""Two modes by SGLD: the mixture of Welling & Teh 2011, section 5.1, against its exact posterior."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

import pyro_bdl as bdl
from models.langevin import mixture_figures
from models.langevin.mixture_target import Exact, draw_data, log_joint, prior_precisions, score
from models.tables import Row, report
from pyro_bdl.diagnostics.arviz import from_arrays
from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc.schedules import Schedule, explores
from pyro_bdl.sgmcmc.updates import log_acceptance, preconditioned_langevin

APART = 0.5  # |theta_2| beyond which a draw belongs to a mode
LOOKS = 50  # at how many sweeps noise and acceptance are looked at


@dataclass(frozen=True)
class Settings:
    """The paper's, with many chains instead of one."""

    sweeps: int = 10_000
    """passes through the data, one data point an update"""
    points: int = 100
    """data points"""
    first_step: float = 0.01
    """the decaying schedule's first step size"""
    last_step: float = 0.0001
    """its last one"""
    gamma: float = 0.55
    """its decay"""
    cycles: int = 50
    """cycles of the cyclical schedule"""
    cyclical_step: float = 0.005
    """the first step size of each"""
    exploration: float = 0.5
    """the part of each cycle without noise"""
    chains: int = 32
    """chains of each schedule; figures show the first"""
    data_seed: int = 16
    """seeds the data; with 16 the modes lie about where the paper's figure has them, (0, 1) and (1, -1)"""


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


def schedules_of(settings: Settings) -> dict[str, Schedule]:
    """By name; the decaying one passes through its first and last step size."""
    updates = settings.sweeps * settings.points
    if not 0 < settings.last_step < settings.first_step:
        got = f"{settings.last_step} after {settings.first_step}"
        raise InputError("last_step", expected="positive and below the first", got=got)
    b = updates / ((settings.first_step / settings.last_step) ** (1 / settings.gamma) - 1)
    decaying = bdl.PolynomialDecay(a=settings.first_step * b**settings.gamma, b=b, gamma=settings.gamma)
    cycle = updates // settings.cycles
    return {"decaying": decaying, "cyclical": bdl.Cyclical(settings.cyclical_step, cycle, settings.exploration)}


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


@dataclass(frozen=True, eq=False)
class Noise:
    """The two kinds of noise at some updates of the decaying chains, as means over chains.

    Attributes:
        updates, steps: which, and e there, (looks,).
        gradient: (e N)^2 / 4 times the variance of a data point's score, (2, looks): theta_1 and theta_2.
        rejection: by the Metropolis-Hastings test on the posterior that SGLD leaves out, (looks,).
    """

    updates: Tensor
    steps: Tensor
    gradient: Tensor
    rejection: Tensor


def look_at_noise(x: Tensor, chains: Chains) -> Noise:
    """At `LOOKS` draws, evenly spaced in the logarithm of their number."""
    last = len(chains.steps) - 1
    numbers = torch.logspace(0, float(np.log10(last + 1)), LOOKS, dtype=torch.float64)
    chosen = numbers.long().clamp(1, last + 1).unique() - 1
    variances, rejections = [], []
    for i in chosen.tolist():
        theta, step = chains.theta[:, i], float(chains.steps[i])
        scores = score(theta[:, :, None].expand(-1, -1, len(x)), x)
        variances.append(0.25 * (step * len(x)) ** 2 * scores.var(-1, correction=0).mean(-1))
        rejections.append(1 - _acceptance(x, theta, step))
    return Noise(chains.updates[chosen], chains.steps[chosen], torch.stack(variances, 1), torch.tensor(rejections))


def _acceptance(x: Tensor, theta: Tensor, step: float) -> float:
    """The mean probability with which a step from theta (2, chains) by one data point each would be accepted.

    The test is on all data; the data point is the same there and back.
    """
    theta = theta.repeat(1, 32)
    point = x[torch.randint(len(x), theta.shape[1:])]

    def gradient(at: Tensor) -> Tensor:
        return score(at, point, times=len(x)) - at * prior_precisions(x)

    before = gradient(theta)
    moved = preconditioned_langevin(theta, before, torch.randn_like(theta), torch.ones(1), step_size=step)
    gain = log_joint(moved, x) - log_joint(theta, x)
    ratio = log_acceptance(theta.T, before.T, moved.T, gradient(moved).T, gain=gain, step_size=step)
    return float(ratio.clamp(max=0.0).exp().mean())


def row_of(name: str, chains: Chains, exact: Exact) -> Row:
    """What the table says of a schedule: of its chains, mean and deviation over them, and of all together."""
    each = range(chains.theta.shape[2])
    weights = chains.weights
    distances = [exact.distance(chains.chain(c), weights) for c in each]
    above = [float((weights * (chains.chain(c)[1] > 0)).sum() / weights.sum()) for c in each]
    late = chains.updates > int(chains.updates[-1]) // 2
    return {
        "draws": name,
        "of a chain": int((weights > 0).sum()),
        "TV, one chain": float(np.mean(distances)),
        "TV, all chains": exact.distance(chains.theta.flatten(1), weights.repeat_interleave(len(each))),
        "mass θ₂ > 0": float(np.mean(above)),
        "its sd over chains": float(np.std(above)),
        "changes of mode": float(np.mean([visits(chains.chain(c)[1]) for c in each])),
        "in the second half": float(np.mean([visits(chains.chain(c)[1, late]) for c in each])),
        "chains in both modes": sum(visits(chains.chain(c)[1]) > 0 for c in each),
    }


def row_of_exact(exact: Exact, count: int, chains: int) -> Row:
    """Independent draws, as many as a chain has."""
    draws, one = exact.draw(count * chains).view(2, count, chains), torch.ones(count, dtype=torch.float64)
    return {
        "draws": "exact, independent",
        "of a chain": count,
        "TV, one chain": float(np.mean([exact.distance(draws[:, :, c], one) for c in range(chains)])),
        "TV, all chains": exact.distance(draws.flatten(1), one.repeat_interleave(chains)),
        "mass θ₂ > 0": exact.mass_above,
    }


def run(settings: Settings, *, out: Path, progress: bool, console: Console) -> list[Row]:
    """Sample, compare, write; the rows of the table."""
    x = draw_data(settings.points, settings.data_seed)
    exact = Exact.of(x)
    schedules = schedules_of(settings)
    found = sample(x, schedules, sweeps=settings.sweeps, chains=settings.chains, progress=progress)
    noise = look_at_noise(x, found["decaying"])
    rows = [row_of(name, chains, exact) for name, chains in found.items()]
    rows.append(row_of_exact(exact, int(rows[0]["of a chain"]), settings.chains))
    updates = settings.sweeps * settings.points
    title = f"mixture with tied means, {settings.chains} chains of {updates:,} gradients of one data point"
    report(rows, title=title, name="mixture", out=out, settings=asdict(settings), console=console)
    console.print(
        f"decaying: a Metropolis-Hastings test would accept {1 - float(noise.rejection[0]):.1%} of the steps at "
        f"e = {float(noise.steps[0]):.2g}, {1 - float(noise.rejection[-1]):.1%} at e = {float(noise.steps[-1]):.2g}"
    )
    mixture_figures.posteriors(exact, found).savefig(out / "mixture_posterior.png")
    mixture_figures.noises(noise).savefig(out / "mixture_noise.png")
    mixture_figures.traces(found).savefig(out / "mixture_traces.png")
    for name, chains in found.items():
        _arviz(chains).to_netcdf(str(out / f"mixture_{name}.nc"))
    return rows


def _arviz(chains: Chains) -> Any:
    theta = chains.theta.permute(2, 1, 0).numpy()
    steps = np.broadcast_to(chains.steps.numpy(), theta.shape[:2])
    return from_arrays({"posterior": {"theta": theta}, "sample_stats": {"step_size": steps}})
