"""Two modes by SGLD: the mixture of Welling & Teh 2011, section 5.1, against its exact posterior."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import pyro_bdl as bdl
from models.langevin import mixture_figures
from models.langevin.mixture_chains import Chains, sample, visits
from models.langevin.mixture_noise import look_at_noise
from models.langevin.mixture_target import Exact, draw_data
from models.tables import Row, report
from pyro_bdl.diagnostics.arviz import from_arrays
from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc.schedules import Schedule


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
