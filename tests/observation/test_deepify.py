"""`deepify`: a table of linear models, each as an object and as a function; what goes, what stays, what is refused."""

import functools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.errors import InputError

N = 60
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
BUMP = 2 * (-2 * X[:, 0].square()).exp()  # what no linear function of X is
REAL = BUMP + 0.1 * torch.randn(N, generator=torch.Generator().manual_seed(1))
BINARY, COUNTS = (BUMP > 1).long(), BUMP.exp().round().long()
TIME = (-BUMP).exp() * torch.empty(N).exponential_(generator=torch.Generator().manual_seed(2)) + 0.01
EVENT = torch.ones(N)
INTERVALS = bdl.Intervals.of_events(TIME, EVENT, count=4)

Case = tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...], list[str]]


def gaussian(x: Tensor, y: Tensor | None = None) -> Tensor:
    eta = slope(x)
    noise = pyro.sample("y.noise", dist.LogNormal(-1.0, 1.0))
    with pyro.plate("data", N, subsample_size=len(x)):
        return pyro.sample("y", dist.Normal(eta, noise), obs=y)


def logistic(x: Tensor, y: Tensor | None = None) -> Tensor:
    eta = slope(x)
    with pyro.plate("data", N, subsample_size=len(x)):
        return pyro.sample("y", dist.Bernoulli(logits=eta), obs=None if y is None else y.float())


def poisson(x: Tensor, y: Tensor | None = None) -> Tensor:
    eta = slope(x)
    with pyro.plate("data", N, subsample_size=len(x)):
        return pyro.sample("y", dist.Poisson(eta.exp()), obs=None if y is None else y.float())


def cox(x: Tensor, time: Tensor | None = None, event: Tensor | None = None) -> Tensor:
    eta = slope(x)
    a = pyro.sample("time.log_baseline", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    law = bdl.distributions.PiecewiseExponential(INTERVALS.rates.log() + a + eta[:, None], INTERVALS.cuts)
    with pyro.plate("data", N, subsample_size=len(x)):
        return pyro.sample("time", bdl.distributions.RightCensored(law, event), obs=time)


def slope(x: Tensor) -> Tensor:
    """A hierarchical prior: the scale reaches the data through the weights alone."""
    scale = pyro.sample("scale", dist.HalfCauchy(torch.tensor(1.0)))
    w = pyro.sample("w", dist.Normal(torch.zeros(3), scale).to_event(1))
    return pyro.deterministic("eta", x @ w)


def bnn(net: nn.Module) -> bdl.BayesianModule:
    return bdl.BayesianModule(net)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))


LINEAR = nn.Linear(3, 1)
CASES: dict[str, Case] = {
    "gaussian": (bdl.Regressor(bnn(LINEAR), noise=dist.LogNormal(-1.0, 1.0)), gaussian, (X, REAL), ["y.noise"]),
    "logistic": (bdl.BinaryClassifier(bnn(LINEAR)), logistic, (X, BINARY), []),
    "poisson": (bdl.PoissonRegressor(bnn(LINEAR)), poisson, (X, COUNTS), []),
    "survival": (bdl.SurvivalRegressor(bnn(LINEAR), INTERVALS), cox, (X, TIME, EVENT), ["time.log_baseline"]),
}
DEEP = ["0.weight", "0.bias", "2.weight", "2.bias"]


def latent(model: Callable[..., Any], data: tuple[Tensor, ...]) -> list[str]:
    return [name for name in poutine.trace(model).get_trace(*data).stochastic_nodes if name != "data"]


def deep_of(case: str, kind: str) -> Any:
    linear, function, _, _ = CASES[case]
    if kind == "object":
        return bdl.deepify(linear, bnn(network()))
    flat = nn.Sequential(*network(), nn.Flatten(0))
    return bdl.deepify(function, bnn(flat), predictor="eta")


