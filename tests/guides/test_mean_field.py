"""AutoMeanField: families, saved states, initial values, life beside Pyro's own machinery, what it refuses."""

import json
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import biject_to

import pyro_bdl as bdl
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.guides import AutoMeanField
from tests.statistics import ks_normal, proportion_is

X, Y = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def every_support() -> None:
    """Real, positive, interval, simplex, ordered-by-nothing vectors; also in a whole plate."""
    pyro.sample("real", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    pyro.sample("positive", dist.Gamma(2.0, torch.ones(3)).to_event(1))
    pyro.sample("half", dist.HalfCauchy(1.0))
    pyro.sample("share", dist.Beta(2.0, 3.0))
    pyro.sample("simplex", dist.Dirichlet(torch.ones(4)))
    pyro.sample("vector", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    shares = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), torch.ones(2)))
    pyro.sample("mixture", shares.expand([3]).to_event(1))
    with pyro.plate("groups", 5):
        pyro.sample("each", dist.Normal(0.0, 1.0))
        pyro.sample("each simplex", dist.Dirichlet(torch.ones(3)))


def perturbed(model: Callable[..., Any], *args: Any) -> AutoMeanField:
    guide = AutoMeanField(model, init_scale=0.5)
    guide(*args)
    with torch.no_grad():
        guide.loc.add_(torch.randn_like(guide.loc))
        guide.log_variance.add_(0.5 * torch.randn_like(guide.loc))
    return guide


def test_draws_are_in_the_support_and_replay() -> None:
    guide = perturbed(every_support)
    guide_trace = poutine.trace(guide).get_trace()
    model_trace = poutine.trace(poutine.replay(every_support, guide_trace)).get_trace()
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    for name in model_trace.stochastic_nodes:
        ours, theirs = guide_trace.nodes[name], model_trace.nodes[name]
        if name == "groups":
            continue
        assert ours["value"].shape == theirs["value"].shape
        assert ours["fn"].event_shape == theirs["fn"].event_shape
        assert ours["log_prob"].shape == theirs["log_prob"].shape
        assert theirs["fn"].support.check(ours["value"]).all()


@pytest.mark.parametrize("site", ["real", "positive", "half", "share", "mixture", "each"])
def test_law_of_each_family(site: str) -> None:
    """T^-1 of the draws is normal with the flat parameters' moments; quantiles are those of the draws."""
    guide = perturbed(every_support)
    place = next(s for s in guide.sites if s.name == site)
    moments = dict(zip([s.name for s in guide.sites], guide.moments(), strict=True))[site]
    with torch.no_grad():
        sample = guide.distributions()[site].sample((4000,))
        u = biject_to(guide.support(place)).inv(sample).reshape(4000, -1)
        ks_normal(u, mean=moments.loc.reshape(-1).detach(), sd=moments.variance.sqrt().reshape(-1).detach())
        edge = guide.quantiles([0.1])[site][0]
    below = (sample < edge).reshape(4000, -1)[:, 0].sum()
    proportion_is(int(below), 4000, 0.1)


def test_state_goes_to_a_fresh_guide_without_a_call() -> None:
    guide = perturbed(every_support)
    fresh = AutoMeanField(every_support)
    fresh.load_state_dict(guide.state_dict())
    assert fresh.sites == guide.sites
    for name, value in guide.median().items():
        torch.testing.assert_close(fresh.median()[name], value, rtol=0, atol=0)
    for q in (0.1, 0.9):
        for name, value in guide.quantiles([q]).items():
            torch.testing.assert_close(fresh.quantiles([q])[name], value, rtol=0, atol=0)
    torch.manual_seed(3)
    expected = guide()
    torch.manual_seed(3)
    for name, value in fresh().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_loaded_real_and_positive_sites_need_no_data() -> None:
    model = bdl.Regressor(bdl.BayesianModule(nn.Linear(2, 1)), noise=dist.LogNormal(0.0, 1.0))
    guide = perturbed(model, X, X[:, 0])
    fresh = AutoMeanField(model)
    fresh.load_state_dict(guide.state_dict())
    median = fresh.median()
    assert median.keys() == {"weight", "bias", "y.noise"}
    torch.testing.assert_close(median["y.noise"], guide.loc[-1].exp().detach())


def _sites(state: dict[str, Tensor], change: Callable[[list[Any]], None]) -> dict[str, Tensor]:
    rows = json.loads(bytes(state["_extra_state"].tolist()))
    change(rows)
    return state | {"_extra_state": torch.tensor(list(json.dumps(rows).encode()), dtype=torch.uint8)}


WRONG_STATES: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "no sites": lambda s: {k: v for k, v in s.items() if k != "_extra_state"},
    "garbage for sites": lambda s: s | {"_extra_state": torch.randint(0, 255, (50,)).to(torch.uint8)},
    "a number for sites": lambda s: s | {"_extra_state": 3},
    "no loc": lambda s: {k: v for k, v in s.items() if k != "loc"},
    "short loc": lambda s: s | {"loc": s["loc"][:-1]},
    "NaN": lambda s: s | {"log_variance": s["log_variance"] * math.nan},
    "another size": lambda s: _sites(s, lambda rows: rows[0][1].append(2)),
    "overlapping sites": lambda s: _sites(s, lambda rows: rows[1].__setitem__(2, 0)),
    "unknown family": lambda s: _sites(s, lambda rows: rows[0].__setitem__(3, "cauchy")),
    "negative size": lambda s: _sites(s, lambda rows: rows[0].__setitem__(1, [-2, -1])),
    "never called": lambda s: AutoMeanField(every_support).state_dict(),
}


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("case", WRONG_STATES)
def test_wrong_states_are_refused(case: str, fresh: bool) -> None:
    model = bdl.Classifier(bdl.BayesianModule(nn.Linear(2, 3)))
    guide, state = perturbed(model, X, Y), perturbed(model, X, Y).state_dict()
    target = AutoMeanField(model) if fresh else guide
    before = {k: v.clone() for k, v in guide.state_dict().items()}
    with pytest.raises(InputError, match="state: expected"):
        target.load_state_dict(WRONG_STATES[case](state))
    if fresh:
        assert target.sites == ()
    else:
        assert all(torch.equal(v, before[k]) for k, v in guide.state_dict().items())


