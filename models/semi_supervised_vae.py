"""Semi-supervised learning with deep generative models: a few labels, many images (Kingma et al. 2014).

python -m models.semi_supervised_vae --data digits --labels 100 --variant m2
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
import tyro
from rich.console import Console
from safetensors.torch import save_file
from sklearn.svm import SVC
from torch import Tensor, nn

import pyro_bdl as bdl
from models import latent_figures, semi_supervised_figures
from models.distortions import distorted
from models.latent_networks import begin_at, convolutional_encoder, dense, summed
from models.published import SEMI_SUPERVISED
from models.recipes import with_given
from models.schedules import falling, warmup_epochs
from models.semi_supervised_settings import ALPHA, M1, M2, Fit, Options
from models.tables import report
from pyro_bdl.errors import InputError

CLASSES = 10


@dataclass
class Problem:
    """Images, and what is known of them.

    Attributes:
        x: training images, grey, all as unlabelled ones.
        x_labelled, y: those with labels.
        x_held, y_held: those on which the classes are predicted.
    """

    options: Options
    x: Tensor
    x_labelled: Tensor
    y: Tensor
    x_held: Tensor
    y_held: Tensor

    @property
    def m1(self) -> Fit:
        """How m1 is built and fitted."""
        return with_given(M1[self.options.data], self.options.m1)

    @property
    def m2(self) -> Fit:
        """How m2 is, of the images or of m1's latent variables."""
        options = self.options
        return with_given(M2[options.data, options.variant, options.classifier], options.m2)

    @property
    def alpha(self) -> float:
        """The weight of classification."""
        options = self.options
        default = ALPHA.get((options.data, options.variant, options.classifier), 0.1)
        return default if options.alpha is None else options.alpha

    @classmethod
    def load(cls, options: Options) -> "Problem":
        """The images, with a balanced subset of labels.

        Raises:
            InputError: a classifier is chosen for m1, which has none to choose; labels that are not balanced.
        """
        if options.variant == "m1" and options.classifier != "dense":
            raise InputError(
                "classifier", expected="m2 or m1+m2, of which it is a part", got="m1, with a support vector machine"
            )
        parts = bdl.data.load(options.data, root=options.data_dir, seed=0)
        rows = bdl.data.balanced(parts.y_train, options.labels, seed=options.seed)
        test = options.evaluate == "test"
        held = (parts.x_test, parts.y_test) if test else (parts.x_validation, parts.y_validation)
        return cls(options, parts.x_train, parts.x_train[rows], parts.y_train[rows], *held)


def fit(problem: Problem, how: Fit, program: Any, data: Any, name: str) -> Any:
    """Fit a pair of model and guide."""
    options = problem.options
    file = options.checkpoint
    checkpoint = None if file is None else file.with_name(f"{file.name}.{options.data}-{options.seed}-{name}")
    return bdl.fit_svi(
        program.model, program.guide, data, epochs=how.epochs, estimator="plain",
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=how.learning_rate, fused=True),
        schedule=falling, kl_warmup=warmup_epochs(how.kl_warmup, how.epochs), checkpoint=checkpoint,
        seed=options.seed, progress=options.progress,
    )  # fmt: skip


def fit_m1(problem: Problem) -> tuple[bdl.VariationalAutoencoder, Any]:
    """An autoencoder of all images, labelled or not."""
    how, pixels = problem.m1, math.prod(problem.x.shape[1:])
    encoder = dense([pixels, *how.hidden, 2 * how.latent_size])
    decoder = dense([how.latent_size, *reversed(how.hidden), pixels])
    vae = bdl.VariationalAutoencoder(encoder, begin_at(decoder, problem.x.mean(0)), how.latent_size, name="m1")
    return vae, fit(problem, how, vae, bdl.data.DynamicallyBinarized(problem.x, batch_size=how.batch_size), "m1")


def build_classifier(problem: Problem, inputs: int) -> nn.Module:
    """Of so many inputs, or of images."""
    if problem.options.classifier == "convolutional":
        return convolutional_encoder(problem.x.shape[1:], CLASSES, width=16)
    return dense([inputs, *problem.m2.hidden, CLASSES], nn.ReLU)


def build_m2(problem: Problem, inputs: int, likelihood: bdl.latent.Likelihood) -> bdl.SemiSupervisedVAE:
    """Classifier, encoder and decoder of inputs of so many numbers."""
    hidden, size = problem.m2.hidden, problem.m2.latent_size
    return bdl.SemiSupervisedVAE(
        build_classifier(problem, inputs),
        summed([inputs, CLASSES], [*hidden, 2 * size], nn.ReLU),
        summed([size, CLASSES], [*reversed(hidden), likelihood.numbers * inputs], nn.ReLU),
        size, classes=CLASSES, likelihood=likelihood, name="m2",
    )  # fmt: skip


