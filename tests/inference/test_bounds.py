"""The bounds of autoencoders against numbers that are known: free bits, beta, their order, their names."""

import itertools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.errors import InputError, UnsupportedModelError
from tests.latent.programs import (
    CLASSES,
    PIXELS,
    LinearGaussian,
    black_and_white,
    hierarchical,
    rows,
    semi_supervised,
)

X = rows(6)


def kl_of(elbo: bdl.MeanFieldELBO, pair: Any, *data: Tensor) -> Tensor:
    """What a bound takes off: the same draws with the KL and without."""
    losses = []
    for weight in (1.0, 0.0):
        elbo.kl_weight = weight
        torch.manual_seed(0)
        losses.append(elbo.differentiable_loss(pair.model, pair.guide, *data))
    return losses[0] - losses[1]


@pytest.mark.parametrize("size", [6, 60])
@pytest.mark.parametrize("free", [0.0, 0.05, 0.115, 3.0])
def test_free_bits(free: float, size: int) -> None:
    """Each number counts its mean KL over the batch, or `free` nats; N times. Value and gradient."""
    problem = LinearGaussian.example()
    expected = size * problem.kl(X).mean(0).clamp_min(free).sum()
    got = kl_of(bdl.MeanFieldELBO(free_bits=free), problem.vae(size=size), X)
    torch.testing.assert_close(got, expected)
    a, b = (torch.autograd.grad(kl, problem.encoder.weight, retain_graph=True)[0] for kl in (got, expected))
    torch.testing.assert_close(a, b)


def test_free_bits_differ_from_those_of_each_row_or_of_all_numbers() -> None:
    """The three readings of a floor are told apart by this example."""
    kl, free = LinearGaussian.example().kl(X).detach(), 0.115
    one, row, whole = (
        kl.mean(0).clamp_min(free).sum(), kl.clamp_min(free).mean(0).sum(), kl.sum(-1).mean().clamp_min(2 * free)
    )  # fmt: skip
    assert abs(float(one - row)) > 1e-3
    assert abs(float(one - whole)) > 1e-3