@pytest.mark.parametrize("kind", ["object", "function"])
@pytest.mark.parametrize("case", CASES)
def test_only_the_predictor_changes(case: str, kind: str) -> None:
    linear, function, data, kept = CASES[case]
    original = linear if kind == "object" else function
    before = latent(original, data)
    deep = deep_of(case, kind)
    assert sorted(latent(deep, data)) == sorted(DEEP + kept)
    assert latent(original, data) == before
    assert deep(X).shape == (N,)  # draws, where nothing is observed


@pytest.mark.parametrize("kind", ["object", "function"])
@pytest.mark.parametrize("case", CASES)
def test_the_likelihood_is_that_of_the_networks_output(case: str, kind: str) -> None:
    _, function, data, kept = CASES[case]
    deep = deep_of(case, kind)
    trace = poutine.trace(deep).get_trace(*data)
    trace.compute_log_prob()
    w = {name: trace.nodes[name]["value"] for name in DEEP}
    eta = (X @ w["0.weight"].T + w["0.bias"]).tanh() @ w["2.weight"].T + w["2.bias"]
    values = {name: trace.nodes[name]["value"] for name in kept}

    def by_hand(*args: Any) -> Any:
        with poutine.condition(data=values | {"scale": torch.tensor(1.0), "w": torch.zeros(3)}):
            return bdl.deepify(function, lambda _: eta[:, 0], predictor="eta")(*args)

    site = "time" if case == "survival" else "y"
    expected = poutine.trace(by_hand).get_trace(*data)
    expected.compute_log_prob()
    torch.testing.assert_close(trace.nodes[site]["log_prob"], expected.nodes[site]["log_prob"])
    if kind == "function":
        torch.testing.assert_close(trace.nodes["eta"]["value"], eta[:, 0])


@pytest.mark.parametrize("kind", ["object", "function"])
@pytest.mark.parametrize("case", CASES)
def test_it_learns_what_a_line_cannot(case: str, kind: str) -> None:
    """By SVI with local draws: the network's log-likelihood is above the linear model's."""
    linear, function, data, _ = CASES[case]
    found = {}
    for name, model in (("linear", linear if kind == "object" else function), ("deep", deep_of(case, kind))):
        guide = bdl.guides.AutoMeanField(model)
        adam = lambda p: torch.optim.Adam(p, lr=0.03)  # noqa: E731
        bdl.fit_svi(model, guide, data, epochs=200, optimizer=adam, progress=False, seed=0)
        draws = bdl.guide_draws(guide, *data, num_samples=50, seed=0)
        (value,) = bdl.diagnostics.pointwise_log_likelihood(model, draws, *data).values()
        found[name] = float((value.double().logsumexp(0) - torch.tensor(50.0).log()).mean())
    assert found["deep"] > found["linear"] + 0.02


def test_a_plain_network_is_learned() -> None:
    deep = bdl.deepify(CASES["survival"][0], network())
    trace = poutine.trace(deep).get_trace(X, TIME, EVENT)
    assert list(trace.param_nodes) == DEEP
    assert latent(deep, (X, TIME, EVENT)) == ["time.log_baseline"]


def test_learned_noise_is_not_shared() -> None:
    """What the original has learnt is where the copy begins; fitting that leaves the original alone."""
    linear = bdl.Regressor(bnn(nn.Linear(3, 1)))
    linear(X, REAL)
    deep = bdl.deepify(linear, bnn(network()))
    guide = bdl.guides.AutoMeanField(deep)
    adam = lambda p: torch.optim.Adam(p, lr=0.05)  # noqa: E731
    bdl.fit_svi(deep, guide, (X, REAL), epochs=100, optimizer=adam, progress=False, seed=0)
    assert float(deep.noise_scale().detach()) < 0.9
    assert float(linear.noise_scale().detach()) == 1.0


class Mine(PyroModule):
    """A user's own module, with the predictor one floor down."""

    def __init__(self) -> None:
        super().__init__()
        self.head = PyroModule[nn.Module]()
        self.head.linear = PyroModule[nn.Linear](3, 1)
        self.head.linear.weight = PyroSample(dist.Normal(torch.zeros(1, 3), 1.0).to_event(2))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.head.linear(x)[:, 0]
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_a_pyro_module_of_ones_own() -> None:
    mine = Mine()
    deep = bdl.deepify(mine, bnn(network()), predictor="head.linear")
    assert isinstance(deep, Mine)
    assert latent(deep, (X, REAL)) == DEEP
    assert latent(mine, (X, REAL)) == ["head.linear.weight"]