def fit_m2(problem: Problem, vae: bdl.SemiSupervisedVAE, x: Tensor, x_labelled: Tensor, draw: Any) -> Any:
    """Fit m2 to all inputs beside the labelled ones."""
    options, how = problem.options, problem.m2
    convolutional = options.classifier == "convolutional"
    pair = bdl.SemiSupervisedPair(vae, size=len(x_labelled), alpha=problem.alpha)
    data = bdl.data.BesideLabelled(
        x, x_labelled, problem.y, batch_size=how.batch_size, labelled_batch_size=options.labelled_batch_size,
        draw=draw, images=(problem.x, problem.x_labelled) if convolutional else None, show=distorted,
    )  # fmt: skip
    return fit(problem, how, pair, data, f"{options.variant}-{options.classifier}-{options.labels}-{problem.alpha}")


def run_m1(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """Classes by a support vector machine of the latent means; what else there is to report."""
    vae, history = fit_m1(problem)
    machine = SVC(C=10.0).fit(vae.encode(problem.x_labelled).mean.numpy(), problem.y.numpy())
    predicted = torch.as_tensor(machine.predict(vae.encode(problem.x_held).mean.numpy()))
    return predicted, {"m1": vae, "losses": history.losses, "seconds": history.seconds}


def run_m2(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """Classes by the classifier of m2."""
    vae = build_m2(problem, math.prod(problem.x.shape[1:]), bdl.latent.Bernoulli())
    history = fit_m2(problem, vae, problem.x, problem.x_labelled, torch.bernoulli)
    return vae.classify(problem.x_held), {"m2": vae, "losses": history.losses, "seconds": history.seconds}


def run_m1_m2(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """Classes by the classifier of m2 of m1's latent variables; if it is one of these, averaged over draws of them."""
    m1, first = fit_m1(problem)
    m2 = build_m2(problem, problem.m1.latent_size, bdl.latent.Gaussian())
    history = fit_m2(problem, m2, posterior(m1, problem.x), posterior(m1, problem.x_labelled), drawn)
    found = {"m1": m1, "m2": m2, "losses": history.losses, "seconds": first.seconds + history.seconds}
    if problem.options.classifier == "convolutional":
        return m2.classify(problem.x_held), found
    held = posterior(m1, problem.x_held)
    with torch.no_grad():
        probabilities = sum(m2.classifier(drawn(held)).softmax(-1) for _ in range(50))
    return probabilities.argmax(-1), found


def posterior(m1: bdl.VariationalAutoencoder, x: Tensor) -> Tensor:
    """Means and deviations (N, 2, D) of m1's latent variables."""
    law = m1.encode(x)
    return torch.stack([law.mean, law.stddev], 1)


def drawn(posterior: Tensor) -> Tensor:
    """A draw of each normal, from means and deviations (N, 2, D)."""
    mean, scale = posterior.unbind(1)
    return mean + scale * torch.randn_like(scale)


VARIANTS = {"m1": run_m1, "m2": run_m2, "m1+m2": run_m1_m2}


def run(options: Options) -> list[dict[str, Any]]:
    """Fit, tell the classes, draw; the rows of the table."""
    options.out.mkdir(parents=True, exist_ok=True)
    problem = Problem.load(options)
    begin = time.perf_counter()
    torch.manual_seed(options.seed)
    predicted, found = VARIANTS[options.variant](problem)
    method = options.variant if options.classifier == "dense" else f"{options.variant}, {options.classifier}"
    row = {
        "method": f"{method}, seed {options.seed}", "labels": options.labels,
        "error %": 100 * float((predicted != problem.y_held).float().mean()),
        "fit, s": found["seconds"], "in all, s": time.perf_counter() - begin,
    }  # fmt: skip
    published = [
        {"method": f"published: {name}", "labels": options.labels, "error %": errors[options.labels]}
        for name, errors in SEMI_SUPERVISED.items()
        if options.data == "mnist" and options.labels in errors
    ]
    console = Console(width=120)
    report(
        [row, *published], title=f"{options.data}, {options.evaluate}", name="semi_supervised_vae", out=options.out,
        settings=asdict(options) | {"alpha": problem.alpha}, console=console,
    )  # fmt: skip
    for name in found.keys() & {"m1", "m2"}:
        save_file(found[name].state_dict(), options.out / f"{name}.safetensors")
    semi_supervised_figures.draw(problem.x_held, problem.y_held, predicted, found, options.out)
    latent_figures.bound(found["losses"]).savefig(options.out / "bound.png", bbox_inches="tight")
    console.print(f"table, figures, weights and ArviZ data are in {options.out}/")
    return [row, *published]


def main() -> None:
    """The command line."""
    run(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
