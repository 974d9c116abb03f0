"""The competitors of Bayesian compression: prune one network by each method, write the file, read it, test it.

python -m models.competitors --net digits
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from torch import nn

import pyro_bdl as bdl
from models.competitors import deep_compression, generalised_dropout, group_lasso, network_surgery
from models.competitors import rows as tables
from models.competitors.outcome import Outcome
from models.competitors.rows import Row
from models.competitors.stored import load
from models.competitors.training import error
from models.networks import fully_connected, lenet_5_caffe, lenet_300_100
from pyro_bdl.errors import InputError

MethodName = Literal["deep-compression", "network-surgery", "group-lasso", "generalised-dropout"]
METHODS: dict[str, tuple[Callable[..., Outcome], Mapping[str, Any]]] = {
    "deep-compression": (deep_compression.deep_compression, deep_compression.SETTINGS),
    "network-surgery": (network_surgery.network_surgery, network_surgery.SETTINGS),
    "group-lasso": (group_lasso.group_lasso, group_lasso.SETTINGS),
    "generalised-dropout": (generalised_dropout.generalised_dropout, generalised_dropout.SETTINGS),
}
NETWORKS: dict[str, Any] = {
    "digits": lambda shape, classes: fully_connected([torch.Size(shape).numel(), 64, 32, classes]),
    "lenet-300-100": lenet_300_100,
    "lenet-5-caffe": lenet_5_caffe,
}


@dataclass
class Options:
    """Prune one network by other people's methods; a row each, beside the published ones, and a real file each."""

    method: tuple[MethodName, ...] = ("deep-compression", "network-surgery", "group-lasso", "generalised-dropout")
    """which methods"""
    net: Literal["digits", "lenet-300-100", "lenet-5-caffe"] = "digits"
    """the network: 64-32 hidden units for scikit-learn's digits, or a LeNet; lenet-5-caffe wants images of 28 x 28"""
    data: Literal["digits", "mnist", "fashion_mnist"] | None = None
    """the images; default: digits for the net of that name, else mnist"""
    data_dir: Path | None = None
    """where the files of the full sets are; else PYRO_BDL_DATA, else they are downloaded"""
    out: Path = Path("out/competitors")
    """where the files are written"""
    seed: int = 0
    """seeds the network's initial values, the order of the data and all noise"""
    tolerance: float | None = None
    """validation error that pruning may add, as a fraction; default: one standard error"""
    strengths: tuple[float, ...] | None = None
    """thresholds, penalties or priors to try, ascending, of the methods that have them; default by method and data"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""


def settings_of(method: str, data: str, options: Options) -> Any:
    """A method's settings for a data set, with the options."""
    table = METHODS[method][1]
    settings = replace(table["digits" if data == "digits" else "mnist"], tolerance=options.tolerance)
    if options.strengths is not None and hasattr(settings, "strengths"):
        settings = replace(settings, strengths=options.strengths)
    return settings


def main(options: Options) -> list[Row]:
    """Prune, write, read again, test, print; the rows."""
    if not options.method:
        raise InputError("--method", expected=f"at least one of {', '.join(METHODS)}", got="none")
    data = options.data or ("digits" if options.net == "digits" else "mnist")
    parts = bdl.data.load(data, root=options.data_dir, seed=0)
    training, validation = (parts.x_train, parts.y_train), (parts.x_validation, parts.y_validation)
    test = parts.x_test, parts.y_test
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=150)
    rows = []
    for method in options.method:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            net: nn.Module = NETWORKS[options.net](parts.x_train.shape[1:], len(parts.classes or ()))
        settings = settings_of(method, data, options)
        begin = time.perf_counter()
        outcome = METHODS[method][0](net, training, validation, settings, seed=options.seed, progress=options.progress)
        seconds = time.perf_counter() - begin
        path = options.out / f"{options.net}_{method}.bdl"
        outcome.stored.save(path)
        errors = {
            "dense": error(outcome.dense, test),
            "pruned": error(outcome.pruned, test),
            "coded": error(load(path, net), test),
        }
        rows.append(tables.row_of(outcome, errors=errors, seconds=seconds))
        chosen = ", ".join(f"{name} = {value}" for name, value in outcome.chosen.items())
        checked = ", ".join(f"{name} {100 * e:.2f}%" for name, e in outcome.errors.items())
        console.print(f"{method}: {path}, {path.stat().st_size:,} bytes; chosen {chosen}; validation error {checked}")
    console.print(tables.side_by_side(rows, options.net))
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
