"""Horseshoe priors: their laws in both forms, the two bounds compared, where nodes lie, fits and samplers."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import MCMC, NUTS
from scipy import stats
from torch import Tensor, nn
from torch.distributions import kl_divergence

import pyro_bdl as bdl
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.priors import Gaussian, GroupHorseshoe, RegularizedHorseshoe, Weight
from pyro_bdl.priors.horseshoe import bounded
from tests.statistics import Mismatch, ks_cdf

FORMS = ["quadrature", "decomposed"]
PRIORS: list[Any] = [GroupHorseshoe, RegularizedHorseshoe]
LAYER = nn.Linear(4, 3).double()


def weights(layer: nn.Module = LAYER) -> list[Weight]:
    return [Weight(name, value.detach(), layer) for name, value in layer.named_parameters()]


def scales(prior: Any, n: int) -> dict[str, Tensor]:
    """n prior draws of one node's scales: global, local, and the whole w / raw."""
    with pyro.plate("n", n), torch.no_grad():
        trace = poutine.trace(prior.bind(weights())).get_trace()
    values = {name: node["value"] for name, node in trace.nodes.items() if node["type"] == "sample"}
    drawn = {"whole": (values["weight"] / values["weight.raw"])[..., 0, 0]}
    for part in ("global", "local"):
        if f"weight.{part}" in values:
            drawn[part] = values[f"weight.{part}"][..., 0]
        else:
            product = values[f"weight.{part}.gamma"] * values[f"weight.{part}.inverse_gamma"]
            drawn[part] = product.sqrt()[..., 0]
    return drawn


@pytest.mark.parametrize("form", FORMS)
def test_both_forms_have_half_cauchy_scales(form: Any) -> None:
    drawn = scales(GroupHorseshoe(global_scale=0.3, half_cauchy=form), 20_000)
    ks_cdf(drawn["global"], stats.halfcauchy(scale=0.3).cdf)
    ks_cdf(drawn["local"], stats.halfcauchy().cdf)
    torch.testing.assert_close(drawn["whole"], drawn["global"] * drawn["local"])
    for wrong in (stats.halfcauchy(scale=0.3 * 1.2), stats.halfcauchy(scale=0.3**2), stats.halfnorm(scale=0.3)):
        with pytest.raises(Mismatch):
            ks_cdf(drawn["global"], wrong.cdf)


@pytest.mark.parametrize("form", FORMS)
def test_the_regularised_scale(form: Any) -> None:
    prior = RegularizedHorseshoe(global_scale=0.3, slab_scale=1.5, slab_degrees_of_freedom=3.0, half_cauchy=form)
    with pyro.plate("n", 20_000), torch.no_grad():
        trace = poutine.trace(prior.bind(weights())).get_trace()
    slab = trace.nodes["weight.slab"]["value"][..., 0]
    ks_cdf(slab, stats.invgamma(1.5, scale=1.5 * 1.5**2).cdf)
    with pytest.raises(Mismatch):  # s for s squared
        ks_cdf(slab, stats.invgamma(1.5, scale=1.5 * 1.5).cdf)
    # The slab itself: c times a standard normal number is Student-t.
    ks_cdf(slab.sqrt() * torch.randn(20_000).double(), stats.t(3.0, scale=1.5).cdf)
    if form == "quadrature":
        tau, lam = trace.nodes["weight.global"]["value"], trace.nodes["weight.local"]["value"]
        c2 = slab[:, None]
        expected = tau * (c2 * lam**2 / (c2 + tau**2 * lam**2)).sqrt()
        ratio = (trace.nodes["weight"]["value"] / trace.nodes["weight.raw"]["value"])[:, 0]
        torch.testing.assert_close(ratio, expected)


@settings(max_examples=300, deadline=None)
@given(st.floats(-45.0, 38.0), st.floats(-37.0, 37.0), st.sampled_from([torch.float32, torch.float64]))
def test_bounded_scales_are_finite(log10_scale: float, log10_slab: float, dtype: torch.dtype) -> None:
    u = torch.tensor(10.0**log10_scale, dtype=dtype, requires_grad=True)
    c2 = torch.tensor(10.0**log10_slab, dtype=dtype, requires_grad=True)
    z = bounded(u, c2)
    smaller = min(max(u.item(), torch.finfo(dtype).tiny), math.sqrt(c2.item()))
    assert smaller / 1.5 <= z.item() <= smaller * 1.001
    for gradient, value in zip(torch.autograd.grad(z, (u, c2)), (u, c2), strict=True):
        assert torch.isfinite(gradient * value)