@pytest.mark.parametrize("free", [0.0, 0.4])
def test_free_bits_of_enumerated_classes(free: float) -> None:
    """The style's KL is averaged over the classes and the batch; the class has no free bits."""
    vae, x = semi_supervised(size=40), black_and_white(8, PIXELS)
    elbo = bdl.MeanFieldELBO(free_bits=free)
    elbo.loss(vae.model, vae.guide, x)
    log_q = vae.classifier(x).log_softmax(-1)
    style: Any = 0.0
    for c in range(CLASSES):
        mean, log_variance = vae.encoder(x, vae.one_hot(torch.full((8,), c))).chunk(2, -1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
        style = style + log_q[:, c, None].exp() * kl
    label = (log_q.exp() * (log_q + torch.tensor(CLASSES).log())).sum(-1).mean()
    expected = 40 * (style.mean(0).clamp_min(free).sum() + label)
    torch.testing.assert_close(kl_of(elbo, vae, x), expected)


def test_free_bits_of_a_prior_that_depends_on_the_class() -> None:
    """Rows are those of the plate, also where the prior of z has a dimension for the classes."""
    x, means = black_and_white(4, 2), torch.tensor([[0.0], [3.0]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(2) / 2))
            z = pyro.sample("z", dist.Normal(means[y], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).expand((*z.shape[:-1], 2)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))

    pair = nn.Module()
    pair.model, pair.guide = model, guide
    elbo = bdl.MeanFieldELBO(free_bits=0.1)
    elbo.loss(model, guide, x)
    assert float(kl_of(elbo, pair, x)) == pytest.approx(4 * (0.0 + 4.5) / 2)  # q(y) is the prior: no KL


def test_free_bits_of_two_layers_are_those_of_the_draws() -> None:
    """The floor counts: far above the KL the bound takes off nothing but it, with no gradient."""
    vae = hierarchical(size=6)
    kl = kl_of(bdl.MeanFieldELBO(free_bits=50.0), vae, X)
    assert float(kl.detach()) == pytest.approx(6 * 50.0 * 3)
    assert all(float(g.abs().max()) == 0.0 for g in torch.autograd.grad(kl, list(vae.encoder.parameters())))


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_beta(beta: float) -> None:
    problem = LinearGaussian.example()
    vae, elbo = problem.vae(), bdl.objective("elbo", beta=beta)
    torch.manual_seed(0)
    loss = elbo.loss(vae.model, vae.guide, X)
    torch.manual_seed(0)
    bound = bdl.MeanFieldELBO().loss(vae.model, vae.guide, X)
    assert loss - bound == pytest.approx((beta - 1.0) * float(problem.kl(X).sum().detach()))


BOUNDS = {"elbo": 1, "iwae 5": 5, "iwae 50": 50}


@pytest.fixture(scope="module")
def bounds() -> dict[str, Tensor]:
    """Draws of each bound of the data, and the log evidence."""
    problem = LinearGaussian.example()
    vae, many = problem.vae(), X.repeat(200, 1)
    found = {}
    for name, k in BOUNDS.items():
        elbo = bdl.objective("elbo") if k == 1 else bdl.objective("iwae", num_samples=k)
        found[name] = -torch.tensor([elbo.loss(vae.model, vae.guide, many) for _ in range(40)]).double() / 200
    return found | {"log evidence": problem.evidence(X).sum().detach(), "exact": problem.bound(X).sum().detach()}


def below(a: Tensor, b: Tensor) -> None:
    """The mean of a is below that of b by more than chance: seen at 8 standard errors."""
    error = (a.var() / a.numel() + (b.var() / b.numel() if b.numel() > 1 else 0.0)).sqrt()
    assert float((b.mean() - a.mean()) / error) > 8.0


def test_bounds_are_in_order(bounds: dict[str, Tensor]) -> None:
    """ELBO < IWAE 5 < IWAE 50 < log evidence, for a guide that is not the posterior."""
    names = [*BOUNDS, "log evidence"]
    for lower, upper in itertools.pairwise(names):
        below(bounds[lower], bounds[upper])


def test_the_elbo_is_that_of_the_closed_form(bounds: dict[str, Tensor]) -> None:
    z = (bounds["elbo"].mean() - bounds["exact"]) / (bounds["elbo"].std() / 40**0.5)
    assert abs(float(z)) < 7.5  # Student's t with 39 degrees of freedom: p < 1e-8


def test_at_the_exact_posterior_every_draw_of_every_bound_is_the_log_evidence() -> None:
    problem = LinearGaussian.example().be_exact()
    vae, expected = problem.vae(), -float(problem.evidence(X).sum().detach())
    for name, samples in (("monte-carlo", 1), ("iwae", 1), ("iwae", 7), ("dreg", 7)):
        elbo = bdl.objective(name, num_samples=samples)
        assert elbo.loss(vae.model, vae.guide, X) == pytest.approx(expected, abs=1e-9), name


NAMES: dict[str, tuple[dict[str, Any], type, dict[str, Any]]] = {
    "elbo": (
        {"num_samples": 3, "beta": 2.0, "free_bits": 0.1}, bdl.MeanFieldELBO,
        {"num_particles": 3, "kl_weight": 2.0, "free_bits": 0.1},
    ),
    "monte-carlo": ({"num_samples": 3}, Trace_ELBO, {"num_particles": 3}),
    "score-function": ({"num_samples": 3}, TraceGraph_ELBO, {"num_particles": 3}),
    "iwae": ({"num_samples": 3}, bdl.ImportanceWeightedELBO, {"num_samples": 3, "gradient": "reparameterised"}),
    "dreg": ({"num_samples": 3}, bdl.ImportanceWeightedELBO, {"num_samples": 3, "gradient": "doubly-reparameterised"}),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_objectives_by_name(name: Any) -> None:
    options, kind, attributes = NAMES[name]
    made = bdl.objective(name, **options)
    assert type(made) is kind
    assert {key: getattr(made, key) for key in attributes} == attributes


MVN = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))


