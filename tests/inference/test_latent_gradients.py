"""Gradients of the bounds of autoencoders: unbiased, whatever the estimator, and what is said of their variance."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.inference import importance_weighted
from pyro_bdl.inference.kl_terms import kl_terms
from pyro_bdl.latent import Gaussian, networks
from pyro_bdl.minibatches import Batch
from pyro_bdl.particles import Weighed
from tests.inference.latent_gradients import by_hand, gradient, gradients
from tests.latent.programs import NOISE, PIXELS, LinearGaussian, conditional, hierarchical, rows, semi_supervised
from tests.statistics import Mismatch, mean_is, means_agree

X = rows(3)
CALLS, REPEATS = 30, 500


def network_baseline() -> nn.Module:
    return nn.Sequential(nn.Linear(PIXELS, 1), nn.Flatten(0)).double()


class Nothing(nn.Module):
    """The baseline that is none."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


# Of each estimator the options of the autoencoder, the bound, and how many draws it has.
ESTIMATORS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], Any], int]] = {
    "elbo": (dict, lambda: bdl.objective("elbo"), 1),
    "elbo, two draws": (dict, lambda: bdl.objective("elbo", num_samples=2), 1),
    "monte-carlo": (dict, lambda: bdl.objective("monte-carlo"), 1),
    "score-function": (lambda: {"gradient": "score-function"}, lambda: bdl.objective("score-function"), 1),
    "score-function, network": (
        lambda: {"gradient": "score-function", "baseline": network_baseline()},
        lambda: bdl.objective("score-function"), 1,
    ),
    "iwae 1": (dict, lambda: bdl.objective("iwae", num_samples=1), 1),
    "dreg 1": (dict, lambda: bdl.objective("dreg", num_samples=1), 1),
    "iwae 3": (dict, lambda: bdl.objective("iwae", num_samples=3), 3),
    "dreg 3": (dict, lambda: bdl.objective("dreg", num_samples=3), 3),
}  # fmt: skip


def agrees(name: str) -> None:
    """The gradients of an estimator have the mean that they should."""
    options, elbo, draws = ESTIMATORS[name]
    problem = LinearGaussian.example()
    found = gradients(elbo(), problem.vae(**options()), [X], problem.parameters, calls=CALLS, repeats=REPEATS)
    if draws == 1:
        exact = by_hand(problem.bound, [X], problem.parameters, calls=1, repeats=1)[0]
        mean_is(found, exact)
    else:
        long = by_hand(
            lambda x: problem.draws_bound(x, draws), [X], problem.parameters, calls=CALLS, repeats=6 * REPEATS
        )
        means_agree(found, long)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_unbiased(name: str) -> None:
    agrees(name)


