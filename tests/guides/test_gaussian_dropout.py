"""GaussianDropout: rates for layers, units and weights; fits, saved states, refusals."""

import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.distributions.kl import dropout_kl
from pyro_bdl.errors import InputError
from pyro_bdl.guides import AutoMeanField, GaussianDropout
from pyro_bdl.inference.kl_terms import kl_terms
from pyro_bdl.priors import ByName, Gaussian, GroupNormalJeffreys, LogUniform
from tests.statistics import Mismatch, ks_normal

X = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum((1, 2, 3)) > 0).long()


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.ConvTranspose2d(2, 3, 2), nn.Flatten(),
        nn.Linear(75, 4), nn.ReLU(), nn.Linear(4, 2),
    )  # fmt: skip


def model() -> Any:
    return bdl.Classifier(bdl.BayesianModule(network(), LogUniform()))


SHAPES: dict[Any, list[tuple[int, ...]]] = {
    "layer": [(1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (1, 1)],
    "unit": [(1, 1, 1, 1), (2, 1, 1, 1), (1, 75), (1, 4)],
    "weight": [(2, 1, 3, 3), (2, 3, 2, 2), (4, 75), (2, 4)],
}


def perturbed(per: Any, **options: Any) -> GaussianDropout:
    guide = GaussianDropout(model(), per=per, **options)
    guide(X, Y)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return guide


@pytest.mark.parametrize("per", SHAPES)
def test_each_rate_has_its_place(per: Any) -> None:
    guide = perturbed(per)
    alphas = guide.alphas()
    assert [tuple(a.shape) for a in alphas.values()] == SHAPES[per]
    assert list(alphas) == ["0.weight", "2.weight", "4.weight", "6.weight"]
    assert all(bool((a > 0).all() & (a < 1).all()) for a in alphas.values())
    moments = dict(zip([s.name for s in guide.sites], guide.moments(), strict=True))
    for name, alpha in alphas.items():
        torch.testing.assert_close(moments[name].variance, alpha * moments[name].loc.square())
    assert len(guide.rate) == sum(math.prod(shape) for shape in SHAPES[per])
    assert len(guide.log_variance) == 2 + 3 + 4 + 2  # the biases


def test_the_law_of_the_draws() -> None:
    guide = perturbed("unit", init_alpha=0.5)
    mean, alpha = guide.median()["6.weight"], guide.alphas()["6.weight"]
    draws = torch.stack([guide(X, Y)["6.weight"].detach() for _ in range(3_000)]).reshape(3_000, -1)
    sd = alpha.sqrt().expand_as(mean) * mean.abs()
    ks_normal(draws, mean=mean.reshape(-1), sd=sd.reshape(-1))
    with pytest.raises(Mismatch):  # alpha taken for its root
        ks_normal(draws, mean=mean.reshape(-1), sd=(sd * alpha.sqrt()).reshape(-1))


@pytest.mark.parametrize("per", SHAPES)
def test_the_kl_is_that_of_each_weights_rate(per: Any) -> None:
    guide = perturbed(per)
    guide_trace = poutine.trace(guide).get_trace(X, Y)
    model_trace = poutine.trace(poutine.replay(guide.model, guide_trace)).get_trace(X, Y)
    terms = dict(kl_terms(model_trace, guide_trace))
    for name, alpha in guide.alphas().items():
        expected = dropout_kl(alpha.log().expand(guide.median()[name].shape)).sum()
        torch.testing.assert_close(terms[name].detach(), expected)


@pytest.mark.parametrize("estimator", ["local", "plain", "flipout"])
@pytest.mark.parametrize("per", SHAPES)
def test_fits(per: Any, estimator: Any) -> None:
    guide = GaussianDropout(model(), per=per)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.02)

    fit = bdl.fit_svi(
        guide.model, guide, (X, Y), epochs=30, kl_warmup=5, optimizer=adam, estimator=estimator, progress=False
    )
    assert len(fit.losses) == 30
    assert all(math.isfinite(loss) for loss in fit.losses)
    assert any(bool((a != 0.25).any()) for a in guide.alphas().values())
    if estimator == "local":
        assert {use.how for use in fit.coverage} == {"local"}