def test_a_state_of_another_model_is_refused() -> None:
    small, large = (bdl.Classifier(bdl.BayesianModule(nn.Linear(2, k))) for k in (3, 4))
    guide, other = perturbed(small, X, Y), perturbed(large, X, Y)
    with pytest.raises(InputError, match="expected the sites"):
        guide.load_state_dict(other.state_dict())
    fresh = AutoMeanField(small)
    fresh.load_state_dict(other.state_dict())  # nobody can tell before the model runs
    before = fresh.loc.detach().clone()
    with pytest.raises(InputError, match="the model's sites"):
        fresh(X, Y)
    assert torch.equal(fresh.loc, before)


@pytest.mark.parametrize("trained", [False, True])
def test_begins_at_the_networks_own_values(trained: bool) -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    if trained:
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X), Y).backward()
            optimizer.step()
    guide = AutoMeanField(bdl.Classifier(bdl.BayesianModule(net)), init_scale=0.02)
    guide(X, Y)
    for name, parameter in net.named_parameters():
        assert torch.equal(guide.median()[name], parameter)
    torch.testing.assert_close(guide.log_variance, torch.full_like(guide.loc, 2 * math.log(0.02)))


def test_initial_values_of_other_sites() -> None:
    guide = AutoMeanField(every_support)
    median = guide.median()
    assert torch.equal(median["real"], torch.zeros(2, 3))
    torch.testing.assert_close(median["positive"], torch.ones(3))
    torch.testing.assert_close(median["simplex"], torch.full((4,), 0.25))
    jeffreys = bdl.BayesianModule(nn.Linear(2, 3), bdl.priors.GroupNormalJeffreys())
    assert torch.equal(AutoMeanField(jeffreys).median(X)["weight.scale"], torch.ones(2))


def test_two_guides_share_nothing() -> None:
    models = [bdl.Classifier(bdl.BayesianModule(nn.Linear(2, 3))) for _ in range(2)]
    guides = [AutoMeanField(model) for model in models]
    optimizer = pyro.optim.Adam({"lr": 0.1})
    for model, guide in zip(models, guides, strict=True):
        guide(X, Y)
        assert torch.equal(guide.median()["weight"], model.network.net.weight)
    second = guides[1].loc.detach().clone()
    svi = SVI(models[0], guides[0], optimizer, bdl.MeanFieldELBO())
    svi.step(X, Y)
    assert torch.equal(guides[1].loc, second)
    guides[1](X, Y)
    assert torch.equal(guides[1].loc, second)
    before = guides[0].loc.detach().clone()
    svi.step(X, Y)
    assert not torch.equal(guides[0].loc, before)


@pytest.mark.parametrize("wrap", ["plain", "local", "flipout"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, bdl.MeanFieldELBO])
def test_pyros_own_svi(elbo: type, wrap: str) -> None:
    if wrap != "plain" and elbo is not bdl.MeanFieldELBO:
        pytest.skip("Pyro's own ELBOs ask for log_prob of weights that are never drawn")
    model = bdl.Classifier(bdl.BayesianModule(nn.Linear(2, 3)))
    guide = AutoMeanField(model)
    around: Any = {"plain": lambda g: g, "local": bdl.local_reparameterization, "flipout": bdl.flipout}[wrap](guide)
    svi = SVI(model, around, pyro.optim.Adam({"lr": 0.05}), elbo())
    labels = (X[:, 0] > 0).long()
    losses = [svi.step(X, labels) for _ in range(150)]
    assert sum(losses[-20:]) < 0.85 * sum(losses[:20])


def discrete() -> None:
    pyro.sample("k", dist.Categorical(torch.ones(3)))


def subsampled() -> None:
    with pyro.plate("data", 10, subsample_size=2):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def nothing() -> None:
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "discrete": (lambda: AutoMeanField(discrete)(), UnsupportedModelError, "the site k: expected a continuous"),
    "subsampled": (lambda: AutoMeanField(subsampled)(), UnsupportedModelError, 'the plate "data" of 10 with 2'),
    "nothing latent": (lambda: AutoMeanField(nothing)(), InputError, "at least one latent"),
    "scale 0": (lambda: AutoMeanField(every_support, init_scale=0.0), InputError, "init_scale: expected a positive"),
    "scale NaN": (lambda: AutoMeanField(every_support, init_scale=math.nan), InputError, "init_scale"),
    "NaN to begin with": (
        lambda: AutoMeanField(every_support, init_loc_fn=lambda site: site["fn"].sample() * math.nan)(),
        InputError,
        "initial value of real: expected finite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    run, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        run()