def of_terms(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda *args, **options: ((site, change(term)) for site, term in kl_terms(*args, **options))


def score(factor: float) -> Callable[..., Any]:
    def score_parts(self: Any, value: Tensor, *_: Any, **__: Any) -> ScoreParts:
        log_prob = self.log_prob(value)
        return ScoreParts(log_prob, factor * log_prob, 0)

    return score_parts


def log_sigma_for_log_variance(outputs: Tensor, size: int, what: str, kind: Any = networks.dist.Normal) -> Any:
    mean, log_sigma = outputs.chunk(2, -1)
    return kind(mean, log_sigma.exp()).to_event(1)


def scaled(factor: float) -> Callable[..., Any]:
    def weighed(*args: Any, **options: Any) -> Weighed:
        draws = importance_weighted_weighed(*args, **options)
        return draws._replace(scale=factor * draws.scale)

    return weighed


importance_weighted_weighed = importance_weighted.weighed
BOUND, IWAE = "pyro_bdl.inference.elbo.", "pyro_bdl.inference.importance_weighted."
MUTANTS: dict[str, tuple[str, str, Any]] = {
    "N/B missing on the KL": ("elbo", f"{BOUND}kl_terms", of_terms(lambda term: term / 2)),
    "the KL's sign": ("elbo", f"{BOUND}kl_terms", of_terms(lambda term: -term)),
    "no KL": ("elbo, two draws", f"{BOUND}kl_terms", of_terms(lambda term: 0.0 * term)),
    "log sigma for log variance": ("elbo", "pyro_bdl.latent.vae.normal_of", log_sigma_for_log_variance),
    "log sigma for log variance, draws": ("monte-carlo", "pyro_bdl.latent.vae.normal_of", log_sigma_for_log_variance),
    "the score term twice": ("score-function", "pyro.distributions.Independent.score_parts", score(2.0)),
    "half the score term": ("score-function, network", "pyro.distributions.Independent.score_parts", score(0.5)),
    "N/B missing": ("iwae 1", f"{IWAE}weighed", scaled(0.5)),
    "the mean of logarithms": ("iwae 3", f"{IWAE}log_mean_exp", lambda log_weights: log_weights.mean(0)),
    "weights not squared": ("dreg 3", f"{IWAE}_weigh_gradient", lambda draws, normalised: None),
    "weights squared for the model, too": (
        "dreg 3", f"{IWAE}_weigh_gradient",
        lambda draws, normalised: draws.log_weights.register_hook(lambda gradient: gradient * normalised),
    ),
    "the score term left in": ("dreg 3", f"{IWAE}detached", lambda law: law),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, target, replacement = MUTANTS[mutant]
    monkeypatch.setattr(target, replacement)
    with pytest.raises(Mismatch):
        agrees(name)


def two_layers_by_hand(vae: bdl.VariationalAutoencoder) -> Callable[[Tensor], Tensor]:
    normal = torch.distributions.Normal

    def law(outputs: Tensor) -> Any:
        mean, log_variance = outputs.chunk(2, -1)
        return normal(mean, (0.5 * log_variance).exp())

    def bound(x: Tensor) -> Tensor:
        q1 = law(vae.encoder[0](x))
        z1 = q1.rsample()
        q2 = law(vae.encoder[1](z1))
        z2 = q2.rsample()
        log_p = normal(vae.decoder[0](z1), vae.likelihood.scale).log_prob(x).sum(-1)
        log_p = log_p + law(vae.decoder[1](z2)).log_prob(z1).sum(-1) + normal(0.0, 1.0).log_prob(z2).sum(-1)
        return log_p - q1.log_prob(z1).sum(-1) - q2.log_prob(z2).sum(-1)

    return bound


LAYERED = ["elbo", "monte-carlo", "score-function", "iwae 1"]


def layered_agrees(name: str) -> None:
    options, elbo, _ = ESTIMATORS[name]
    vae = hierarchical(**options())
    parameters = [*vae.encoder.parameters(), *vae.decoder.parameters()]
    found = gradients(elbo(), vae, [X], parameters, calls=CALLS, repeats=REPEATS)
    means_agree(found, by_hand(two_layers_by_hand(vae), [X], parameters, calls=CALLS, repeats=6 * REPEATS))


@pytest.mark.parametrize("name", LAYERED)
def test_two_stochastic_layers(name: str) -> None:
    layered_agrees(name)


def test_the_closed_form_of_a_site_that_its_prior_has_learned_from_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """KL(q(z1 | x) || p(z1 | z2)) with z2 drawn from q(z2 | z1) is not the term of z1."""
    monkeypatch.setattr("pyro_bdl.inference.kl_terms.turned", lambda *_: set())
    with pytest.raises(Mismatch):
        layered_agrees("elbo")


@pytest.mark.parametrize("name", ["elbo", "monte-carlo", "score-function", "iwae 1", "dreg 1"])
def test_conditional(name: str) -> None:
    options, elbo, _ = ESTIMATORS[name]
    vae, context = conditional(**options()), rows(3, 2, seed=5)
    parameters = [*vae.encoder.parameters(), *vae.decoder.parameters()]

    def bound(x: Tensor, c: Tensor) -> Tensor:
        mean, log_variance = vae.encoder[0](x, c).chunk(2, -1)
        w, noise = vae.decoder[0].network.weight[:, :2], vae.likelihood.scale
        squares = (x - vae.decoder[0](mean, c)).square().sum(-1) + (log_variance.exp() * w.square().sum(0)).sum(-1)
        return -0.5 * (squares / noise**2 + (mean.square() + log_variance.exp() - log_variance).sum(-1))

    found = gradients(elbo(), vae, [X, context], parameters, calls=CALLS, repeats=REPEATS)
    mean_is(found, by_hand(bound, [X, context], parameters, calls=1, repeats=1)[0])


def bayesian(**options: Any) -> tuple[bdl.VariationalAutoencoder, list[nn.Parameter], Tensor]:
    """An autoencoder with a Bayesian linear decoder, what it learns, and the exact gradient of its bound.

    The loss is 2 (N/B) times that of the rows plus the KL of the weights, once.
    """
    problem = LinearGaussian.example()
    decoder = bdl.BayesianModule(problem.decoder, bdl.priors.Gaussian(0.2))
    vae = bdl.VariationalAutoencoder(problem.encoder, decoder, 2, likelihood=Gaussian(NOISE), **options)
    vae.weights()
    posterior: Any = vae.weights.guide
    posterior.log_variance.data.uniform_(-3.0, -1.0)
    learned = [*problem.encoder.parameters(), posterior.loc, posterior.log_variance]
    (w, wv), (b, bv) = posterior.moments()
    mean, log_variance = problem.encoder(X).chunk(2, -1)
    variance = log_variance.exp()
    squares = (X - mean @ w.T - b).square() + variance @ (w.square() + wv).T + mean.square() @ wv.T + bv
    normal = torch.distributions.Normal
    own = [normal(m, v.sqrt()) for m, v in ((w, wv), (b, bv))]
    kl = sum(torch.distributions.kl_divergence(q, normal(0.0 * q.loc, 0.2)).sum() for q in own)
    loss = 2.0 * (0.5 * squares.sum() / NOISE**2 + problem.kl(X).sum()) + kl
    return vae, learned, torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, learned)])


BAYESIAN = {
    "elbo": bdl.MeanFieldELBO, "elbo, local": bdl.MeanFieldELBO,
    "monte-carlo": lambda: bdl.objective("monte-carlo"), "iwae 1": lambda: bdl.objective("iwae"),
}  # fmt: skip


