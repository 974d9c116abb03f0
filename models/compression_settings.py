"""Networks, priors and recipes of `models.bayesian_compression`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

import pyro_bdl as bdl
from models.networks import fully_connected, lenet_5_caffe, lenet_300_100, vgg
from models.recipes import with_given

NetName = Literal["digits", "lenet-300-100", "lenet-5-caffe", "vgg"]
PriorName = Literal["log-uniform", "group-normal-jeffreys", "group-horseshoe", "soft-weight-sharing"]

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


@dataclass(frozen=True)
class Settings:
    """How a network is trained; chosen on validation data.

    Attributes:
        epochs, learning_rate, batch_size: of the variational fit; the rate falls linearly to zero.
        kl_weight, kl_warmup: of its KL, and over how many epochs it comes in.
        final_kl_weight: that of the second half of the epochs, if another.
        pretraining, pretraining_rates: epochs of a plain fit before, and its learning rate, first and last.
        init_scale: deviation with which all weights begin.
        mixture_rates: of soft weight sharing's means, and of its variances and shares, in multiples of the weights'
            (Ullrich et al. 2017).
        colour_images: standardise by channel; flip and shift those of three channels while training.
    """

    epochs: int
    learning_rate: float
    kl_weight: float
    kl_warmup: float
    batch_size: int = 128
    final_kl_weight: float | None = None
    pretraining: int = 0
    pretraining_rates: tuple[float, float] = (1e-3, 0.0)
    init_scale: float = 0.01
    mixture_rates: tuple[float, float] = (0.2, 6.0)
    colour_images: bool = False

    @property
    def last_kl_weight(self) -> float:
        """That of the last epoch."""
        return self.kl_weight if self.final_kl_weight is None else self.final_kl_weight


SMALL = Settings(epochs=300, learning_rate=3e-3, kl_weight=0.5, kl_warmup=60, batch_size=64)
LARGE = Settings(epochs=100, learning_rate=2e-3, kl_weight=0.2, kl_warmup=10)
SHARING = replace(LARGE, batch_size=256, pretraining=30, epochs=30, kl_weight=0.2)
COLOUR = Settings(  # a guess: tried on no VGG for so many epochs yet (RESULTS.md)
    epochs=200, learning_rate=2e-3, kl_weight=0.2, kl_warmup=20, pretraining=100, pretraining_rates=(3e-3, 0.0),
    colour_images=True,
)  # fmt: skip
SETTINGS: dict[tuple[str, str], Settings] = {
    **{("digits", prior): SMALL for prior in PRIORS},
    ("digits", "soft-weight-sharing"): replace(SMALL, pretraining=60, kl_weight=0.1),
    **{(net, prior): LARGE for net in ("lenet-300-100", "lenet-5-caffe") for prior in PRIORS},
    ("lenet-300-100", "soft-weight-sharing"): SHARING,
    ("lenet-5-caffe", "soft-weight-sharing"): SHARING,
    **{("vgg", prior): COLOUR for prior in PRIORS},
    ("vgg", "soft-weight-sharing"): replace(COLOUR, epochs=60, kl_weight=0.1),
}
ULLRICH = Settings(epochs=40, learning_rate=5e-4, kl_weight=0.005, kl_warmup=0, batch_size=256, pretraining=30)
"""Their settings for point weights, but for the pretraining and the learning rate's fall."""
POINT: dict[str, Settings] = {
    "digits": replace(ULLRICH, epochs=300, learning_rate=3e-3, kl_weight=0.02, batch_size=64, pretraining=60),
    "lenet-300-100": ULLRICH,
    "lenet-5-caffe": ULLRICH,
    "vgg": replace(COLOUR, epochs=40, learning_rate=5e-4, kl_weight=0.005, kl_warmup=0),
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
    guide: Literal["mean-field", "point"] = "mean-field"
    """what is fitted: a normal law for each weight, or (under soft weight sharing only) its value alone"""
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
    kl_warmup: float | None = None
    """epochs over which it comes in; default by network and prior"""
    final_kl_weight: float | None = None
    """that of the second half of the epochs, in which what is left is fitted closer; default: the same"""
    learning_rate: float | None = None
    """Adam's first learning rate, which falls linearly to zero; default by network and prior"""
    init_scale: float | None = None
    """standard deviation with which all weights begin; default by network and prior"""
    tolerance: float | None = None
    """validation error that compression may add, as a fraction; default: one standard error"""
    unit_threshold: float | None = None
    """log alpha above which units are cut, 3 in the literature; default: chosen on validation data, group by group"""
    draw: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """code the weights as a draw of the posterior by random indices instead of as integers"""
    retraining: int | None = None
    """epochs in which what is left adapts to its code; default: none for integers, for a draw half of the fit's"""
    retraining_rate: float = 1e-3
    """Adam's learning rate in these"""
    retraining_kl_weight: float | None = None
    """the weight of the description length in these; default: that of the fit's end"""
    posterior: Path | None = None
    """a fitted posterior (posterior.safetensors of an earlier run), which is compressed without training"""
    checkpoint: Path | None = None
    """a file from which the same command goes on where it was stopped; default: none"""
    device: str = "cpu"
    """where network and data are put, cuda for the whole vgg"""
    codebook: int | Literal["mixture"] | None = None
    """let weights share values: at most so many clusters, or the mixture's; default: for point weights, mixture"""
    shrink: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """cut units that are switched off out of the network while it trains"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""

    @property
    def settings(self) -> Settings:
        """The recipe of network, prior and guide, with what is given instead."""
        recipe = POINT[self.net] if self.guide == "point" else SETTINGS[self.net, self.prior]
        return with_given(recipe, self)
