"""What a step of an autoencoder costs: `python -m tests.benchmarks.bench_latent [--threads 1]`.

The VAE has a decoder of 784-200-200 and 50 latent numbers (Burda et al. 2016) and batches of 200. M2 has hidden layers
of 500 units and 50 latent numbers, 200 unlabelled and 100 labelled images a step, ten classes enumerated. Each is
interleaved with the same mathematics by hand (fused Adam, the image's part of the encoder's first layer computed once),
and M2 also with Pyro's usual way: `TraceEnum_ELBO`, `pyro.optim`, networks of concatenated inputs, the images repeated
for each class, one `SVI` for the bound and one for classification, unlabelled and labelled batches in turns.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn

import pyro_bdl as bdl
from models.latent_networks import dense, summed
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.inference.guide_step import GuideStep
from pyro_bdl.minibatches import Batch
from tests.benchmarks.bench_sgmcmc import milliseconds

CLASSES, PIXELS, LATENT, HIDDEN = 10, 784, 50, 500
N, ALPHA, LABELLED = 50_000, 0.1, 100
X = torch.bernoulli(torch.full((200, PIXELS), 0.2))
X_LABELLED, Y = torch.bernoulli(torch.full((LABELLED, PIXELS), 0.2)), torch.arange(LABELLED) % CLASSES


def ours(program: Any, batch: Batch) -> Callable[[], Any]:
    """A step as `fit_svi` takes it."""
    step = GuideStep(program.model, program.guide, bdl.MeanFieldELBO(), SubsampleIndices(size=N, plate="data"), batch)
    optimizer = torch.optim.Adam(step.parameters, lr=1e-4, fused=True)

    def run() -> None:
        with pyro.validation_enabled(False):
            step(batch, 1.0)
        optimizer.step()

    return run


def by_hand(modules: list[nn.Module], loss: Callable[[], Tensor]) -> Callable[[], Any]:
    optimizer = torch.optim.Adam([p for module in modules for p in module.parameters()], lr=1e-4, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        float(value)
        optimizer.step()

    return run


def normal(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """A draw of N(mean, exp(log-variance)), and its KL from N(0, 1)."""
    mean, log_variance = outputs.chunk(2, -1)
    variance = log_variance.exp()
    draw = mean + variance.sqrt() * torch.randn_like(mean)
    return draw, 0.5 * (mean.square() + variance - log_variance - 1).sum(-1)


def misfit(logits: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def vae() -> dict[str, Callable[[], Any]]:
    def networks() -> tuple[nn.Module, nn.Module]:
        return dense([PIXELS, 200, 200, 2 * LATENT]), dense([LATENT, 200, 200, PIXELS])

    own, (encoder, decoder) = bdl.VariationalAutoencoder(*networks(), LATENT), networks()

    def loss() -> Tensor:
        z, kl = normal(encoder(X))
        return N / len(X) * (F.binary_cross_entropy_with_logits(decoder(z), X, reduction="sum") + kl.sum())

    return {"ours": ours(own, Batch((X,))), "by hand": by_hand([encoder, decoder], loss)}


def m2() -> dict[str, Callable[[], Any]]:
    def networks() -> tuple[nn.Module, nn.Module, nn.Module]:
        return (
            dense([PIXELS, HIDDEN, CLASSES], nn.Softplus),
            summed([PIXELS, CLASSES], [HIDDEN, 2 * LATENT]),
            summed([LATENT, CLASSES], [HIDDEN, PIXELS]),
        )

    own = bdl.SemiSupervisedVAE(*networks(), LATENT, classes=CLASSES)
    classifier, encoder, decoder = networks()
    every = F.one_hot(torch.arange(CLASSES), CLASSES).float()[:, None]
    known = F.one_hot(Y, CLASSES).float()

    def loss() -> Tensor:
        logits = classifier(X).log_softmax(-1)
        q = logits.exp()
        z, kl = normal(encoder(X, every))
        each = misfit(decoder(z, every), X) + kl
        unlabelled = (q.T * each).sum() + (q * (logits - torch.tensor(0.1).log())).sum()
        z, kl = normal(encoder(X_LABELLED, known))
        labelled = (misfit(decoder(z, known), X_LABELLED) + kl - torch.tensor(0.1).log()).sum()
        classes = F.cross_entropy(classifier(X_LABELLED), Y, reduction="sum")
        return N / len(X) * unlabelled + labelled + ALPHA * (N + LABELLED) / LABELLED * classes

    pair = bdl.SemiSupervisedPair(own, size=LABELLED, alpha=ALPHA)
    return {
        "ours": ours(pair, Batch((X, X_LABELLED, Y))),
        "by hand": by_hand([classifier, encoder, decoder], loss),
        "Pyro's way": pyros_way(),
    }


def pyros_way() -> Callable[[], Any]:
    classifier = dense([PIXELS, HIDDEN, CLASSES], nn.Softplus)
    encoder = nn.Sequential(nn.Linear(PIXELS + CLASSES, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT + CLASSES, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, PIXELS))

    def joined(*parts: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)

    def model(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.full((len(x), CLASSES), 0.1)), obs=y)
            pyro.sample("x", dist.Bernoulli(logits=decoder(joined(z, y))).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("classifier", classifier)
        pyro.module("encoder", encoder)
        with pyro.plate("data"):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=classifier(x)))
            mean, log_variance = encoder(joined(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1))

    def model_classify(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("classifier", classifier)
        with pyro.plate("data"):
            if y is not None:
                with pyro.poutine.scale(scale=ALPHA * N / LABELLED):
                    pyro.sample("class", dist.OneHotCategorical(logits=classifier(x)), obs=y)

    def guide_classify(x: Tensor, y: Tensor | None = None) -> None:
        pass

    adam = pyro.optim.Adam({"lr": 1e-4})
    bound = SVI(model, config_enumerate(guide, "parallel", expand=True), adam, TraceEnum_ELBO(max_plate_nesting=1))
    classification = SVI(model_classify, guide_classify, adam, Trace_ELBO())
    known = F.one_hot(Y, CLASSES).float()

    def run() -> None:
        for args in ((X,), (X_LABELLED, known)):
            bound.step(*args)
            classification.step(*args)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} thread(s), torch {torch.__version__}")
    for name, make in (("VAE 200-200-50, batch 200", vae), ("M2 500-50, 200 + 100 images", m2)):
        pyro.clear_param_store()
        contestants = make()
        for run in contestants.values():
            milliseconds(run, 3)
        rounds = [{who: milliseconds(run, 10) for who, run in contestants.items()} for _ in range(options.rounds)]
        ms = {who: statistics.median(r[who] for r in rounds) for who in contestants}
        for who in contestants:
            if who != "ours":
                ratio = statistics.median(r["ours"] / r[who] for r in rounds)
                print(f"{name}: ours {ms['ours']:.2f} ms, {who} {ms[who]:.2f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
