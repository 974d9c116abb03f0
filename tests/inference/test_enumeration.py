"""Classes that a guide enumerates: MeanFieldELBO against a sum written out, and against Pyro's TraceEnum_ELBO."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

import pyro_bdl as bdl
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.inference.enumeration import Enumeration
from pyro_bdl.minibatches import Batch
from tests.latent.programs import CLASSES, LATENT, PIXELS, black_and_white, semi_supervised
from tests.statistics import Mismatch, means_agree

X = black_and_white(5, PIXELS)
X_LABELLED, Y = black_and_white(4, PIXELS, seed=3), torch.tensor([0, 2, 1, 2])
N, LABELLED, ALPHA = 50, 12, 0.3
PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def m2(*, exact_kl: bool = False) -> bdl.SemiSupervisedVAE:
    vae = semi_supervised(class_probabilities=PRIOR, size=N)
    if exact_kl:  # q(z | x, y) is the prior, so that the KL of every draw is 0, like the closed form
        for parameter in vae.encoder.parameters():
            torch.nn.init.zeros_(parameter)
    return vae


def labelled_terms(vae: bdl.SemiSupervisedVAE, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """log p(x | y, z) + log p(y) - KL(q(z | x, y) || p(z)) of each row, for z made of this noise (..., B, D)."""
    codes = one_hot(y, CLASSES).double()
    mean, log_variance = vae.encoder(x, codes).chunk(2, -1)
    z = mean + (0.5 * log_variance).exp() * noise
    logits = vae.decoder(z, codes)
    log_p = -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(-1)
    return log_p + PRIOR.log()[y] - kl


def unlabelled_terms(vae: bdl.SemiSupervisedVAE, x: Tensor, noise: Tensor) -> Tensor:
    """The sum over classes; noise (C, B, D)."""
    log_q = vae.classifier(x).log_softmax(-1)
    each = [labelled_terms(vae, x, torch.full((len(x),), c), noise[c]) - log_q[:, c] for c in range(CLASSES)]
    return sum(log_q[:, c].exp() * each[c] for c in range(CLASSES))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, LATENT, dtype=torch.float64)


# By pair: what it is called with, its model and guide, and its loss written out with the noise that it draws.
PAIRS: dict[str, tuple[tuple[Tensor, ...], Callable[[Any], Any], Callable[[Any], Tensor]]] = {
    "unlabelled": (
        (X,), lambda vae: vae,
        lambda vae: -N / len(X) * unlabelled_terms(vae, X, noise(CLASSES, len(X))).sum(),
    ),
    "labelled": (
        (X_LABELLED, Y), lambda vae: vae,
        lambda vae: -N / len(Y) * labelled_terms(vae, X_LABELLED, Y, noise(len(Y))).sum(),
    ),
    "both": (
        (X, X_LABELLED, Y), lambda vae: bdl.SemiSupervisedPair(vae, size=LABELLED, alpha=ALPHA),
        lambda vae: -N / len(X) * unlabelled_terms(vae, X, noise(CLASSES, len(X))).sum()
        - LABELLED / len(Y) * labelled_terms(vae, X_LABELLED, Y, noise(len(Y))).sum()
        + ALPHA * (N + LABELLED) * cross_entropy(vae.classifier(X_LABELLED), Y),
    ),
}  # fmt: skip


def value_and_gradients(vae: bdl.SemiSupervisedVAE, run: Callable[[], Any], *, seed: int | None = 0) -> Tensor:
    """The loss, as a first number, and its gradients."""
    parameters = list(vae.parameters())
    for parameter in parameters:
        parameter.grad = None
    if seed is not None:
        torch.manual_seed(seed)
    loss = run()
    if isinstance(loss, Tensor):
        loss.backward()
        loss = loss.detach()
    each = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([torch.tensor([float(loss)]).double(), *(part.reshape(-1) for part in each)])


def of_elbo(vae: Any, pair: Any, data: Any, elbo: Any) -> Tensor:
    plate = SubsampleIndices(size=N)  # or the plate would draw the rows, too
    plate.set(Batch(data))
    with plate:
        elbo.loss(pair.model, pair.guide, *data)  # at the first call it looks for the sites and draws more
        return value_and_gradients(vae, lambda: elbo.loss_and_grads(pair.model, pair.guide, *data))


def pyros_elbo(name: str) -> Any:
    return Trace_ELBO() if name == "labelled" else TraceEnum_ELBO(max_plate_nesting=1)


def equals_the_sum(name: str) -> None:
    vae = m2()
    data, pair, by_hand = PAIRS[name]
    got = of_elbo(vae, pair(vae), data, bdl.MeanFieldELBO())
    torch.testing.assert_close(got, value_and_gradients(vae, lambda: by_hand(vae)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_equals_the_sum_over_classes(name: str) -> None:
    """Value and every gradient, with the same noise."""
    equals_the_sum(name)


@pytest.mark.parametrize("name", PAIRS)
def test_equals_pyros_bound_where_its_kl_has_no_noise(name: str) -> None:
    """All but the gradient of the style's encoder, whose KL Pyro estimates from draws."""
    vae = m2(exact_kl=True)
    data, pair, _ = PAIRS[name]
    vae.encoder.requires_grad_(False)
    ours, pyros = (of_elbo(vae, pair(vae), data, elbo) for elbo in (bdl.MeanFieldELBO(), pyros_elbo(name)))
    torch.testing.assert_close(ours, pyros, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_pyros_bound(name: str) -> None:
    """In mean, value and all gradients; Pyro's KL of the style is that of the draws."""
    vae = m2()
    data, pair, _ = PAIRS[name]
    both = pair(vae)
    samples = []
    for elbo in (bdl.MeanFieldELBO(), pyros_elbo(name)):
        step = lambda elbo=elbo: elbo.loss_and_grads(both.model, both.guide, *data)  # noqa: E731
        samples.append(torch.stack([value_and_gradients(vae, step, seed=None) for _ in range(150)]))
    varying = samples[0].std(0) + samples[1].std(0) > 1e-9
    means_agree(*(part[:, varying] for part in samples))
    torch.testing.assert_close(samples[0][0, ~varying], samples[1][0, ~varying])


class _Wrong(Enumeration):
    """Weights of the classes that are not the guide's."""

    @classmethod
    def of(cls, guide_trace: Any) -> Any:
        found = super().of(guide_trace)
        return found and cls(tuple(site._replace(weights=cls.change(site.weights)) for site in found.sites))

    change = staticmethod(lambda weights: weights)


def mutant(change: Callable[[Tensor], Tensor]) -> type[_Wrong]:
    return type("Mutant", (_Wrong,), {"change": staticmethod(change)})


MUTANTS: dict[str, tuple[str, Any]] = {
    "all classes alike": ("pyro_bdl.inference.elbo.Enumeration", mutant(torch.ones_like)),
    "no gradient through q(y)": ("pyro_bdl.inference.elbo.Enumeration", mutant(lambda weights: weights.detach())),
    "the KL not weighed": ("pyro_bdl.inference.kl_terms.expected", lambda term, *_: term),
    "the likelihood not weighed": ("pyro_bdl.inference.elbo.expected", lambda term, *_: term),
    "classes of the prior": (
        "pyro_bdl.latent.semi_supervised.SemiSupervisedVAE.logits", lambda vae, x: vae.classifier(x) * 0.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[name])
    with pytest.raises((AssertionError, Mismatch)):
        equals_the_sum("both")


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_batch_of_one_row_or_of_as_many_as_classes(rows: int) -> None:
    """The dimension of the classes is not taken for that of the data, whatever their sizes."""
    vae = m2()
    got = of_elbo(vae, vae, (X[:rows],), bdl.MeanFieldELBO())
    by_hand = value_and_gradients(vae, lambda: -N / rows * unlabelled_terms(vae, X[:rows], noise(CLASSES, rows)).sum())
    torch.testing.assert_close(got, by_hand, rtol=1e-9, atol=1e-9)
