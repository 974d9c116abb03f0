"""Autoencoders fitted: Bayesian decoders, checkpoints, saved states, a collapsed posterior, what is generated."""

import warnings
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

import pyro_bdl as bdl
from models.latent_networks import convolutional_decoder, convolutional_encoder
from pyro_bdl.data import BesideLabelled, DynamicallyBinarized
from pyro_bdl.errors import InputError, PosteriorCollapseWarning
from pyro_bdl.latent import Gaussian
from pyro_bdl.priors import GroupNormalJeffreys
from tests.latent.programs import (
    NOISE,
    PIXELS,
    LinearGaussian,
    black_and_white,
    rows,
    seeded,
    semi_supervised,
)

X = black_and_white(40, PIXELS).float()
Y = X[:, :2].sum(1).long()
PRIORS = {"Gaussian": bdl.priors.Gaussian, "GroupNormalJeffreys": GroupNormalJeffreys}


def fitted(pair: Any, data: Any, **options: Any) -> bdl.Fit:
    """A fit, of which it is not asked whether it collapsed."""
    given = {"epochs": 3, "progress": False, "seed": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PosteriorCollapseWarning)
        return bdl.fit_svi(pair.model, pair.guide, data, **given | options)


def decoder(prior: str, inputs: int, outputs: int = PIXELS) -> bdl.BayesianModule:
    net = nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, outputs))
    return bdl.BayesianModule(net, PRIORS[prior]())


class Beside(nn.Module):
    """A Bayesian network of two inputs."""

    def __init__(self, prior: str) -> None:
        super().__init__()
        self.net = decoder(prior, 2 + 3)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([z, y], 1))


def autoencoder(prior: str) -> Any:
    return bdl.VariationalAutoencoder(nn.Linear(PIXELS, 4), decoder(prior, 2), 2)


def both(prior: str) -> Any:
    return semi_supervised(decoder=Beside(prior)).float()


# What a pair is called with, and the pair of an autoencoder.
PROGRAMS = {
    "autoencoder": (autoencoder, lambda vae: vae, X),
    "unlabelled": (both, lambda vae: vae, X),
    "labelled": (both, lambda vae: vae, (X, Y)),
    "joint": (both, lambda vae: bdl.SemiSupervisedPair(vae, size=10), BesideLabelled(
        X, X[:10], Y[:10], batch_size=16, labelled_batch_size=5,
    )),
}  # fmt: skip


@pytest.mark.parametrize("estimator", ["local", "plain"])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_bayesian_decoders_are_fitted(name: str, prior: str, estimator: Any) -> None:
    make, pair, data = PROGRAMS[name]
    vae = make(prior)
    before = {id(parameter): parameter.detach().clone() for parameter in vae.parameters()}
    batches = {} if isinstance(data, BesideLabelled) else {"batch_size": 16}
    fit = fitted(pair(vae), data, estimator=estimator, **batches)
    assert all(torch.isfinite(torch.tensor(fit.losses)))
    posterior = vae.weights.guide
    assert {"loc", "log_variance"} <= {path for path, _ in posterior.named_parameters()}
    learned = dict(vae.encoder.named_parameters())
    assert not any(torch.equal(parameter, before[id(parameter)]) for parameter in learned.values())
    if estimator == "local":
        assert any(use.how == "local" for use in fit.coverage)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_random_weights_are_drawn_once_a_pass(name: str, prior: str) -> None:
    """One call of the decoder, for labelled and unlabelled data together, and sites outside of all plates."""
    make, pair, data = PROGRAMS[name]
    vae = make(prior)
    args = next(iter(data)).args if isinstance(data, BesideLabelled) else data if isinstance(data, tuple) else (data,)
    calls = []
    module = next(m for m in vae.modules() if isinstance(m, bdl.BayesianModule))
    module.register_forward_hook(lambda *_: calls.append(1))
    vae.weights()
    calls.clear()
    program = pair(vae)
    guide_trace = pyro.poutine.trace(program.guide).get_trace(*args)
    model_trace = pyro.poutine.trace(pyro.poutine.replay(program.model, trace=guide_trace)).get_trace(*args)
    assert len(calls) == 1
    weights = [site.name for site in vae.weights.guide.sites]
    assert weights
    for trace in (guide_trace, model_trace):
        for site in weights:
            assert not trace.nodes[site]["cond_indep_stack"], site
            assert trace.nodes[site]["scale"] == 1.0


