"""Regression with the standard splits of the UCI tables: a network of one hidden layer, by chains or by local SVI.

Inputs and targets are standardised by the training part. Noise and step size (chains), or noise and epochs (SVI), are
chosen once for a table, on validation parts of the training parts of its first splits; then each split's whole
training part is learnt from, and its test part is looked at once. What is done is kept in `out`, and not done again.
"""

import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

import pyro_bdl as bdl
from models.langevin import uci_figures
from models.langevin.uci_model import Model, Noise, by_chains, by_svi
from models.tables import Row, report
from pyro_bdl.data import Standardized
from pyro_bdl.errors import InputError, NumericalError

Method = Literal["SGHMC", "SGLD", "svi"]
Choice = tuple[Noise, float]  # and a step size, or epochs
HIDDEN = {"protein": 100}  # of 50 for the others (Hernandez-Lobato & Adams 2015)
SPLITS = {"protein": 5}  # of 20 for the others
NOT_SETTINGS = ("data_dir", "splits")  # what a finished row does not depend on


@dataclass(frozen=True)
class Settings:
    """Of a table."""

    data: Literal["boston", "concrete", "energy", "naval", "protein", "wine", "yacht"] = "yacht"
    """the table"""
    method: Method = "SGHMC"
    """the sampler; or svi, a mean-field guide with local reparameterisation"""
    data_dir: Path | None = None
    """where the folder `uci` is; else PYRO_BDL_DATA, else it is downloaded"""
    splits: int | None = None
    """how many of the standard splits; default: all"""
    validation_splits: int = 1
    """on how many splits' validation parts the choice is made"""
    noises: tuple[Noise, ...] = ("constant", "varying")
    """noise to choose from: of one size, or as the network says"""
    prior_scale: float = 1.5
    """s of the weights' prior N(0, s^2 / fan-in)"""
    precision_shape: float = 1.0
    """shape of the Gamma prior on the noise's precision, in standard units"""
    precision_rate: float = 0.01
    """its rate"""
    batch_size: int = 1000
    """data points of a minibatch, at most"""
    mode_steps: int = 500
    """steps of Adam towards a mode, where a chain begins"""
    mode_batch_size: int = 200
    """data points of Adam's minibatches"""
    step_sizes: tuple[float, ...] = (0.01, 0.03, 0.1)
    """of chains, to choose from, times the data's information about a constant, N precision for constant noise"""
    friction: float = 0.03
    """of SGHMC"""
    chains: int = 4
    """chains, all at once"""
    warmup: int = 300
    """updates of the warm-up"""
    updates: int = 700
    """updates of a chain after it"""
    thinning: int = 20
    """updates a draw"""
    epochs: tuple[int, ...] = (100, 300)
    """of SVI, to choose from"""
    learning_rate: float = 1e-2
    """of SVI: Adam's first, which falls to zero"""
    svi_batch_size: int = 100
    """data points of SVI's minibatches"""
    svi_draws: int = 500
    """draws of the guide"""


def load(settings: Settings, split: int, validation: int | None) -> Standardized:
    """A split in standard units."""
    raw = bdl.data.load(f"uci/{settings.data}", root=settings.data_dir, split=split, validation=validation, seed=split)
    return bdl.data.standardize(raw)


def learn(settings: Settings, choice: Choice, x: Tensor, y: Tensor, *, seed: int) -> tuple[Model, dict[str, Tensor]]:
    """The model and its posterior draws, which depend on the seed alone.

    Raises:
        NumericalError: a chain or the fit leaves the finite numbers.
    """
    noise, number = choice
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Model(
            x.shape[1], HIDDEN.get(settings.data, 50), noise=noise, prior_scale=settings.prior_scale,
            shape=settings.precision_shape, rate=settings.precision_rate,
        )  # fmt: skip
    if settings.method == "svi":
        return model, by_svi(
            model, x, y, epochs=int(number), learning_rate=settings.learning_rate, batch_size=settings.svi_batch_size,
            draws=settings.svi_draws, seed=seed,
        )  # fmt: skip
    return model, by_chains(
        model, x, y, kernel=settings.method, chains=settings.chains, mode_steps=settings.mode_steps,
        mode_batch_size=settings.mode_batch_size, step_size=number, warmup=settings.warmup,
        updates=settings.updates, thinning=settings.thinning, batch_size=settings.batch_size,
        friction=settings.friction, seed=seed,
    )  # fmt: skip


def choices(settings: Settings) -> list[Choice]:
    """What there is to choose from."""
    numbers = settings.epochs if settings.method == "svi" else settings.step_sizes
    return list(itertools.product(settings.noises, map(float, numbers)))


