"""From Metropolis-Hastings to SGLD on one model: Bayesian logistic regression on scikit-learn's breast cancer data.

Each step of the way changes one thing: a random walk with the Metropolis test, steps along the gradient with it,
without it, with minibatches, and then what was added to that. Pyro's NUTS says what is right. Step sizes are chosen on
pilot chains by what these tell of themselves; the test data only judge.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.mcmc import RandomWalkKernel
from rich.console import Console
from torch import Tensor

import pyro_bdl as bdl
from models.langevin import logistic_figures
from models.langevin.logistic_chain import Chain
from models.tables import Row, report
from pyro_bdl.errors import NumericalError

SITE = "weights"
REFERENCE = "NUTS"
HALVINGS = 40  # at most, of a step size in the search


@dataclass(frozen=True)
class Settings:
    """Of all chains, which begin at the posterior's mode."""

    updates: int = 8_000
    """updates of a chain after its warm-up"""
    warmup: int = 800
    """updates of the warm-up"""
    thinning: int = 10
    """updates a draw, of the Langevin kernels"""
    batch_size: int = 45
    """data points of a minibatch"""
    pilot: int = 600
    """updates of a pilot chain, after half as many of warm-up"""
    nuts_draws: int = 400
    """draws of NUTS"""
    nuts_warmup: int = 200
    """its warm-up"""
    prior_scale: float = 0.5
    """deviation of the normal prior on each weight, for standardised inputs"""
    acceptance: float = 0.57
    """what the Metropolis test of Langevin steps should accept at least"""
    temperature: float = 1.05
    """what the kinetic temperature of those without a test may be at most; SGNHT, which holds it at 1, takes the
    step of SGHMC"""