@pytest.mark.parametrize("prior", PRIORS)
def test_generate_and_decode_use_draws_of_the_posterior(prior: str) -> None:
    """They vary with the weights, around the networks of the posterior's moments; not the network's own weights."""
    vae = autoencoder(prior)
    fitted(vae, X, epochs=1)
    z = torch.zeros(5, 2)
    draws = torch.stack([vae.decode(z) for _ in range(3)])
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(draws[0][0], draws[0][1])  # one draw for all rows
    vae.weights.guide.log_variance.data.fill_(-80.0)
    vae.weights.guide.loc.data.fill_(0.5)
    fixed = [vae.decode(z) for _ in range(2)]
    torch.testing.assert_close(*fixed)
    for parameter in vae.decoder.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(vae.decode(z), fixed[0])
    assert vae.generate(7).shape == (7, PIXELS)
    assert not torch.equal(vae.generate(7), vae.generate(7))


def test_generate_has_the_law_of_the_prior() -> None:
    """Means of new rows of a linear autoencoder: N(b, W W')."""
    from tests.statistics import chi_squared_covariance

    problem = LinearGaussian.example()
    found = problem.vae().generate(4_000)
    w = problem.decoder.weight.detach()
    basis = torch.linalg.svd(w, full_matrices=False).U  # a covariance of full rank
    chi_squared_covariance(
        found @ basis, mean=(problem.decoder.bias.detach() @ basis), covariance=basis.T @ w @ w.T @ basis
    )