def number_name(settings: Settings) -> str:
    """Of what is chosen beside the noise."""
    return "epochs" if settings.method == "svi" else "step size × information"


def validate(settings: Settings, choice: Choice, split: int) -> float:
    """The log-likelihood of a split's validation part; -inf where the numbers do not stay finite."""
    data = load(settings, split, None).data
    try:
        model, draws = learn(settings, choice, data.x_train, data.y_train, seed=split)
        return model.judge(draws, data.x_validation, data.y_validation)[1]
    except (NumericalError, InputError):  # a deviation of zero is bad input for the likelihood
        return -math.inf


def run_split(settings: Settings, choice: Choice, split: int) -> Row:
    """Learn from the training part, judge by the test part, in the table's own units.

    A step size that was chosen on one split can be too large for another one: chains that leave the finite numbers
    begin again with a third of it.

    Raises:
        NumericalError: they leave them at a ninth, too; or a fit does.
    """
    begin = time.perf_counter()
    data, _, targets = load(settings, split, 0)
    assert targets is not None
    noise, number = choice
    for tries_left in (0,) if settings.method == "svi" else (2, 1, 0):
        try:
            model, draws = learn(settings, (noise, number), data.x_train, data.y_train, seed=split)
            break
        except NumericalError:
            if not tries_left:
                raise
            number /= 3
    error, likelihood = model.judge(draws, data.x_test, data.y_test)
    scale = float(targets.scale)
    return {
        "split": split,
        "RMSE": scale * error,
        "log-likelihood": likelihood - math.log(scale),
        number_name(settings): number,
        "seconds": time.perf_counter() - begin,
    }


class Kept:
    """What is done of a table, in a file that grows by a line for each trial and each split."""

    def __init__(self, path: Path, settings: Row) -> None:
        self._path, self._settings = path, json.loads(json.dumps(settings))
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = [json.loads(line) for line in lines]
        if not self.rows:
            self.add({"settings": self._settings})
        if self.rows[0]["settings"] != self._settings:
            raise InputError(
                str(path), expected=f"rows of the settings {self._settings}", got=f"of {self.rows[0]['settings']}",
                remedy="Name another folder with --out, or delete the file",
            )  # fmt: skip

    def find(self, **key: Any) -> Row | None:
        """The row with these values, if there is one."""
        return next((row for row in self.rows if all(row.get(k) == v for k, v in key.items())), None)

    def add(self, row: Row) -> Row:
        """Write it down."""
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
        return row


def choose(settings: Settings, kept: Kept, *, progress: bool) -> Choice:
    """That which predicts the validation parts best.

    Raises:
        NumericalError: none of them stays within the finite numbers.
    """

    def trials() -> Iterator[tuple[float, Choice]]:
        for choice in tqdm(choices(settings), f"{settings.data}, choice", unit="trial", disable=not progress):
            scores = []
            for split in range(settings.validation_splits):
                key = {"trial": list(choice), "of split": split}
                row = kept.find(**key) or kept.add(key | {"score": validate(settings, choice, split)})
                scores.append(row["score"])
            yield sum(scores) / len(scores), choice

    score, choice = max(trials())
    if score == -math.inf:
        raise NumericalError(f"uci/{settings.data}: none of {choices(settings)} stays within the finite numbers")
    return choice


def run(settings: Settings, *, out: Path, progress: bool, console: Console) -> list[Row]:
    """All splits, and their mean with its standard error; the rows of the table."""
    name = f"uci_{settings.data}_{settings.method.lower()}"
    written = {key: value for key, value in asdict(settings).items() if key not in NOT_SETTINGS}
    kept = Kept(out / f"{name}.jsonl", written)
    choice = choose(settings, kept, progress=progress)
    rows = []
    count = settings.splits or SPLITS.get(settings.data, 20)
    for split in tqdm(range(count), settings.data, unit="split", disable=not progress):
        rows.append(kept.find(split=split) or kept.add(run_split(settings, choice, split)))
    columns = {key: [row[key] for row in rows] for key in ("RMSE", "log-likelihood")}
    rows.append({"split": "mean"} | {key: statistics.mean(values) for key, values in columns.items()})
    errors = {key: statistics.stdev(values) / math.sqrt(count) for key, values in columns.items() if count > 1}
    rows.append({"split": "standard error"} | errors)
    title = f"uci/{settings.data}, {settings.method}, {choice[0]} noise, {choice[1]:g}: test parts"
    written |= {"noise": choice[0], number_name(settings): choice[1]}
    report(rows, title=title, name=name, out=out, settings=written, console=console)
    uci_figures.write(out)
    return rows
