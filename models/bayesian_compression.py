"""Bayesian compression: train under a sparsity-inducing prior, prune, quantise, code, and test the file that results.

python -m models.bayesian_compression --net digits
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import tyro
from pyro.infer.autoguide import AutoDelta
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pyro_bdl as bdl
from models.competitors.rows import row_of_report, side_by_side
from models.compression_figures import (
    Recorder,
    Size,
    error_against_bytes,
    sparsity_patterns,
    thinning_animation,
    weight_histograms,
)
from models.networks import fully_connected, lenet_5_caffe, lenet_300_100
from pyro_bdl.errors import InputError
from pyro_bdl.weight_moments import weight_moments

NetName = Literal["digits", "lenet-300-100", "lenet-5-caffe"]
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
    pretraining: int = 0
    init_scale: float = 0.01
    mixture_rates: tuple[float, float] = (0.2, 6.0)
    """of soft weight sharing's means, and of its variances and shares, in multiples of the weights' (Ullrich et al.)"""


NETWORKS: dict[str, Any] = {
    "digits": lambda shape, classes: fully_connected([torch.Size(shape).numel(), 64, 32, classes]),
    "lenet-300-100": lenet_300_100,
    "lenet-5-caffe": lenet_5_caffe,
}
PRIORS: dict[str, Any] = {
    "log-uniform": bdl.priors.LogUniform,
    "group-normal-jeffreys": bdl.priors.GroupNormalJeffreys,
    "group-horseshoe": bdl.priors.GroupHorseshoe,
    "soft-weight-sharing": bdl.priors.SoftWeightSharing,
}
IMPROPER = ("log-uniform", "group-normal-jeffreys")
SMALL = Settings(epochs=300, learning_rate=3e-3, kl_weight=0.5, kl_warmup=60, batch_size=64)
LARGE = Settings(epochs=100, learning_rate=2e-3, kl_weight=0.2, kl_warmup=10)
SHARING = replace(LARGE, batch_size=256, pretraining=30, epochs=30, kl_weight=0.2)
SETTINGS: dict[tuple[str, str], Settings] = {
    **{("digits", prior): SMALL for prior in PRIORS},
    ("digits", "soft-weight-sharing"): replace(SMALL, pretraining=60, kl_weight=0.1),
    **{(net, prior): LARGE for net in ("lenet-300-100", "lenet-5-caffe") for prior in PRIORS},
    ("lenet-300-100", "soft-weight-sharing"): SHARING,
    ("lenet-5-caffe", "soft-weight-sharing"): SHARING,
}
ULLRICH = Settings(epochs=40, learning_rate=5e-4, kl_weight=0.005, kl_warmup=0, batch_size=256, pretraining=30)
"""Their settings for point weights, but for the pretraining and the learning rate's fall."""
POINT: dict[str, Settings] = {
    "digits": replace(ULLRICH, epochs=300, learning_rate=3e-3, kl_weight=0.02, batch_size=64, pretraining=60),
    "lenet-300-100": ULLRICH,
    "lenet-5-caffe": ULLRICH,
}
MIXTURE = "mixture."