def bayesian_agrees(name: str) -> None:
    vae, learned, exact = bayesian()
    pair = SimpleNamespace(model=vae.model, guide=vae.guide)
    if "local" in name:
        pair.guide = bdl.local_reparameterization(vae.guide, model=vae.model)
    found = []
    for _ in range(300):  # the weights are drawn once a call, for all repetitions of a row
        for parameter in learned:
            parameter.grad = None
        with SubsampleIndices(size=6) as plate:
            plate.set(Batch((X,)))
            BAYESIAN[name]().loss_and_grads(pair.model, pair.guide, X)
        found.append(torch.cat([gradient(parameter).reshape(-1) for parameter in learned]))
    mean_is(torch.stack(found), exact)


@pytest.mark.parametrize("name", BAYESIAN)
def test_bayesian_decoder(name: str) -> None:
    bayesian_agrees(name)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_kl_of_random_weights_counts_once(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """N/B, or its inverse, on it is caught."""

    def mutant(*args: Any, **options: Any) -> Any:
        return ((site, term if site == "z" else factor * term) for site, term in kl_terms(*args, **options))

    monkeypatch.setattr(f"{BOUND}kl_terms", mutant)
    with pytest.raises(Mismatch):
        bayesian_agrees("elbo, local")


def test_dreg_has_no_variance_at_the_exact_posterior() -> None:
    """There all weights are equal, and the gradient of a weight by its draw is zero; the score term is what varies."""
    problem = LinearGaussian.example().be_exact()
    encoder = list(problem.encoder.parameters())
    found = {
        name: gradients(ESTIMATORS[name][1](), problem.vae(), [X], encoder, calls=20, repeats=10)
        for name in ("iwae 3", "dreg 3")
    }
    assert np.abs(found["dreg 3"]).max() < 1e-9
    assert found["iwae 3"].std(0).min() > 1e-2


def test_the_signal_to_noise_ratio_of_dreg_does_not_fall_with_k() -> None:
    """Of the guide's gradient: Rainforth et al. (2018) have it fall as 1/sqrt(K), Tucker et al. (2019) rise."""
    problem = LinearGaussian.example()
    encoder = list(problem.encoder.parameters())

    def ratio(name: Any, k: int) -> float:
        elbo = bdl.objective(name, num_samples=k)
        found = gradients(elbo, problem.vae(), [X], encoder, calls=150, repeats=10)
        return float((np.abs(found.mean(0)) / found.std(0)).mean())

    assert ratio("iwae", 64) < 0.5 * ratio("iwae", 1)
    assert ratio("dreg", 64) > ratio("dreg", 1)


@pytest.mark.parametrize("make", [None, network_baseline], ids=["running average", "network"])
def test_a_baseline_lowers_the_variance(make: Any) -> None:
    """To less than a third, once it has learned what draws are worth, where they are worth much the same."""
    variances = []
    for baseline in (Nothing(), make() if make else None):
        problem = LinearGaussian.example()
        problem.decoder.weight.data.mul_(0.1)
        vae = problem.vae(gradient="score-function", baseline=baseline)
        elbo, encoder = bdl.objective("score-function"), list(problem.encoder.parameters())
        optimizer = torch.optim.Adam([*vae.baseline.parameters(), torch.zeros(1)], lr=0.5)
        for _ in range(40):
            gradients(elbo, vae, [X[:1]], encoder, calls=1, repeats=5)
            if isinstance(baseline, nn.Sequential):
                optimizer.step()
                optimizer.zero_grad()
        variances.append(gradients(elbo, vae, [X[:1]], encoder, calls=60, repeats=5).var(0))
    assert (variances[1] < variances[0] / 3).all(), variances


def test_the_running_average_is_of_what_draws_are_worth() -> None:
    problem = LinearGaussian.example()
    vae = problem.vae(gradient="score-function")
    for repeats in (300, 200):  # batches of different sizes share it
        gradients(bdl.objective("score-function"), vae, [X], problem.parameters, calls=40, repeats=repeats)
    expected = 2.0 * float(problem.bound(X).mean().detach())
    assert float(vae.baseline.average.detach()) == pytest.approx(expected, rel=0.05)


REFUSED: dict[str, Callable[[], Any]] = {
    "iwae of a score function": lambda: (LinearGaussian.example().vae(gradient="score-function"), "iwae"),
    "dreg of a score function": lambda: (LinearGaussian.example().vae(gradient="score-function"), "dreg"),
    "elbo of a score function": lambda: (LinearGaussian.example().vae(gradient="score-function"), "elbo"),
    "iwae of classes that are not enumerated": lambda: (semi_supervised(), "iwae"),
    "dreg of two layers": lambda: (hierarchical(), "dreg"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_gradient_is_given_that_is_not_right(case: str) -> None:
    pair, name = REFUSED[case]()
    with pytest.raises(UnsupportedModelError, match=r"expected (a reparameterised|one latent site)"):
        bdl.objective(name).loss_and_grads(pair.model, pair.guide, (X > 0).double())