def test_chains_of_a_function() -> None:
    """Vectorised: the sites without a use are not drawn anew."""
    deep = deep_of("logistic", "function")
    kernel = bdl.SGLD(deep, step_size=1e-3, data=(X, BINARY), batch_size=20)
    chains = bdl.sample_chains(kernel, num_samples=3, num_chains=2, chain_method="vectorized", progress=False)
    assert sorted(chains.get_samples()) == sorted(DEEP)


def test_other_uses_keep_a_site() -> None:
    """A weight that stands in the likelihood too stays; an intercept outside the site does as well."""

    def model(x: Tensor, y: Tensor | None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        s = pyro.sample("s", dist.Normal(0.0, 1.0))
        eta = pyro.deterministic("eta", x @ w + s)
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(eta + b, s.exp()), obs=y)

    flat = nn.Sequential(*network(), nn.Flatten(0))
    for first in ((X, REAL), (X, None)):  # whether the first call observes or not
        deep = bdl.deepify(model, bnn(flat), predictor="eta")
        deep(*first)
        assert sorted(latent(deep, (X, REAL))) == sorted([*DEEP, "b", "s"])


def written(s: Tensor) -> Tensor:
    noise = torch.zeros(N)
    noise[:] = s.exp()
    return noise


USES: dict[str, Callable[[Tensor, Tensor], None]] = {
    "scale": lambda eta, s: poutine.scale(observe, scale=s.exp())(eta, torch.ones(N)),
    "mask": lambda eta, s: poutine.mask(observe, mask=s > -9)(eta, torch.ones(N)),
    "a Python number": lambda eta, s: observe(eta, torch.full((N,), float(s.exp()))),
    "a Python branch": lambda eta, s: observe(eta, torch.ones(N)) if s > 0 else observe(eta, 2 * torch.ones(N)),
    "in place": lambda eta, s: observe(eta, written(s)),
    "TorchScript": lambda eta, s: observe(eta, EXP.noise(s).expand(N)),
}
EXP = torch.jit.CompilationUnit("def noise(s):\n  return s.exp()\n")


def observe(eta: Tensor, noise: Tensor) -> None:
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(eta, noise), obs=REAL)


@pytest.mark.parametrize("use", USES)
def test_hidden_uses_keep_a_site(use: str) -> None:
    """However a site above the predictor enters besides: else it would stay for good at one draw from its prior."""

    def model(x: Tensor) -> None:
        s = pyro.sample("s", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(3), s.exp()).to_event(1))
        USES[use](pyro.deterministic("eta", x @ w), s)

    deep = bdl.deepify(model, bnn(nn.Sequential(*network(), nn.Flatten(0))), predictor="eta")
    assert sorted(latent(deep, (X,))) == sorted([*DEEP, "s"])


def test_within_another_program() -> None:
    """Whose graph is looked at; what the deep model is given comes from a site of that."""
    deep = bdl.deepify(gaussian, bnn(nn.Sequential(*network(), nn.Flatten(0))), predictor="eta")

    def model() -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros(N, 3), 1.0).to_event(2))
        deep(x, REAL)

    assert set(bdl.graph.of(model).predecessors("y")) == {"x", "y.noise", *DEEP}


def test_a_predictor_written_in_place() -> None:
    """What is upstream is known, and goes."""

    def model(x: Tensor, y: Tensor) -> None:
        eta = torch.zeros(N)
        for column in range(3):
            eta += x[:, column] * pyro.sample(f"w{column}", dist.Normal(0.0, 1.0))
        eta[:] = eta * pyro.sample("s", dist.Normal(0.0, 1.0))
        eta = pyro.deterministic("eta", eta)
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(eta, 1.0), obs=y)

    deep = bdl.deepify(model, bnn(nn.Sequential(*network(), nn.Flatten(0))), predictor="eta")
    assert sorted(latent(deep, (X, REAL))) == sorted(DEEP)