@dataclass
class Options:
    """Train, prune, quantise, code, reload, test: the row of the tables, a real file, and figures."""

    net: NetName = "digits"
    """the network: 64-32 on scikit-learn's digits (two minutes, no download), or a LeNet"""
    prior: PriorName = "group-normal-jeffreys"
    """the prior of the weights"""
    guide: Literal["mean-field", "point"] = "mean-field"
    """what is fitted: a normal law for each weight, or (under soft weight sharing only) its value alone"""
    data: Literal["digits", "mnist", "fashion_mnist"] | None = None
    """the images; default: digits for the net of that name, else mnist"""
    data_dir: Path | None = None
    """where the files of the full sets are; else PYRO_BDL_DATA, else they are downloaded"""
    out: Path = Path("out/compression")
    """where the file, the figures and the fitted posterior are written"""
    seed: int = 0
    """seeds the network's initial values, the order of the data and all noise"""
    epochs: int | None = None
    """epochs of variational training; default by network and prior"""
    kl_weight: float | None = None
    """the weight of the KL, which trades bytes for error; default by network and prior"""
    learning_rate: float | None = None
    """Adam's first learning rate, which falls linearly to zero; default by network and prior"""
    tolerance: float | None = None
    """validation error that compression may add, as a fraction; default: one standard error"""
    posterior: Path | None = None
    """a fitted posterior (posterior.safetensors of an earlier run), which is compressed without training"""
    codebook: int | Literal["mixture"] | None = None
    """let weights share values: at most so many clusters, or the mixture's; default: for point weights, mixture"""
    shrink: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """cut units that are switched off out of the network while it trains"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""


class Problem:
    """Data, network, model and guide of one run."""

    def __init__(self, options: Options) -> None:
        self.options = options
        name = options.data or ("digits" if options.net == "digits" else "mnist")
        self.parts = bdl.data.load(name, root=options.data_dir, seed=0)
        given = {
            key: value
            for key in ("epochs", "kl_weight", "learning_rate")
            if (value := getattr(options, key)) is not None
        }
        if options.guide == "point" and options.prior != "soft-weight-sharing":
            raise InputError("--guide point", expected="soft weight sharing, whose clusters code it", got=options.prior)
        recipe = POINT[options.net] if options.guide == "point" else SETTINGS[options.net, options.prior]
        self.settings = replace(recipe, **given)
        self.x, self.y = self.parts.x_train, self.parts.y_train
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            self.net = NETWORKS[options.net](self.x.shape[1:], len(self.parts.classes or ()))
        if self.settings.pretraining and options.posterior is None:
            pretrain(self.net, self.x, self.y, self.settings, seed=options.seed)
        if options.codebook == "mixture" and options.prior != "soft-weight-sharing":
            raise InputError("--codebook mixture", expected="soft weight sharing", got=options.prior)
        self.prior = PRIORS[options.prior]()
        if isinstance(self.prior, bdl.priors.SoftWeightSharing):
            self.prior.hyper_weight = self.settings.kl_weight
        self.model = bdl.Classifier(bdl.BayesianModule(self.net, self.prior))
        self.guide: Any = (
            AutoDelta(self.model, init_loc_fn=bdl.guides.init_to_network)
            if options.guide == "point"
            else bdl.guides.AutoMeanField(self.model, init_scale=self.settings.init_scale)
        )
        self.guide(self.x[:1], self.y[:1])  # so that it meets its model

    def state(self) -> dict[str, Tensor]:
        """Posterior and mixture."""
        mixture = {} if self.mixture is None else self.mixture.state_dict()
        return {**self.guide.state_dict(), **{MIXTURE + name: value for name, value in mixture.items()}}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """What `state` gave."""
        self.guide.load_state_dict({name: v for name, v in state.items() if not name.startswith(MIXTURE)})
        if self.mixture is not None:
            own = {name.removeprefix(MIXTURE): v for name, v in state.items() if name.startswith(MIXTURE)}
            self.mixture.load_state_dict(own)

    @property
    def codebook(self) -> Any:
        """That of the file, as `compress` takes it."""
        chosen = self.options.codebook
        return self.mixture if chosen == "mixture" or (chosen is None and self.options.guide == "point") else chosen

    @property
    def mixture(self) -> bdl.priors.SoftWeightSharing | None:
        """That of soft weight sharing."""
        return self.prior if isinstance(self.prior, bdl.priors.SoftWeightSharing) else None

    def optimizer(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Adam; the mixture's parameters at rates of their own."""
        rate, (of_means, of_others) = self.settings.learning_rate, self.settings.mixture_rates
        prior = self.mixture
        means = [] if prior is None else [prior.means]
        others = [] if prior is None else [prior.log_variances, prior.logits, prior.zero_log_variance]
        own = {id(p) for p in (*means, *others)}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if id(p) not in own]},
            {"params": means, "lr": of_means * rate}, {"params": others, "lr": of_others * rate},
        ]  # fmt: skip
        return torch.optim.Adam([group for group in groups if group["params"]], lr=rate, fused=True)


def falling(fraction: float) -> float:
    """A learning rate that falls linearly to zero."""
    return 1.0 - fraction


def pretrain(net: nn.Module, x: Tensor, y: Tensor, settings: Settings, *, seed: int) -> None:
    """A plain network, by Adam on the cross-entropy."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: falling(epoch / settings.pretraining))
        for _ in range(settings.pretraining):
            for rows in torch.randperm(len(x)).split(settings.batch_size):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
            schedule.step()


def fit(problem: Problem, recorder: Recorder | None) -> bdl.Fit:
    """The variational fit."""
    options, settings = problem.options, problem.settings
    return bdl.fit_svi(
        problem.model, problem.guide, (problem.x, problem.y), epochs=settings.epochs, batch_size=settings.batch_size,
        optimizer=problem.optimizer, schedule=falling, estimator="plain" if options.guide == "point" else "local",
        kl_weight=settings.kl_weight, kl_warmup=min(settings.kl_warmup, settings.epochs / 2),
        progress=options.progress, seed=options.seed, callbacks=[] if recorder is None else [recorder],
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
        recorder = None  # without scales nothing says what would be pruned
        if options.guide == "mean-field":
            recorder = Recorder(
                problem.net, problem.x[:1], accuracy=lambda net: 1.0 - error(net, x_validation, y_validation)
            )
        result = fit(problem, recorder)
        promised = result.kls[-1] / BYTE
        save_file(problem.state(), options.out / "posterior.safetensors")
        if recorder is not None:
            recorder.record(problem.settings.epochs, problem.guide)
            thinning_animation(recorder, options.out / "thinning.gif")
    else:
        problem.load_state(load_file(options.posterior))
    fitted = time.perf_counter()
    small = bdl.compress(
        problem.net, problem.guide, example_input=problem.x[:1],
        validation=(x_validation, y_validation), tolerance=options.tolerance, codebook=problem.codebook,
    )  # fmt: skip
    done = time.perf_counter()
    path = options.out / "net.bdl"
    small.save(path)
    again = bdl.load_compressed(path, problem.net)
    report = small.report()
    test_error = error(again, problem.parts.x_test, problem.parts.y_test)
    row = {
        "net": options.net,
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
    console.print(side_by_side(rows, options.net))
    mean = weight_moments(problem.net, problem.guide, problem.x[:1], problem.y[:1]).mean
    weight_histograms(initial, mean, small, before_name="before the fit").savefig(options.out / "weights.png")
    sparsity_patterns(small).savefig(options.out / "sparsity.png")
    published = None if options.net == "digits" else options.net
    sizes = [Size(options.prior, report.file_bytes, 100 * test_error)]
    error_against_bytes(sizes, net=published).savefig(options.out / "error_against_bytes.png")
    (options.out / "row.json").write_text(json.dumps(row, indent=1))
    console.print(f"the file, the row, the posterior and the figures are in {options.out}/")
    return row


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
