"""Bayesian compression: train under a sparsity-inducing prior, prune, quantise, code, and test the file that results.

python -m models.bayesian_compression --net digits
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pyro_bdl as bdl
from models.augmentation import FlipsAndCrops
from models.batch_norm import absorb_statistics
from models.competitors.rows import row_of_report, side_by_side
from models.compression_figures import (
    Recorder,
    Size,
    error_against_bytes,
    sparsity_patterns,
    thinning_animation,
    weight_histograms,
)
from models.networks import fully_connected, lenet_5_caffe, lenet_300_100, vgg
from pyro_bdl.data.dataset import Dataset
from pyro_bdl.errors import InputError
from pyro_bdl.weight_moments import weight_posterior

NetName = Literal["digits", "lenet-300-100", "lenet-5-caffe", "vgg"]
PriorName = Literal["log-uniform", "group-normal-jeffreys", "group-horseshoe", "soft-weight-sharing"]
BYTE = 8 * 0.6931471805599453  # nats


@dataclass(frozen=True)
class Settings:
    """How a network is trained; chosen on validation data."""

    epochs: int
    learning_rate: float
    kl_weight: float
    kl_warmup: float
    batch_size: int = 128
    pretraining: int = 0  # epochs of a plain fit, from which the variational one begins
    pretraining_rates: tuple[float, float] = (1e-3, 1e-3)  # from the first epoch, linearly, to the end
    init_scale: float = 0.01
    colour_images: bool = False  # standardised by channel; those of three channels flipped and shifted while training


NETWORKS: dict[str, Any] = {
    "digits": lambda shape, classes: fully_connected([torch.Size(shape).numel(), 64, 32, classes]),
    "lenet-300-100": lenet_300_100,
    "lenet-5-caffe": lenet_5_caffe,
    "vgg": vgg,
}
DATA = {"digits": "digits", "vgg": "cifar10"}  # by network; of the others mnist
PRIORS: dict[str, Any] = {
    "log-uniform": bdl.priors.LogUniform,
    "group-normal-jeffreys": bdl.priors.GroupNormalJeffreys,
    "group-horseshoe": bdl.priors.GroupHorseshoe,
    "soft-weight-sharing": bdl.priors.SoftWeightSharing,
}
IMPROPER = ("log-uniform", "group-normal-jeffreys")
SMALL = Settings(epochs=300, learning_rate=3e-3, kl_weight=0.5, kl_warmup=60, batch_size=64)
LARGE = Settings(epochs=100, learning_rate=2e-3, kl_weight=0.2, kl_warmup=10)
COLOUR = Settings(  # a guess: tried on no VGG for so many epochs yet (RESULTS.md)
    epochs=200, learning_rate=2e-3, kl_weight=0.2, kl_warmup=20, pretraining=100, pretraining_rates=(3e-3, 0.0),
    colour_images=True,
)  # fmt: skip
SETTINGS: dict[tuple[str, str], Settings] = {
    **{("digits", prior): SMALL for prior in PRIORS},
    ("digits", "soft-weight-sharing"): replace(SMALL, pretraining=60, kl_weight=0.1),
    **{(net, prior): LARGE for net in ("lenet-300-100", "lenet-5-caffe") for prior in PRIORS},
    ("lenet-300-100", "soft-weight-sharing"): replace(LARGE, pretraining=20, epochs=40, kl_weight=0.1),
    ("lenet-5-caffe", "soft-weight-sharing"): replace(LARGE, pretraining=20, epochs=40, kl_weight=0.1),
    **{("vgg", prior): COLOUR for prior in PRIORS},
    ("vgg", "soft-weight-sharing"): replace(COLOUR, epochs=60, kl_weight=0.1),
}


@dataclass
class Options:
    """Train, prune, quantise, code, reload, test: the row of the tables, a real file, and figures."""

    net: NetName = "digits"
    """the network: 64-32 on scikit-learn's digits (two minutes, no download), a LeNet, or VGG"""
    width: float = 1.0
    """factor on the units of each layer of vgg: the whole one wants a GPU, 1/8 trains without"""
    prior: PriorName = "group-normal-jeffreys"
    """the prior of the weights"""
    data: Literal["digits", "mnist", "fashion_mnist", "cifar10"] | None = None
    """the images; default: digits for the net of that name, cifar10 for vgg, else mnist"""
    data_dir: Path | None = None
    """where the files of the full sets are; else PYRO_BDL_DATA, else they are downloaded"""
    out: Path = Path("out/compression")
    """where the file, the figures and the fitted posterior are written"""
    seed: int = 0
    """seeds the network's initial values, the order of the data and all noise"""
    epochs: int | None = None
    """epochs of variational training; default by network and prior"""
    pretraining: int | None = None
    """epochs of a plain fit before it; default by network and prior"""
    kl_weight: float | None = None
    """the weight of the KL, which trades bytes for error; default by network and prior"""
    learning_rate: float | None = None
    """Adam's first learning rate, which falls linearly to zero; default by network and prior"""
    init_scale: float | None = None
    """standard deviation with which all weights begin; default by network and prior"""
    tolerance: float | None = None
    """validation error that compression may add, as a fraction; default: one standard error"""
    unit_threshold: float | None = None
    """log alpha above which units are cut, 3 in the literature; default: chosen on validation data, group by group"""
    posterior: Path | None = None
    """a fitted posterior (posterior.safetensors of an earlier run), which is compressed without training"""
    device: str = "cpu"
    """where network and data are put, cuda for the whole vgg"""
    shrink: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """cut units that are switched off out of the network while it trains"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""


class Problem:
    """Data, network, model and guide of one run."""

    def __init__(self, options: Options) -> None:
        self.options = options
        given = {
            key: value
            for key in ("epochs", "pretraining", "kl_weight", "learning_rate", "init_scale")
            if (value := getattr(options, key)) is not None
        }
        self.settings = replace(SETTINGS[options.net, options.prior], **given)
        make = NETWORKS[options.net]
        if options.net == "vgg":
            make = partial(make, width=options.width)
        elif options.width != 1.0:
            raise InputError("--width", expected=f"1 for {options.net}", got=str(options.width))
        self.parts = bdl.data.load(options.data or DATA.get(options.net, "mnist"), root=options.data_dir, seed=0)
        if self.settings.colour_images:
            self.parts = standardised(self.parts)
        tensors = {name: value for name, value in vars(self.parts).items() if isinstance(value, Tensor)}
        moved: Any = {name: value.to(options.device) for name, value in tensors.items()}
        self.parts = replace(self.parts, **moved)
        self.x, self.y = self.parts.x_train, self.parts.y_train
        self.augmented = None
        if self.settings.colour_images and self.x.shape[1] == 3:
            size = self.settings.batch_size
            self.augmented = FlipsAndCrops(self.x, self.y, batch_size=size, seed=options.seed)
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            self.net = make(self.x.shape[1:], len(self.parts.classes or ())).to(options.device)
        if self.settings.pretraining and options.posterior is None:
            pretrain(self.net, self.epoch, self.settings, seed=options.seed)
        absorb_statistics(self.net)
        self.model = bdl.Classifier(bdl.BayesianModule(self.net, PRIORS[options.prior]()).to(options.device))
        self.guide = bdl.guides.AutoMeanField(self.model, init_scale=self.settings.init_scale)

    def epoch(self) -> Iterable[Any]:
        """The batches of one epoch, in a new order."""
        if self.augmented is not None:
            return self.augmented
        return ((self.x[rows], self.y[rows]) for rows in torch.randperm(len(self.x)).split(self.settings.batch_size))


def standardised(parts: Dataset) -> Dataset:
    """Images less their mean, over their deviation, channel by channel of the training images."""
    x = parts.x_train
    mean, scale = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    return replace(
        parts, **{name: (getattr(parts, name) - mean) / scale for name in ("x_train", "x_validation", "x_test")}
    )


def falling(fraction: float) -> float:
    """A learning rate that falls linearly to zero."""
    return 1.0 - fraction


def pretrain(net: nn.Module, data: Callable[[], Iterable[Any]], settings: Settings, *, seed: int) -> None:
    """A plain network, by Adam on the cross-entropy of the batches that `data` gives in each epoch."""
    first, last = settings.pretraining_rates
    optimizer = torch.optim.Adam(net.parameters(), lr=first, fused=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(settings.pretraining):
            optimizer.param_groups[0]["lr"] = first + (last - first) * epoch / settings.pretraining
            for x, y in data():
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()


def fit(problem: Problem, recorder: Recorder) -> bdl.Fit:
    """The variational fit."""
    options, settings = problem.options, problem.settings
    data, size = (problem.x, problem.y), settings.batch_size
    return bdl.fit_svi(
        problem.model, problem.guide, problem.augmented or data, epochs=settings.epochs,
        batch_size=None if problem.augmented else size,
        optimizer=lambda p: torch.optim.Adam(p, lr=settings.learning_rate, fused=True), schedule=falling,
        kl_weight=settings.kl_weight, kl_warmup=min(settings.kl_warmup, settings.epochs / 2),
        progress=options.progress, seed=options.seed, callbacks=[recorder],
        shrink=options.shrink,
    )  # fmt: skip


@torch.no_grad()
def error(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of wrong classes."""
    return float((torch.cat([net(part) for part in x.split(1000)]).argmax(-1) != y).double().mean())