def test_the_kl_alone_drives_rates_to_the_bound_and_leaves_means() -> None:
    guide = GaussianDropout(bdl.BayesianModule(nn.Linear(3, 2), LogUniform(rest=LogUniform())), per="unit")
    before = guide(X[:, 0, 0, :3])
    assert before
    mean = guide.loc.detach().clone()
    svi = SVI(guide.model, bdl.local_reparameterization(guide), pyro.optim.SGD({"lr": 1.0}), bdl.MeanFieldELBO())
    for _ in range(200):
        svi.step(X[:, 0, 0, :3])
    assert torch.equal(guide.loc[:6], mean[:6])
    alpha = guide.alphas()["weight"]
    assert bool((alpha > 0.95).all() & (alpha <= 1.0).all())


def test_without_a_maximum() -> None:
    guide = GaussianDropout(model(), per="weight", max_alpha=None, init_alpha=3.0)
    guide(X, Y)
    assert all(torch.allclose(a, torch.tensor(3.0)) for a in guide.alphas().values())


@pytest.mark.parametrize("per", SHAPES)
def test_state_goes_to_a_fresh_guide(per: Any) -> None:
    guide = perturbed(per)
    fresh = GaussianDropout(guide.model, per=per)
    fresh.load_state_dict(guide.state_dict())
    for ours, theirs in ((fresh.median(), guide.median()), (fresh.alphas(), guide.alphas())):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    torch.manual_seed(1)
    expected = guide(X, Y)
    torch.manual_seed(1)
    assert all(torch.equal(value, expected[name]) for name, value in fresh(X, Y).items())


def _without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k != name}


WRONG = {
    "of AutoMeanField": lambda s: AutoMeanField(model()).state_dict(),
    "of another kind of rate": lambda s: perturbed("layer").state_dict(),
    "of another maximum": lambda s: perturbed("unit", max_alpha=None).state_dict(),
    "garbage": lambda s: s | {"_extra_state": torch.randint(0, 255, (60,)).to(torch.uint8)},
    "no rate": lambda s: _without(s, "rate"),
    "no loc": lambda s: _without(s, "loc"),
    "short log_variance": lambda s: s | {"log_variance": s["log_variance"][1:]},
    "NaN": lambda s: s | {"rate": s["rate"] * math.nan},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_states_are_refused(case: str) -> None:
    guide = perturbed("unit")
    for target in (guide, GaussianDropout(guide.model, per="unit")):
        before = {k: v.clone() for k, v in target.state_dict().items()}
        with pytest.raises(InputError, match="state: expected"):
            target.load_state_dict(WRONG[case](guide.state_dict()))
        after = target.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(v, before[k]) for k, v in after.items())


@pytest.mark.parametrize("options", [
    {"per": "filter"}, {"max_alpha": 0.0}, {"max_alpha": math.nan}, {"init_alpha": 0.0}, {"init_alpha": 1.0},
    {"init_alpha": math.nan}, {"init_scale": -1.0},
])  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        GaussianDropout(model(), **options)


def test_a_model_without_log_uniform_matrices_is_refused() -> None:
    with pytest.raises(InputError, match=r"log-uniform matrix.*LogUniform\(\)"):
        GaussianDropout(bdl.BayesianModule(nn.Linear(2, 1)))(torch.ones(1, 2))


def test_other_priors_keep_a_variance_of_their_own() -> None:
    prior = ByName({"0.*": GroupNormalJeffreys(), "4.*": LogUniform(), "*": Gaussian()})
    guide = GaussianDropout(bdl.Classifier(bdl.BayesianModule(network(), prior)))
    guide(X, Y)
    assert list(guide.alphas()) == ["4.weight"]
    law = guide.distributions()["0.weight.scale"]
    torch.testing.assert_close(law.variance, torch.full((2,), 1e-4))