class TestTheTwoBounds:
    """KL of log-normal factors to Gamma and inverse-Gamma, against that of the root of their product."""

    @staticmethod
    def decomposed(a: Tensor, b: Tensor) -> Tensor:
        half = torch.tensor(0.5).double()
        one, sd = torch.ones((), dtype=torch.float64), (a[1].exp(), b[1].exp())
        return kl_divergence(dist.LogNormal(a[0], sd[0]), dist.Gamma(half, one)) + kl_divergence(
            dist.LogNormal(b[0], sd[1]), dist.InverseGamma(half, one)
        )

    @staticmethod
    def direct(a: Tensor, b: Tensor) -> Tensor:
        sd = 0.5 * (a[1].exp().square() + b[1].exp().square()).sqrt()
        return kl_divergence(dist.LogNormal(0.5 * (a[0] + b[0]), sd), dist.HalfCauchy(torch.ones(()).double()))

    def test_quadrature_is_never_the_looser(self) -> None:
        a, b = (torch.randn(2, 1_000).double() * torch.tensor([[3.0], [1.0]]).double() for _ in range(2))
        assert bool((self.direct(a, b) <= self.decomposed(a, b) + 1e-6).all())

    @pytest.mark.parametrize(
        ("mean", "sd", "direct", "gap"), [(0.0, 1.0, 0.100, 0.206), (3.0, 0.1, 4.338, 1.894), (-2.0, 0.3, 2.258, 0.868)]
    )
    def test_how_much_looser_the_best_split_is(self, mean: float, sd: float, direct: float, gap: float) -> None:
        """For a posterior LN(mean, sd^2) of a scale, over all splits into two factors."""
        free = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # shift of the means, share of the variance
        optimizer = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe")

        def split() -> tuple[Tensor, Tensor]:
            share = free[1].sigmoid()
            variance = torch.tensor(4.0 * sd * sd).double()
            a = torch.stack([mean + free[0], 0.5 * (variance * share).log()])
            return a, torch.stack([mean - free[0], 0.5 * (variance * (1 - share)).log()])

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.decomposed(*split())
            loss.backward()
            return loss

        optimizer.step(closure)
        tight, loose = self.direct(*split()).item(), self.decomposed(*split()).item()
        assert tight == pytest.approx(direct, abs=0.01)
        assert loose - tight == pytest.approx(gap, abs=0.01)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", PRIORS)