def test_effects_of_data_points_go_with_any_batch() -> None:
    """A random effect of each data point within the linear predictor, in batches of different lengths."""

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", N, subsample_size=len(x)):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
            eta = pyro.deterministic("eta", x @ w + effect)
            pyro.sample("y", dist.Normal(eta, 1.0), obs=y)

    deep = bdl.deepify(model, bnn(nn.Sequential(*network(), nn.Flatten(0))), predictor="eta")
    for rows in (slice(None), slice(7)):
        assert sorted(latent(deep, (X[rows], REAL[rows]))) == sorted(DEEP)


class Called:
    """A program that is no function."""

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return gaussian(x, y)


@pytest.mark.parametrize(
    "program",
    [Called(), functools.partial(gaussian, y=REAL), pyro.condition(gaussian, {"y.noise": torch.tensor(0.5)})],
    ids=["object", "partial", "conditioned"],
)
def test_any_program_may_have_the_site(program: Any) -> None:
    deep = bdl.deepify(program, bnn(nn.Sequential(*network(), nn.Flatten(0))), predictor="eta")
    assert {"w", "scale"}.isdisjoint(latent(deep, (X,)))
    assert deep(X).shape == (N,)


def test_several_predictors_one_after_the_other() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        v = pyro.sample("v", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        mean, log_scale = pyro.deterministic("mean", x @ w), pyro.deterministic("log_scale", x @ v)
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(mean, log_scale.exp()), obs=y)

    nets = [bdl.BayesianModule(nn.Sequential(*network(), nn.Flatten(0)), name=name) for name in "ab"]
    deep = bdl.deepify(bdl.deepify(model, nets[0], predictor="mean"), nets[1], predictor="log_scale")
    assert sorted(latent(deep, (X, REAL))) == sorted(f"{name}.{site}" for name in "ab" for site in DEEP)


def test_arguments_by_name() -> None:
    deep = deep_of("gaussian", "function")
    assert deep(y=REAL, x=X) is REAL


@pytest.mark.parametrize("image", [True, False])
def test_a_predictor_of_what_is_no_vector(image: bool) -> None:
    """Of images, flattened by the linear model and not by the network; of a network's own features."""
    linear: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    deep: nn.Module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    x = torch.ones(5, 1, 4, 4)
    if not image:
        linear, deep, x = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 1)), nn.Embedding(4, 1), torch.arange(4)
    model = bdl.deepify(bdl.PoissonRegressor(bnn(linear)), bnn(deep))
    assert model(x).shape == (len(x),)


REGRESSION = CASES["gaussian"][0]


def in_function(site: str, model: Any = gaussian) -> Any:
    return bdl.deepify(model, network(), predictor=site)(X, REAL)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "too many outputs": (lambda: bdl.deepify(REGRESSION, bnn(nn.Linear(3, 2))), r"shape \(2, 1\).* got \(2, 2\)"),
    "other inputs": (lambda: bdl.deepify(REGRESSION, nn.Linear(4, 1)), r"takes inputs \(2, 3\)"),
    "no such attribute": (lambda: in_function("eta", REGRESSION), r"deterministic\(.eta.*got the sites \[.weight"),
    "no program": (lambda: bdl.deepify(3, network()), "a Pyro program, got int"),  # type: ignore[arg-type]
    "no network": (lambda: bdl.deepify(REGRESSION, None), "expected a network"),  # type: ignore[arg-type]
    "inputs for an object": (lambda: bdl.deepify(REGRESSION, network(), inputs=lambda x: x), "inputs: expected None"),
    "no such site": (lambda: in_function("mu"), r"pyro.deterministic\('mu'.*'eta'"),
    "a site that is drawn": (lambda: in_function("w"), r"pyro.deterministic\('w'"),
    "a matrix for a vector": (lambda: in_function("eta"), r"\(60,\), that of 'eta', got shape \(60, 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    run, message = BAD[case]
    with pytest.raises(InputError, match=message):
        run()