SHAPES = {"one": (2,), "rows": (5, 2), "a grid": (3, 4, 2)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("image", [(PIXELS,), (1, 8, 8), (2, 4, 8)])
@pytest.mark.parametrize("numbers", [1, 2])
def test_shapes_of_means(numbers: int, image: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Of dense and of convolutional decoders, for z of any leading dimensions."""
    likelihood = Gaussian() if numbers == 2 else Gaussian(1.0)
    if len(image) == 1:
        networks: Any = nn.Linear(PIXELS, 4), nn.Linear(2, numbers * PIXELS)
    else:
        networks = convolutional_encoder(image, 4, width=2), convolutional_decoder(2, image, numbers, width=2)
    vae = bdl.VariationalAutoencoder(*networks, 2, likelihood=likelihood)
    assert vae.decode(torch.zeros(shape)).shape == (*shape[:-1], *image)
    assert vae.generate(6).shape == (6, *image)
    x = torch.randn(6, *image)
    assert vae.encode(x).mean.shape == (6, 2)
    for name in ("elbo", "iwae"):
        assert bdl.objective(name, num_samples=2).loss(vae.model, vae.guide, x) > 0
    assert bdl.log_marginal(vae.model, vae.guide, x[:1], num_samples=3).value.shape == (1,)


@pytest.mark.parametrize(
    ("z", "y", "batch"), [((5,), (5,), (5,)), ((4, 1), (3,), (4, 3)), ((4,), (3, 1), (3, 4)), ((), (), ())]
)
def test_styles_and_labels_vary_together_or_apart(z: Any, y: Any, batch: Any) -> None:
    vae = semi_supervised()
    style, label = torch.randn(*z, 2).double(), torch.randint(3, y)
    means = vae.decode(style, label)
    assert means.shape == (*batch, PIXELS)
    whole, labels = style.expand(*batch, 2).reshape(-1, 2), label.expand(batch).reshape(-1)
    each = torch.cat([vae.decode(row[None], one[None]) for row, one in zip(whole, labels, strict=True)])
    torch.testing.assert_close(means.reshape(-1, PIXELS), each)


class Interrupted(Exception):
    """Ends a fit from a callback."""


def interrupt(told: Any) -> None:
    if told.epoch == 1:
        raise Interrupted


GREY = torch.rand(30, PIXELS, generator=torch.Generator().manual_seed(0))


def small(prior: str | None, objective: str) -> Any:
    """An autoencoder that is the same each time."""

    def make() -> Any:
        own = decoder(prior, 2) if prior else nn.Linear(2, PIXELS)
        gradient: Any = "score-function" if objective == "score-function" else "reparameterised"
        return bdl.VariationalAutoencoder(nn.Linear(PIXELS, 4), own, 2, gradient=gradient)

    return seeded(make)


@pytest.mark.parametrize(
    ("prior", "objective"),
    [(None, "elbo"), (None, "iwae"), (None, "dreg"), (None, "score-function"), ("GroupNormalJeffreys", "elbo")],
)
def test_resumed_bit_for_bit(prior: str | None, objective: Any, tmp_path: Path) -> None:
    """On pixels that are drawn anew, and batches of unequal size."""

    def run(**options: Any) -> tuple[list[float], Tensor]:
        vae = small(prior, objective)
        data = DynamicallyBinarized(GREY, batch_size=8)
        elbo = bdl.objective(objective, num_samples=2)
        fit = fitted(vae, data, epochs=4, elbo=elbo, **options)
        return fit.losses, torch.cat([parameter.detach().reshape(-1) for parameter in vae.parameters()])

    losses, state = run()
    path = tmp_path / "fit"
    with pytest.raises(Interrupted):
        run(checkpoint=path, callbacks=[interrupt])
    torch.rand(3)
    again = run(checkpoint=path)
    assert again[0] == losses
    assert torch.equal(again[1], state)


@pytest.mark.parametrize("prior", PRIORS)
def test_a_state_dict_goes_into_a_fresh_autoencoder(prior: str) -> None:
    """Also that of the posterior of the weights, before it was ever called."""
    vae, fresh = (autoencoder(prior) for _ in range(2))
    fitted(vae, X, epochs=2)
    fresh.load_state_dict(vae.state_dict())
    values = []
    for one in (vae, fresh):
        torch.manual_seed(0)
        values.append((one.encode(X).mean, one.generate(5)))
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))
    torch.manual_seed(0)
    losses = [fitted(one, X, epochs=1).losses for one in (vae, fresh)]
    assert losses[0] == losses[1]


def test_two_in_one_program_of_different_names() -> None:
    """Each learns its own parameters; of one name the second is refused."""
    pair = [bdl.VariationalAutoencoder(nn.Linear(4, 4), nn.Linear(2, 4), 2, name=name) for name in ("a", "b")]

    def both_of(what: str) -> Any:
        def program(x: Tensor) -> None:
            getattr(pair[0], what)(x)
            pyro.poutine.block(getattr(pair[1], what), hide_types=["sample"])(x)

        return program

    with pyro.poutine.trace(param_only=True) as names:
        both_of("model")(X)
    assert {name.split(".")[0] for name in names.trace.nodes} == {"a", "b"}
    pair[1].name = "a"
    told = pytest.raises(InputError, match=r"parameter a\.decoder\.0\.weight: expected one of that name")
    with told, pyro.poutine.trace(param_only=True):
        both_of("model")(X)


class Deaf(nn.Module):
    """A decoder that does without z."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(PIXELS))

    def forward(self, z: Tensor) -> Tensor:
        return self.bias + 0.0 * z.sum(-1, keepdim=True)


def test_a_collapsed_posterior_is_told() -> None:
    vae = bdl.VariationalAutoencoder(nn.Linear(PIXELS, 4), Deaf(), 2)
    optimizer = lambda p: torch.optim.Adam(p, lr=0.05)  # noqa: E731
    with pytest.warns(PosteriorCollapseWarning, match=r"(?s)number of z .*kl_warmup=.*free_bits=0.1.*decoder"):
        bdl.fit_svi(vae.model, vae.guide, X, epochs=300, optimizer=optimizer, progress=False, seed=0)


def test_a_good_fit_is_not_called_collapsed() -> None:
    """Warnings are errors here. Two of the numbers are used by data of two dimensions, and a third is not."""
    data = rows(300, 2, seed=4).float() @ rows(2, PIXELS, seed=5).float()
    encoder, own = seeded(lambda: (nn.Linear(PIXELS, 6), nn.Linear(3, PIXELS)))
    vae = bdl.VariationalAutoencoder(encoder, own, 3, likelihood=Gaussian(NOISE))
    state = torch.get_rng_state()
    bdl.fit_svi(
        vae.model, vae.guide, data, epochs=150, optimizer=lambda p: torch.optim.Adam(p, lr=0.02), progress=False, seed=0
    )
    assert torch.equal(torch.get_rng_state(), state)
    used = bdl.diagnostics.latent_kl(vae.model, vae.guide, data)["z"]
    assert int((used > 0.1).sum()) == 2
    assert float(used.min()) < 0.02


def test_latent_kl_is_the_closed_form() -> None:
    problem, x = LinearGaussian.example(), rows(30)
    vae = problem.vae()
    found = bdl.diagnostics.latent_kl(vae.model, vae.guide, x)
    assert list(found) == ["z"]
    torch.testing.assert_close(found["z"], problem.kl(x).mean(0).detach())


def log_alpha(vae: Any) -> Tensor:
    """Of the scale of each input unit of the decoder: its variance over its squared mean."""
    laws = vae.weights.guide.distributions()
    scale = laws[next(name for name in laws if name.endswith("scale"))]
    return scale.variance.log() - scale.mean.square().log()


def test_a_node_prior_switches_off_a_latent_number_that_is_not_needed() -> None:
    """Data of one dimension, two latent numbers. Over 24 seeds log alpha was -9 for one, and 8 to 18 more, still
    rising, for the other; the KL was 1.6 to 1.8 and below 0.0001."""
    data = torch.randn(300, 1) @ torch.tensor([[1.5, -1.0, 2.0, 0.5]])
    own = bdl.BayesianModule(nn.Linear(2, PIXELS), GroupNormalJeffreys())
    vae = bdl.VariationalAutoencoder(nn.Linear(PIXELS, 4), own, 2, likelihood=Gaussian(0.5))
    fitted(vae, data, epochs=250, optimizer=lambda p: torch.optim.Adam(p, lr=0.02), batch_size=100)
    used, other = log_alpha(vae).sort().values.tolist()
    assert used < -7.0
    assert other > used + 4.0
    kl = bdl.diagnostics.latent_kl(vae.model, vae.guide, data)["z"].sort().values
    assert float(kl[0]) < 0.01 < 1.0 < float(kl[1])


@pytest.mark.parametrize("name", ["elbo", "monte-carlo", "score-function", "iwae", "dreg"])
@pytest.mark.parametrize("through", ["svi", "alone"])
def test_gradients_reach_both_networks(through: str, name: Any) -> None:
    """Through Pyro's `SVI`, and where a bound is called alone: Pyro's own take none if no trace shows a parameter."""
    vae, elbo = small(None, name), bdl.objective(name, num_samples=2)
    if through == "svi":
        pyro.infer.SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 0.0}), elbo).loss_and_grads(vae.model, vae.guide, X)
    else:
        elbo.loss_and_grads(vae.model, vae.guide, X)
    for network in (vae.encoder, vae.decoder):
        assert all(float(parameter.grad.abs().sum()) > 0 for parameter in network.parameters())


@pytest.mark.parametrize("name", ["elbo", "monte-carlo", "score-function", "iwae", "dreg"])
def test_each_objective_trains_encoder_and_decoder(name: Any) -> None:
    """Two prototypes, of which a latent number tells: all 8 pixels cost 8 log 2 = 5.5 nats at first, log 2 at best."""
    x = torch.eye(2)[torch.arange(100) % 2].repeat_interleave(4, 1)
    score = "score-function" if name == "score-function" else "reparameterised"
    vae = bdl.VariationalAutoencoder(nn.Linear(8, 2), nn.Linear(1, 8), 1, gradient=score)  # type: ignore[arg-type]
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    samples = 3 if name in ("iwae", "dreg") else 1
    fit = fitted(
        vae, x, epochs=300, batch_size=50, estimator="plain", elbo=bdl.objective(name, num_samples=samples),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    )  # fmt: skip
    assert all(not torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert fit.losses[-1] < 0.75 * 8 * 0.693 * len(x)