class Problem:
    """The data, the model and its mode."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        raw = bdl.data.load("breast_cancer", seed=0, validation=0, dtype=torch.float64)
        data = bdl.data.standardize(raw).data
        self.x, self.y = _with_constant(data.x_train), data.y_train.to(data.x_train.dtype)
        self.x_test, self.y_test = _with_constant(data.x_test), data.y_test.to(data.x_test.dtype)
        self.mode = self._find_mode()

    def model(self, x: Tensor, y: Tensor) -> None:
        """The program for a batch: y_n ~ Bernoulli(sigmoid(x_n . weights)), weights ~ N(0, s^2)."""
        prior = dist.Normal(torch.zeros(x.shape[1], dtype=x.dtype), self.settings.prior_scale)
        weights = pyro.sample(SITE, prior.to_event(1))
        with pyro.plate("data", size=len(self.x), subsample_size=len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ weights), obs=y)

    def _find_mode(self) -> Tensor:
        weights = torch.zeros(self.x.shape[1], dtype=self.x.dtype, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            misfit = torch.nn.functional.binary_cross_entropy_with_logits(self.x @ weights, self.y, reduction="sum")
            total = misfit + 0.5 * weights.square().sum() / self.settings.prior_scale**2
            total.backward()
            return total

        optimizer.step(loss)
        return weights.detach()

    def held_out(self, draws: Tensor) -> tuple[float, float]:
        """Log-likelihood a test point in nats, and accuracy, of the predictive mean over draws (draws, weights)."""
        probability = (self.x_test @ draws.T).sigmoid().mean(-1)
        right = probability.where(self.y_test > 0.5, 1 - probability)
        return float(right.log().mean()), float((right > 0.5).double().mean())


def _with_constant(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


@dataclass(frozen=True)
class Step:
    """A station on the way.

    Attributes:
        name: as the table calls it.
        changes: what is new in it.
        first: the step size with which the search begins; NaN: that of the step before is taken.
        make: its kernel for a step size.
        tested: whether it has the Metropolis test.
    """

    name: str
    changes: str
    first: float
    make: Callable[[float], Any]
    tested: bool = False


def the_way(problem: Problem) -> list[Step]:
    """The Langevin kernels, in the order of the path."""
    settings, data = problem.settings, (problem.x, problem.y)
    options: dict[str, Any] = {"data": data, "init": {SITE: problem.mode}}
    batches = {**options, "batch_size": settings.batch_size}
    model = problem.model
    return [
        Step("MALA", "gradient", 0.05, lambda e: bdl.Langevin(model, step_size=e, **options), tested=True),
        Step("ULA", "no test", 0.02, lambda e: bdl.Langevin(model, step_size=e, metropolis=False, **options)),
        Step("SGLD", "minibatches", 0.005, lambda e: bdl.SGLD(model, step_size=e, **batches)),
        Step("pSGLD", "preconditioner", 1e-4, lambda e: bdl.PreconditionedSGLD(model, step_size=e, **batches)),
        Step("SGHMC", "momentum", 1e-3, lambda e: bdl.SGHMC(model, step_size=e, **batches)),
        Step("SGNHT", "thermostat", math.nan, lambda e: bdl.SGNHT(model, step_size=e, **batches)),
    ]


def choose_step_size(step: Step, settings: Settings) -> float:
    """The largest of first, first / sqrt 2, first / 2, ... whose pilot chain is well by its own diagnostics.

    Raises:
        NumericalError: none of them is.
    """
    for k in range(HALVINGS):
        step_size = step.first * 2 ** (-k / 2)
        pilot = MCMC(step.make(step_size), settings.pilot, warmup_steps=settings.pilot // 2, disable_progbar=True)
        try:
            pilot.run()
        except NumericalError:
            continue
        stats = pilot.kernel.sample_stats()
        if step.tested and float(stats["acceptance"].mean()) >= settings.acceptance:
            return step_size
        if not step.tested and float(stats["kinetic_temperature"].mean()) <= settings.temperature:
            return step_size
    raise NumericalError(f"{step.name}: no step size from {step.first} to {step_size:.2g} is small enough")


def run_pyros(problem: Problem, name: str) -> Chain:
    """NUTS, or the random walk: a step size that Pyro adapts in the warm-up."""
    settings, start = problem.settings, {SITE: problem.mode}
    begin = time.process_time()
    if name == REFERENCE:
        nuts = NUTS(problem.model, full_mass=True, jit_compile=True, ignore_jit_warnings=True)
        draws, warmup = settings.nuts_draws, settings.nuts_warmup
        mcmc = MCMC(nuts, draws, warmup, initial_params=start, disable_progbar=True)
        changes, updates = "reference", draws
    else:
        kernel = RandomWalkKernel(problem.model, init_step_size=0.05)
        mcmc = MCMC(kernel, settings.updates, settings.warmup, initial_params=start, disable_progbar=True)
        changes, updates = "no gradient", settings.updates
    with warnings.catch_warnings():  # by which Pyro compiles
        warnings.filterwarnings("ignore", message="`torch.jit.trace` is deprecated", category=DeprecationWarning)
        mcmc.run(problem.x, problem.y)
    seconds = time.process_time() - begin
    rate = mcmc.diagnostics().get("acceptance rate")
    acceptance = None if rate is None else float(next(iter(rate.values())))
    return Chain(name, changes, mcmc, mcmc.get_samples()[SITE], updates, seconds, acceptance=acceptance)


def run_step(step: Step, step_size: float, settings: Settings) -> Chain:
    """One of the Langevin kernels."""
    thinning = settings.thinning
    kernel = step.make(step_size)
    kernel.thinning = thinning
    mcmc = MCMC(kernel, settings.updates // thinning, settings.warmup // thinning, disable_progbar=True)
    begin = time.process_time()
    mcmc.run()
    seconds = time.process_time() - begin
    means = {name: float(values.mean()) for name, values in kernel.sample_stats().items()}
    return Chain(
        step.name, step.changes, mcmc, mcmc.get_samples()[SITE], settings.updates, seconds, step_size,
        means["acceptance"], None if step.tested else means["kinetic_temperature"],
    )  # fmt: skip


def row_of(chain: Chain, reference: Chain, problem: Problem, data: Any) -> Row:
    """A row of the table; `data` is the chain for ArviZ."""
    import arviz as az

    sd = reference.draws.std(0)
    error = (chain.draws.mean(0) - reference.draws.mean(0)).div(sd)
    ratio = chain.draws.std(0) / sd
    ess = torch.as_tensor(az.ess(data)[SITE].values)
    likelihood, accuracy = problem.held_out(chain.draws)
    is_reference = chain is reference
    return {
        "kernel": chain.name,
        "new": chain.changes,
        "step size": chain.step_size,
        "acceptance": chain.acceptance,
        "kinetic T": chain.kinetic_temperature,
        "mean error (sd), rms": None if is_reference else float(error.square().mean().sqrt()),
        "largest": None if is_reference else float(error.abs().max()),
        "sd ratio": None if is_reference else float(ratio.log().mean().exp()),
        "ESS, least": float(ess.min()),
        "ESS/s": float(ess.min()) / chain.seconds,
        "test nats": likelihood,
        "accuracy": accuracy,
        "seconds": chain.seconds,
    }


def run(settings: Settings, *, out: Path, progress: bool, console: Console) -> list[Row]:
    """Tune, sample, compare, write; the rows of the table."""
    problem = Problem(settings)
    chains = []
    for name in (REFERENCE, "MH"):
        chains.append(run_pyros(problem, name))
        _say(chains[-1], console, progress)
    step_size = math.nan
    for step in the_way(problem):
        if not math.isnan(step.first):
            step_size = choose_step_size(step, settings)
        chains.append(run_step(step, step_size, settings))
        _say(chains[-1], console, progress)
    rows = []
    for chain in chains:
        data = bdl.from_pyro(chain.mcmc, model_args=(problem.x, problem.y))
        data.to_netcdf(str(out / f"logistic_{chain.name.lower()}.nc"))
        rows.append(row_of(chain, chains[0], problem, data))
    title = f"logistic regression, {len(problem.x)} training and {len(problem.x_test)} test points, "
    title += f"{len(problem.mode)} weights; {settings.updates:,} updates a chain; processor seconds"
    report(rows, title=title, name="logistic", out=out, settings=asdict(settings), console=console)
    logistic_figures.traces(chains).savefig(out / "logistic_traces.png")
    logistic_figures.comparison(rows).savefig(out / "logistic_comparison.png")
    return rows


def _say(chain: Chain, console: Console, progress: bool) -> None:
    if progress:
        console.print(f"{chain.name}: {chain.seconds:.0f} s")
