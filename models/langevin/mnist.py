"""MNIST by stochastic-gradient chains of a 400-400 network: accuracy, log-likelihood, and images from elsewhere.

The step size comes down in cycles (Zhang et al. 2020): in the first part of each the chain goes to a mode without
noise, in the rest it samples there. The average over the draws of all cycles is set against a single one of them.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

import pyro_bdl as bdl
from models import reporting
from models.networks import fully_connected
from models.outside import outside_images
from models.reporting import Method
from models.tables import Row, report

KERNELS: dict[str, Callable[..., Any]] = {
    "SGLD": bdl.SGLD, "pSGLD": bdl.PreconditionedSGLD, "SGHMC": bdl.SGHMC, "SGNHT": bdl.SGNHT,
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Of the chain; chosen on the validation part (RESULTS.md)."""

    data: Literal["mnist", "fashion_mnist", "digits"] = "mnist"
    """the images; digits are embedded"""
    data_dir: Path | None = None
    """where the files of the full sets are; else PYRO_BDL_DATA, else they are downloaded"""
    evaluate: Literal["test", "validation"] = "test"
    """the part that the table is about: `test` trains on the validation part, too"""
    kernel: Literal["SGLD", "pSGLD", "SGHMC", "SGNHT"] = "SGHMC"
    """the sampler"""
    hidden: tuple[int, ...] = (400, 400)
    """units of the hidden layers"""
    prior_scale: float = 4.0
    """s of the weights' prior N(0, s^2 / fan-in)"""
    step_size: float = 0.3
    """e times N at the beginning of each cycle: with momentum a learning rate of the mean loss, without twice that"""
    temperature: float = 0.01
    """of the sampling part: 1 is the posterior, and predicts worse (Wenzel et al. 2020)"""
    batch_size: int = 128
    """images of a minibatch"""
    chains: int = 4
    """how many, each from a network of its own"""
    cycles: int = 1
    """of each chain; a later one may find another mode, or the same again"""
    cycle_epochs: int = 25
    """epochs of a cycle"""
    exploration: float = 0.8
    """share of a cycle without noise"""
    cycle_draws: int = 10
    """draws of a cycle"""


def fit(settings: Settings, x: Tensor, y: Tensor, *, seed: int, progress: bool) -> tuple[Any, dict[str, Tensor]]:
    """The network as a Pyro program, and the chain's draws of its weights, those of a cycle together."""
    shape, classes = x.shape[1:], int(y.max()) + 1

    def network() -> Any:
        return fully_connected([math.prod(shape), *settings.hidden, classes])

    net = network()
    bnn = bdl.BayesianModule(net, bdl.priors.Gaussian(settings.prior_scale, fan_in=True))
    cycle = settings.cycle_epochs * (len(x) // settings.batch_size)
    sampling = cycle - math.ceil(settings.exploration * cycle)
    kernel = KERNELS[settings.kernel](
        bdl.Classifier(bnn), data=(x, y), batch_size=settings.batch_size,
        step_size=bdl.Cyclical(settings.step_size / len(x), cycle=cycle, exploration=settings.exploration),
        temperature=settings.temperature, thinning=sampling // settings.cycle_draws, jit_compile=True,
        init=lambda *_: {name: value.detach() for name, value in network().named_parameters()},
        **({"adapt": 2**62} if settings.kernel == "pSGLD" else {}),
    )  # fmt: skip
    chains = bdl.sample_chains(
        kernel,
        num_samples=settings.cycles * settings.cycle_draws,
        num_chains=settings.chains,
        seed=seed,
        progress=progress,
    )
    return bnn, chains.get_samples()


def run(settings: Settings, *, out: Path, progress: bool, console: Console) -> list[Row]:
    """Sample, compare the average with a single network; the rows of the table."""
    parts = bdl.data.load(settings.data, root=settings.data_dir, seed=0)
    x, y, x_held, y_held = parts.x_train, parts.y_train, parts.x_test, parts.y_test
    if settings.evaluate == "test":
        x, y = torch.cat([x, parts.x_validation]), torch.cat([y, parts.y_validation])
    else:
        x_held, y_held = parts.x_validation, parts.y_validation
    begin = time.perf_counter()
    bnn, draws = fit(settings, x, y, seed=torch.initial_seed(), progress=progress)
    seconds = time.perf_counter() - begin
    one = {name: value[settings.cycle_draws - 1 : settings.cycle_draws] for name, value in draws.items()}
    methods = [
        Method(
            "one network",
            lambda x: bdl.predict(bnn, one, x, batch_size=4096),
            seconds / (settings.chains * settings.cycles),
        ),
        Method(settings.kernel, lambda x: bdl.predict(bnn, draws, x, batch_size=4096), seconds),
    ]
    outside = outside_images(settings.data, settings.data_dir)
    rows = reporting.report(methods, x_held, y_held, outside, parts.classes, out)
    for row in rows:
        row["log-likelihood of 10,000"] = -10_000 * row["NLL"]
    written = asdict(settings) | {"data_dir": None}
    report(rows, title=f"{settings.data}, {settings.evaluate}", name="mnist", out=out,
           settings=written, console=console)  # fmt: skip
    return rows