@pytest.mark.parametrize(
    ("layer", "nodes"), [(nn.Linear(4, 3), 4), (nn.Conv2d(2, 3, 2), 3), (nn.ConvTranspose1d(2, 3, 2), 3)]
)
def test_a_fit_begins_at_the_network(layer: nn.Module, nodes: int, make: Any, form: Any) -> None:
    bnn = bdl.BayesianModule(layer, make(half_cauchy=form))
    x = torch.randn(2, 4) if isinstance(layer, nn.Linear) else torch.randn(2, 2, *(5,) * (layer.weight.dim() - 2))
    guide = bdl.guides.AutoMeanField(bnn)
    guide(x)
    median = guide.median()
    local = "weight.local" if form == "quadrature" else "weight.local.gamma"
    assert median[local].shape == (nodes,)
    with torch.no_grad():
        torch.testing.assert_close(poutine.condition(bnn, data=median)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_scale_is_drawn_for_each_data_point(form: Any) -> None:
    model = bdl.Regressor(bdl.BayesianModule(nn.Linear(4, 1), GroupHorseshoe(half_cauchy=form)), noise=0.1)
    guide = bdl.guides.AutoMeanField(model)
    x = torch.randn(30, 4)
    bdl.fit_svi(model, guide, (x, x[:, 0]), epochs=1, progress=False)
    local = bdl.local_reparameterization(guide, fallback="raise")
    svi = pyro.infer.SVI(model, local, pyro.optim.Adam({"lr": 1e-3}), bdl.MeanFieldELBO())
    assert math.isfinite(svi.step(x, x[:, 0]))
    assert {use.how for use in local.coverage()} == {"local"}
    assert {use.site for use in local.coverage()} == {site.name for site in guide.sites}


def test_the_regularised_scale_gets_one_draw_and_the_report_says_so() -> None:
    model = bdl.Regressor(bdl.BayesianModule(nn.Linear(4, 1), RegularizedHorseshoe()), noise=0.1)
    guide = bdl.guides.AutoMeanField(model)
    x = torch.randn(30, 4)
    fit = bdl.fit_svi(model, guide, (x, x[:, 0]), epochs=1, progress=False)
    how = {use.site: use.how for use in fit.coverage}
    assert how == {"weight.raw": "local", "bias": "local"} | dict.fromkeys(
        ("weight.global", "weight.local", "weight.slab"), "drawn"
    )
    strict = bdl.local_reparameterization(guide, fallback="raise")
    svi = pyro.infer.SVI(model, strict, pyro.optim.Adam({}), bdl.MeanFieldELBO())
    with pytest.raises(UnsupportedModelError, match="no rule"):
        svi.step(x, x[:, 0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", PRIORS)
def test_it_switches_off_inputs_that_say_nothing(make: Any, form: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator)
    y = 2.0 * x[:, 0] - x[:, 1] + 0.1 * torch.randn(300, generator=generator)
    prior = make(half_cauchy=form, global_scale=1e-3)
    model = bdl.Regressor(bdl.BayesianModule(nn.Linear(6, 1), prior), noise=0.1)
    guide = bdl.guides.AutoMeanField(model)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.05)

    bdl.fit_svi(model, guide, (x, y), epochs=150, optimizer=adam, batch_size=300, progress=False)
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(model, data=guide.median())).get_trace(x, y)
        weight = trace.nodes["weight"]["value"][0]
    assert weight[:2].tolist() == pytest.approx([2.0, -1.0], abs=0.1)
    assert weight[2:].abs().max() < 0.02


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", PRIORS)
def test_nuts_and_sgld_run(make: Any, form: Any) -> None:
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    bnn = bdl.BayesianModule(nn.Linear(2, 1), make(half_cauchy=form, global_scale=0.1))
    model = bdl.Regressor(bnn, noise=0.5)
    assert bnn(x).shape == (20, 1)
    for kernel, arguments in (
        (NUTS(model, max_tree_depth=3), (x, x[:, 0])),
        (bdl.SGLD(model, step_size=bdl.Constant(1e-5), data=(x, x[:, 0])), ()),
    ):
        mcmc = MCMC(kernel, num_samples=10, warmup_steps=5, disable_progbar=True)
        mcmc.run(*arguments)
        draws = mcmc.get_samples()
        assert draws["weight.raw"].shape == (10, 1, 2)
        assert all(bool(torch.isfinite(value).all()) for value in draws.values())


@pytest.mark.parametrize("make", PRIORS)
@pytest.mark.parametrize("options", [
    {"global_scale": 0.0}, {"global_scale": math.nan}, {"half_cauchy": "exact"}, {"half_cauchy": None},
])  # fmt: skip
def test_bad_options_are_refused(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        make(**options)


@pytest.mark.parametrize("options", [{"slab_scale": -1.0}, {"slab_degrees_of_freedom": math.inf}])
def test_bad_slabs_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="positive finite"):
        RegularizedHorseshoe(**options)


def test_a_scale_whose_square_underflows_is_refused() -> None:
    with pytest.raises(InputError, match=r"global_scale: expected between 1.1e-19"):
        bdl.BayesianModule(nn.Linear(2, 1), GroupHorseshoe(global_scale=1e-30))


def test_biases_have_the_prior_of_rest() -> None:
    trace = poutine.trace(GroupHorseshoe(rest=Gaussian(0.1)).bind(weights())).get_trace()
    assert trace.nodes["bias"]["fn"].base_dist.scale.eq(0.1).all()
