"""Regression with the standard splits of the UCI tables: one hidden layer, stochastic-gradient chains, sampled noise.

y_n ~ N(f(x_n), 1 / precision), precision ~ Gamma, weights ~ N(0, s^2 / fan-in): inputs and targets are standardised by
the training part. For each split the step size is chosen by chains on the training part without its validation part,
by the likelihood of that; then a chain with it sees the whole training part, and the test part is looked at once.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

import pyro_bdl as bdl
from models.langevin.tables import Row, report
from models.networks import fully_connected
from pyro_bdl.data import Standardized
from pyro_bdl.data_plate import data_size
from pyro_bdl.diagnostics.regression import mixture_log_likelihood, rmse
from pyro_bdl.errors import InputError, NumericalError

KERNELS: dict[str, Callable[..., Any]] = {"SGHMC": bdl.SGHMC, "SGLD": bdl.SGLD}
HIDDEN = {"protein": 100}  # of 50 for the others (Hernandez-Lobato & Adams 2015)


@dataclass(frozen=True)
class Settings:
    """Of a table's chains, one a split."""

    data: Literal["boston", "concrete", "energy", "naval", "protein", "wine", "yacht"] = "yacht"
    """the table"""
    data_dir: Path | None = None
    """where the folder `uci` is; else PYRO_BDL_DATA, else it is downloaded"""
    kernel: Literal["SGHMC", "SGLD"] = "SGHMC"
    """the sampler"""
    splits: int | None = None
    """how many of the standard splits; default: all"""
    step_sizes: tuple[float, ...] = (1e-3, 3e-4, 1e-4, 3e-5)
    """step sizes to choose from, times 100 / N"""
    prior_scale: float = 1.5
    """s of the weights' prior N(0, s^2 / fan-in)"""
    precision_shape: float = 1.0
    """shape of the Gamma prior on the noise's precision, in standard units"""
    precision_rate: float = 0.01
    """its rate"""
    batch_size: int = 100
    """data points of a minibatch"""
    pilot: int = 500
    """updates of the chains between which is chosen, after as many of warm-up"""
    warmup: int = 2_000
    """updates of the warm-up"""
    updates: int = 2_000
    """updates of a chain after it"""
    thinning: int = 20
    """updates a draw"""


class Model:
    """The network's Pyro program, and its draws' predictions."""

    def __init__(self, settings: Settings, columns: int) -> None:
        net = fully_connected([columns, HIDDEN.get(settings.data, 50), 1])
        self.settings = settings
        self.bnn = bdl.BayesianModule(net, bdl.priors.Gaussian(settings.prior_scale, fan_in=True))
        self.start = {name: value.detach() for name, value in net.named_parameters()} | {"precision": torch.ones(())}

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """For a batch; the kernel says of how many data points it is."""
        mean = self.bnn(x)[:, 0]
        precision = pyro.sample("precision", dist.Gamma(self.settings.precision_shape, self.settings.precision_rate))
        with pyro.plate("data", size=data_size(len(x)), subsample_size=len(x)):
            pyro.sample("y", dist.Normal(mean, precision.rsqrt()), obs=y)

    def judge(self, draws: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[float, float]:
        """Root mean squared error, and the log-likelihood of the predictive mixture in nats a point."""
        mean = bdl.predict(self.bnn, draws, x)[..., 0]
        return rmse(mean, y), mixture_log_likelihood(mean, draws["precision"].rsqrt()[:, None], y)


def sample(model: Model, x: Tensor, y: Tensor, *, step_size: float, warmup: int, updates: int) -> dict[str, Tensor]:
    """One chain's draws from its prior network."""
    settings = model.settings
    kernel = KERNELS[settings.kernel](
        model, data=(x, y), batch_size=min(settings.batch_size, len(x)), step_size=step_size * 100 / len(x),
        init=model.start, thinning=settings.thinning,
    )  # fmt: skip
    mcmc = MCMC(kernel, updates // settings.thinning, warmup // settings.thinning, disable_progbar=True)
    mcmc.run()
    return mcmc.get_samples()


def load(settings: Settings, split: int, validation: int | None) -> Standardized:
    """A split in standard units."""
    raw = bdl.data.load(f"uci/{settings.data}", root=settings.data_dir, split=split, validation=validation, seed=split)
    return bdl.data.standardize(raw)


def choose_step_size(settings: Settings, split: int) -> float:
    """That whose chain predicts the validation part best; one whose chain leaves the finite numbers is out.

    Raises:
        NumericalError: all of them are.
    """
    data = load(settings, split, None).data
    scores = {}
    for step_size in settings.step_sizes:
        model = Model(settings, data.x_train.shape[1])
        try:
            draws = sample(
                model, data.x_train, data.y_train, step_size=step_size, warmup=settings.pilot, updates=settings.pilot
            )
            scores[step_size] = model.judge(draws, data.x_validation, data.y_validation)[1]
        except (NumericalError, InputError):  # a deviation of zero is bad input for the likelihood
            scores[step_size] = -math.inf
    best = max(scores, key=lambda step_size: scores[step_size])
    if scores[best] == -math.inf:
        raise NumericalError(
            f"uci/{settings.data}, split {split}: no step size of {settings.step_sizes} is small enough"
        )
    return best


def run_split(settings: Settings, split: int) -> Row:
    """Choose, sample, judge by the test part, in the table's own units."""
    step_size = choose_step_size(settings, split)
    data, _, targets = load(settings, split, 0)
    assert targets is not None
    model = Model(settings, data.x_train.shape[1])
    draws = sample(
        model, data.x_train, data.y_train, step_size=step_size, warmup=settings.warmup, updates=settings.updates
    )
    error, likelihood = model.judge(draws, data.x_test, data.y_test)
    scale = float(targets.scale)
    return {
        "split": split,
        "step size × N/100": step_size,
        "noise sd": scale * float(draws["precision"].rsqrt().mean()),
        "RMSE": scale * error,
        "log-likelihood": likelihood - math.log(scale),
    }


def run(settings: Settings, *, out: Path, progress: bool, console: Console) -> list[Row]:
    """All splits, and their mean with its standard error; the rows of the table."""
    count = settings.splits or (5 if settings.data == "protein" else 20)
    rows = [run_split(settings, s) for s in tqdm(range(count), settings.data, unit="split", disable=not progress)]
    columns = {name: np.array([row[name] for row in rows]) for name in ("RMSE", "log-likelihood")}
    rows.append({"split": "mean"} | {name: float(values.mean()) for name, values in columns.items()})
    errors = {name: float(values.std(ddof=1) / math.sqrt(count)) for name, values in columns.items() if count > 1}
    rows.append({"split": "standard error"} | errors)
    written = asdict(settings) | {"data_dir": None}
    title = f"uci/{settings.data}, {settings.kernel}, test parts"
    report(rows, title=title, name=f"uci_{settings.data}", out=out, settings=written, console=console)
    return rows