def main(options: Options) -> dict[str, Any]:
    """Train (or read a posterior), compress, write, read again, test; the row."""
    console = Console(width=140)
    options.out.mkdir(parents=True, exist_ok=True)
    problem = Problem(options)
    begin = time.perf_counter()
    promised = float("nan")
    x_validation, y_validation = problem.parts.x_validation, problem.parts.y_validation
    initial = {name: value.detach().clone() for name, value in problem.net.named_parameters()}
    if options.posterior is None:
        recorder = Recorder(
            problem.net, problem.x[:1], accuracy=lambda net: 1.0 - error(net, x_validation, y_validation)
        )
        result = fit(problem, recorder)
        promised = result.kls[-1] / BYTE
        save_file(problem.guide.state_dict(), options.out / "posterior.safetensors")
        recorder.record(problem.settings.epochs, problem.guide)
        thinning_animation(recorder, options.out / "thinning.gif")
    else:
        problem.guide.load_state_dict(load_file(options.posterior))
        problem.guide(problem.x[:1], problem.y[:1])  # so that it meets its model
    fitted = time.perf_counter()
    small = bdl.compress(
        problem.net, problem.guide, example_input=problem.x[:1],
        validation=(x_validation, y_validation), tolerance=options.tolerance, unit_thresholds=options.unit_threshold,
    )  # fmt: skip
    done = time.perf_counter()
    path = options.out / "net.bdl"
    small.save(path)
    again = bdl.load_compressed(path, problem.net)
    report = small.report()
    test_error = error(again, problem.parts.x_test, problem.parts.y_test)
    row = {
        "net": options.net,
        "width": options.width,
        "prior": options.prior,
        **report.as_dict(),
        "bytes promised by the KL": promised,
        "test error %": 100 * test_error,
        "training seconds": fitted - begin,
        "compression seconds": done - fitted,
    }
    console.print(report)
    # That of a log-uniform density is counted from where all is noise; the density itself has infinite mass.
    constant = ", up to the constant of an improper prior," if options.prior in IMPROPER else ""
    console.print(
        f"{options.net}, {options.prior}: test error of the file, reloaded: {row['test error %']:.2f}%; "
        f"{path.stat().st_size:,} bytes, where the KL{constant} promised {promised:,.0f}; "
        f"{row['training seconds']:.0f} s of training, {row['compression seconds']:.1f} s of compression"
    )
    seconds = row["training seconds"] + row["compression seconds"]
    rows = [row_of_report(report, options.prior, errors={"coded": test_error}, seconds=seconds)]
    name = options.net if options.width == 1.0 else f"{options.net} of width {options.width:g}"
    console.print(side_by_side(rows, name))
    mean = weight_posterior(problem.net, problem.guide, problem.x[:1], problem.y[:1]).mean
    weight_histograms(initial, mean, small, before_name="before the fit").savefig(options.out / "weights.png")
    sparsity_patterns(small).savefig(options.out / "sparsity.png")
    published = None if options.net == "digits" or options.width != 1.0 else options.net
    sizes = [Size(options.prior, report.file_bytes, 100 * test_error)]
    error_against_bytes(sizes, net=published).savefig(options.out / "error_against_bytes.png")
    (options.out / "row.json").write_text(json.dumps(row, indent=1))
    console.print(f"the file, the row, the posterior and the figures are in {options.out}/")
    return row


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
