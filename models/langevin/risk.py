"""Bias, variance and risk of a posterior expectation against the step size, at a fixed number of gradients.

Small steps give draws that are all alike, large ones draws of another law, see `risk_curve`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from tqdm import tqdm

from models.langevin import risk_figures
from models.langevin.risk_curve import Curve, Posterior, estimates, exact_moments
from models.tables import Row, report
from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class Settings:
    """The budget counts gradients of one data point, which are what takes the time where there are many of them."""

    points: int = 500
    """data points"""
    batch_size: int = 10
    """data points of a minibatch, drawn with replacement"""
    passes: int = 20
    """the budget of a chain, in passes through the data"""
    chains: int = 4000
    """independent chains for each step size"""
    step_sizes: int = 25
    """how many step sizes"""
    smallest: float = 1e-4
    """the smallest, over that of unit size, 1 / the largest posterior precision"""
    largest: float = 3.0
    """the largest, likewise; from 4 on chains diverge"""
    data_seed: int = 0
    """seeds the data"""


def curve_of(posterior: Posterior, settings: Settings, batch_size: int | None, *, progress: bool) -> Curve:
    """All step sizes, with as many updates as the budget allows."""
    updates = settings.passes * settings.points // (batch_size or settings.points)
    smallest, largest = torch.tensor([settings.smallest, settings.largest]).log10().tolist()
    steps = torch.logspace(smallest, largest, settings.step_sizes, dtype=torch.float64)
    name = "all data" if batch_size is None else f"minibatches of {batch_size}"
    found, exact = [], []
    for step in tqdm(steps.tolist(), name, unit="step size", disable=not progress):
        step_size = step / float(posterior.precision.max())
        given = {"step_size": step_size, "updates": updates, "batch_size": batch_size}
        each = estimates(posterior, chains=settings.chains, **given)
        found.append((float(each.mean()) - 1, float(each.var())))
        exact.append(exact_moments(posterior, **given))
    (bias, variance), (exact_bias, exact_variance) = torch.tensor(found).T, torch.tensor(exact).T
    return Curve(name, updates, steps, bias, variance, exact_bias, exact_variance, settings.chains)


def row_of(curve: Curve) -> Row:
    """The best step size, and what it is worth to have it."""
    best, last = int(curve.risk.argmin()), len(curve.steps) - 1
    ten = round(float((curve.steps / curve.steps[0]).log10().max().reciprocal() * last))  # grid points a factor of ten
    return {
        "gradients": curve.name,
        "updates": curve.updates,
        "best e λ": float(curve.steps[best]),
        "by its law": float(curve.steps[curve.exact_risk.argmin()]),
        "bias²": float(curve.bias[best] ** 2),
        "variance": float(curve.variance[best]),
        "risk": float(curve.risk[best]),
        "risk, law": float(curve.exact_risk[best]),
        "risk at e/10": float(curve.risk[best - ten]) if best >= ten else None,
        "risk at 10 e": float(curve.risk[best + ten]) if best + ten <= last else None,
    }


def run(settings: Settings, *, out: Path, progress: bool, console: Console) -> list[Row]:
    """Run all chains, write; the rows of the table."""
    if not 0 < settings.smallest < settings.largest < 4:
        got = f"{settings.smallest} and {settings.largest}"
        raise InputError("step sizes", expected="0 < smallest < largest < 4", got=got)
    posterior = Posterior(settings.points, settings.data_seed)
    curves = [curve_of(posterior, settings, size, progress=progress) for size in (None, settings.batch_size)]
    rows = [row_of(curve) for curve in curves]
    budget = settings.passes * settings.points
    title = f"the posterior variance from {budget:,} gradients of one data point; {settings.chains:,} chains each"
    report(rows, title=title, name="risk", out=out, settings=asdict(settings), console=console)
    risk_figures.curves(curves, budget).savefig(out / "risk.png")
    return rows
