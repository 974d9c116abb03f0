"""Settings of the semi-supervised autoencoders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Variant = Literal["m1", "m2", "m1+m2"]
Classifier = Literal["dense", "convolutional"]


@dataclass(frozen=True)
class Fit:
    """How a model is built and fitted."""

    epochs: int
    hidden: tuple[int, ...]
    latent_size: int
    learning_rate: float
    batch_size: int
    kl_warmup: float


@dataclass(frozen=True)
class Changes:
    """Of how a model is built and fitted; by data set and variant where nothing is told."""

    epochs: int | None = None
    """rounds of all images"""
    hidden: tuple[int, ...] | None = None
    """units of each network's hidden layers"""
    latent_size: int | None = None
    """latent numbers of an image"""
    learning_rate: float | None = None
    """Adam's first learning rate, which falls linearly to zero"""
    batch_size: int | None = None
    """unlabelled images of a batch"""
    kl_warmup: float | None = None
    """the share of the epochs over which the KL comes in, so that z comes to be used; while z is free, the class says
    nothing"""


@dataclass
class Options:
    """Learn ten classes of images of which only some have labels, and report the test error."""

    data: Literal["digits", "mnist"] = "digits"
    """the images: scikit-learn's 1,797 digits (embedded), or MNIST; binarised anew each time they are seen"""
    data_dir: Path | None = None
    """where the files of the full set are; else PYRO_BDL_DATA, else they are downloaded"""
    labels: int = 100
    """labelled images, as many of each class, drawn by the seed; all others of the training set are unlabelled"""
    variant: Variant = "m2"
    """m1: a classifier of an autoencoder's latent variables; m2: a class beside the style; m1+m2: m2 of m1's latent
    variables"""
    classifier: Classifier = "dense"
    """of m2; dense: of what m2 observes; convolutional: of the images, which it is shown distorted at random"""
    out: Path = Path("out/semi_supervised_vae")
    """where the table, the figures, the weights and the ArviZ data are written"""
    seed: int = 0
    """seeds the labelled subset, the networks' initial values, the order of the data and all noise"""
    evaluate: Literal["test", "validation"] = "test"
    """the part that the table is about; both stay out of training"""
    alpha: float | None = None
    """the weight of classification, in units of all data points; default by data set, variant and classifier"""
    labelled_batch_size: int = 100
    """labelled images beside them"""
    checkpoint: Path | None = None
    """the beginning of files, one for each model, data set, seed and weight of classification, from which the same
    command goes on where it was stopped"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""
    m1: Changes = Changes()
    m2: Changes = Changes()


M1: dict[str, Fit] = {
    "digits": Fit(200, (200, 200), 50, 3e-3, 200, kl_warmup=0.1),
    "mnist": Fit(150, (200, 200), 20, 2e-3, 100, kl_warmup=0.1),
}

M2: dict[tuple[str, Variant, Classifier], Fit] = {
    ("digits", "m2", "dense"): Fit(150, (200,), 50, 3e-3, 200, kl_warmup=0.1),
    ("digits", "m2", "convolutional"): Fit(150, (200,), 50, 2e-3, 200, kl_warmup=0.1),
    ("digits", "m1+m2", "dense"): Fit(150, (200,), 50, 3e-3, 200, kl_warmup=0.1),
    ("digits", "m1+m2", "convolutional"): Fit(150, (200,), 50, 2e-3, 200, kl_warmup=0.1),
    ("mnist", "m2", "dense"): Fit(60, (500,), 50, 1e-3, 200, kl_warmup=0.1),
    ("mnist", "m2", "convolutional"): Fit(15, (200,), 50, 2e-3, 200, kl_warmup=0),
    ("mnist", "m1+m2", "dense"): Fit(250, (300,), 8, 3e-3, 200, kl_warmup=0.1),
    ("mnist", "m1+m2", "convolutional"): Fit(30, (300,), 8, 2e-3, 200, kl_warmup=0),
}

ALPHA = {("mnist", "m2", "convolutional"): 2.0}  # else 0.1, that of the paper
