"""Variational autoencoders: trained, tested by their log evidence, looked at.

python -m models.vae --data digits
"""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pyro_bdl as bdl
from models import latent_figures as figures
from models.latent_networks import begin_at, convolutional_decoder, convolutional_encoder, dense
from models.schedules import falling, warmup_epochs
from models.tables import report
from pyro_bdl.errors import InputError

BURDA = (200, 200)


@dataclass
class Options:
    """Fit a variational autoencoder to black and white images, and estimate the log evidence of the test images."""

    data: Literal["digits", "mnist", "fashion_mnist", "binarized_mnist"] = "digits"
    """the images: scikit-learn's 1,797 digits (embedded), or the full sets; binarised anew each time they are seen, but
    for binarized_mnist, which comes so"""
    data_dir: Path | None = None
    """where the files of the full sets are; else PYRO_BDL_DATA, else they are downloaded"""
    out: Path = Path("out/vae")
    """where the table, the figures, the weights and the ArviZ data are written"""
    seed: int = 0
    """seeds the networks' initial values, the order of the data and all noise"""
    evaluate: Literal["test", "validation"] = "test"
    """the part that the table is about; both stay out of training"""
    objective: Literal["elbo", "monte-carlo", "score-function", "iwae", "dreg"] = "elbo"
    """the bound that is maximised"""
    samples: int = 1
    """draws of the latent variables for each image"""
    network: Literal["dense", "convolutional"] = "dense"
    """dense: two hidden layers of 200 tanh units each way (Burda et al. 2016)"""
    layers: Literal[1, 2] = 1
    """stochastic layers; the second is half as large, with hidden layers of 100 units (dense networks only)"""
    latent_size: int = 50
    """latent numbers of an image"""
    decoder_prior: Literal["none", "gaussian", "group-normal-jeffreys"] = "none"
    """random weights of the decoder: a node prior switches off the units and latent numbers that are not needed"""
    beta: float = 1.0
    """the weight of the KL (elbo only)"""
    free_bits: float = 0.0
    """nats that each latent number has free (elbo only)"""
    kl_warmup: float = 0.0
    """the share of the epochs over which the KL comes in (elbo only)"""
    epochs: int | None = None
    """default by data set"""
    learning_rate: float = 1e-3
    """Adam's first learning rate, which falls linearly to zero"""
    batch_size: int = 100
    """images of a batch"""
    log_marginal_samples: int = 5000
    """draws for each image's log evidence"""
    start: Path | None = None
    """weights to begin with, the vae.safetensors of an earlier fit: of the elbo's, say, for iwae"""
    checkpoint: Path | None = None
    """a file from which the same command goes on where it was stopped"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""


EPOCHS = {"digits": 300, "mnist": 400, "fashion_mnist": 400, "binarized_mnist": 400}
PRIORS: dict[str, Any] = {
    "gaussian": lambda: bdl.priors.Gaussian(1.0),
    "group-normal-jeffreys": bdl.priors.GroupNormalJeffreys,
}


def build(options: Options, x: Tensor) -> bdl.VariationalAutoencoder:
    """The autoencoder of images like x."""
    pixels, size = math.prod(x.shape[1:]), options.latent_size
    if options.network == "convolutional":
        encoder: Any = convolutional_encoder(x.shape[1:], 2 * size)
        decoder: Any = convolutional_decoder(size, x.shape[1:])
    else:
        encoder = dense([pixels, *BURDA, 2 * size])
        decoder = begin_at(dense([size, *reversed(BURDA), pixels]), x.mean(0))
    if options.decoder_prior != "none":
        decoder = bdl.BayesianModule(decoder, PRIORS[options.decoder_prior](), name="decoder")
    sizes: Any = size
    if options.layers == 2:
        top = size // 2
        encoder = [encoder, dense([size, 100, 100, 2 * top])]
        decoder, sizes = [decoder, dense([top, 100, 100, 2 * size])], [size, top]
    score = options.objective == "score-function"
    return bdl.VariationalAutoencoder(
        encoder, decoder, sizes, gradient="score-function" if score else "reparameterised",
        baseline=nn.Sequential(dense([pixels, 100, 1]), nn.Flatten(0)) if score else None,
    )  # fmt: skip


def fit(options: Options, x: Tensor) -> tuple[bdl.VariationalAutoencoder, Any]:
    """The fitted autoencoder, and how it got there.

    Raises:
        InputError: it shall begin with weights of other networks, or options do not go together.
    """
    torch.manual_seed(options.seed)
    vae = build(options, x)
    if options.start is not None:
        begin_with(vae, options.start)
    bound = bdl.objective(
        options.objective, num_samples=options.samples, beta=options.beta, free_bits=options.free_bits
    )
    epochs = EPOCHS[options.data] if options.epochs is None else options.epochs
    fixed = options.data == "binarized_mnist"
    history = bdl.fit_svi(
        vae.model, vae.guide,
        (x,) if fixed else bdl.data.DynamicallyBinarized(x, batch_size=options.batch_size),
        batch_size=options.batch_size if fixed else None,
        epochs=epochs,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=options.learning_rate, fused=True),
        schedule=falling, elbo=bound, kl_warmup=warmup_epochs(options.kl_warmup, epochs),
        checkpoint=options.checkpoint, seed=options.seed, progress=options.progress,
    )  # fmt: skip
    return vae, history


def begin_with(vae: bdl.VariationalAutoencoder, file: Path) -> None:
    """Take the weights of an earlier fit, by whatever bound: a baseline, which only one of them has, stays as it is.

    Raises:
        InputError: no file of weights, or those of other networks.
    """
    try:
        held = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError("start", expected="a safetensors file of weights", got=f"{file}: {error}") from error
    weights = {name: value for name, value in held.items() if not name.startswith("baseline.")}
    baseline = {name: value for name, value in vae.state_dict().items() if name.startswith("baseline.")}
    try:
        vae.load_state_dict(weights | baseline)
    except RuntimeError as error:
        raise InputError(
            "start", expected="weights of networks of these sizes", got=str(file),
            remedy="Give the sizes with which they were fitted",
        ) from error  # fmt: skip


def run(options: Options) -> list[dict[str, Any]]:
    """Fit, evaluate, draw; the rows of the table."""
    options.out.mkdir(parents=True, exist_ok=True)
    parts = bdl.data.load(options.data, root=options.data_dir, seed=0)
    on_test = options.evaluate == "test"
    grey, labels = (parts.x_test, parts.y_test) if on_test else (parts.x_validation, parts.y_validation)
    held = grey if options.data == "binarized_mnist" else bdl.data.binarized(grey, seed=0)
    vae, history = fit(options, parts.x_train)
    save_file(vae.state_dict(), options.out / "vae.safetensors")
    begin = time.perf_counter()
    evidence = bdl.log_marginal(
        vae.model, vae.guide, held, num_samples=options.log_marginal_samples, progress=options.progress
    )
    numbers = bdl.diagnostics.latent_kl(vae.model, vae.guide, held)
    row = {
        "objective": f"{options.objective}, {options.samples}",
        "-log p(x), nats": -evidence.mean, "standard error": evidence.standard_error,
        "gap of the ELBO": float((evidence.value - evidence.bound).mean()),
        "active numbers": sum(int((kl > figures.ACTIVE).sum()) for kl in numbers.values()),
        "KL, nats": sum(float(kl.sum()) for kl in numbers.values()),
        "least ESS": float(evidence.effective_sample_size.min()),
        "k-hat > 0.7, %": 100 * float((evidence.pareto_k > 0.7).float().mean()),
        "fit, s": history.seconds, "evidence, s": time.perf_counter() - begin,
    }  # fmt: skip
    console = Console(width=160)
    title = f"{options.data}, {options.evaluate}"
    report([row], title=title, name="vae", out=options.out, settings=asdict(options), console=console)
    figures.draw(vae, held, labels, history.losses, numbers, options.out)
    console.print(f"table, figures, weights and ArviZ data are in {options.out}/")
    return [row]


def main() -> None:
    """The command line."""
    run(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