def correlated(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", MVN)
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])


def correlated_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", MVN)


def log_normal(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.LogNormal(0.0, 1.0)), 1.0), obs=x[:, 0])


def log_normal_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal(torch.zeros(len(x), requires_grad=True), 1.0))


def no_plate(x: Tensor) -> None:
    pyro.sample(
        "x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0).expand([len(x)]).to_event(1), obs=x[:, 0]
    )


def no_plate_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(0.0, 1.0))


def no_latent(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])


REFUSED: dict[str, tuple[Callable[[], Any], type[InputError], str]] = {
    "another name": (lambda: bdl.objective("elob"), InputError, "one of .*'elbo'.*got 'elob'"),  # type: ignore[arg-type]
    "no samples": (lambda: bdl.objective("monte-carlo", num_samples=0), InputError, "at least 1, got 0"),
    "no samples of iwae": (lambda: bdl.objective("iwae", num_samples=0), InputError, "at least 1, got 0"),
    "no samples of elbo": (lambda: bdl.objective("elbo", num_samples=0), InputError, "at least 1, got 0"),
    "beta of iwae": (lambda: bdl.objective("iwae", beta=2.0), InputError, "iwae: expected 1 and 0, got 2.0"),
    "free bits of dreg": (lambda: bdl.objective("dreg", free_bits=0.1), InputError, "dreg: expected 1 and 0"),
    "beta below 0": (lambda: bdl.objective("elbo", beta=-1.0), InputError, "kl_weight: expected a finite"),
    "beta nan": (lambda: bdl.objective("elbo", beta=float("nan")), InputError, "kl_weight: expected a finite"),
    "free bits below 0": (lambda: bdl.objective("elbo", free_bits=-0.1), InputError, "free_bits: expected a finite"),
    "half a sample of iwae": (
        lambda: bdl.ImportanceWeightedELBO(2.5), InputError, "expected an integer, got 2.5",  # type: ignore[arg-type]
    ),
    "another gradient": (
        lambda: bdl.ImportanceWeightedELBO(3, gradient="vimco"), InputError, "doubly-reparameterised",  # type: ignore[arg-type]
    ),
    "free bits of correlated numbers": (
        lambda: bdl.MeanFieldELBO(free_bits=0.1).loss(correlated, correlated_guide, X), UnsupportedModelError,
        "expected a KL in closed form",
    ),
    "dreg of another law": (
        lambda: bdl.objective("dreg", num_samples=2).loss_and_grads(log_normal, log_normal_guide, X),
        UnsupportedModelError, "expected one made of its own parameters, got LogNormal",
    ),
    "iwae without a plate": (
        lambda: bdl.objective("iwae", num_samples=2).loss(no_plate, no_plate_guide, X), UnsupportedModelError,
        "expected one in the data plate",
    ),
    "iwae without latent variables": (
        lambda: bdl.objective("iwae", num_samples=2).loss(no_latent, lambda x: None, X), UnsupportedModelError,
        "the same latent sites",
    ),
    "iwae of a guide that lacks a site": (
        lambda: bdl.objective("iwae", num_samples=2).loss(log_normal, lambda x: None, X), InputError, "a site 'z'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["elbo", "iwae", "dreg"])
def test_a_network_that_learns_nothing_has_a_loss(name: Any) -> None:
    vae, elbo = LinearGaussian.example().vae().requires_grad_(False), bdl.objective(name)
    torch.manual_seed(0)
    loss = elbo.loss_and_grads(vae.model, vae.guide, X)
    torch.manual_seed(0)
    assert loss == elbo.loss(vae.model, vae.guide, X)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    run, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        run()
