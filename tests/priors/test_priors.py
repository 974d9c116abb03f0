"""Priors of named weights: densities, hierarchy, choice by name, refusals."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from scipy import stats
from torch import Tensor, nn

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.errors import ImproperPriorError, InputError
from pyro_bdl.priors import ByName, Gaussian, GroupNormalJeffreys, Laplace, Prior, ScaleMixture, StudentT, Weight
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import Mismatch, ks_cdf

LAYER = nn.Linear(4, 3).double()


def weights(layer: nn.Module = LAYER) -> list[Weight]:
    return [Weight(name, value.detach(), layer) for name, value in layer.named_parameters()]


class Mixture:
    """The law of ScaleMixture(0.25, 2, 0.5) by scipy."""

    def logpdf(self, w: Any) -> Any:
        return np.log(0.25 * stats.norm.pdf(w, scale=2.0) + 0.75 * stats.norm.pdf(w, scale=0.5))

    def cdf(self, w: Any) -> Any:
        return 0.25 * stats.norm.cdf(w, scale=2.0) + 0.75 * stats.norm.cdf(w, scale=0.5)


LAWS: dict[str, tuple[Prior, Any, Any]] = {  # the prior, the law of the weight, the law of the bias
    "Gaussian": (Gaussian(), stats.norm(), stats.norm()),
    "Gaussian of scale 2": (Gaussian(2.0), stats.norm(scale=2.0), stats.norm(scale=2.0)),
    "Gaussian by fan-in": (Gaussian(3.0, fan_in=True), stats.norm(scale=1.5), stats.norm(scale=3.0)),
    "Laplace": (Laplace(0.5), stats.laplace(scale=0.5), stats.laplace(scale=0.5)),
    "StudentT": (StudentT(4.0, 0.7), stats.t(4.0, scale=0.7), stats.t(4.0, scale=0.7)),
    "ScaleMixture": (ScaleMixture(0.25, 2.0, 0.5), Mixture(), Mixture()),
}


@pytest.mark.parametrize("name", LAWS)
def test_density(name: str) -> None:
    prior, *laws = LAWS[name]
    trace = poutine.trace(prior.bind(weights())).get_trace()
    trace.compute_log_prob()
    for site, law in zip(("weight", "bias"), laws, strict=True):
        node = trace.nodes[site]
        assert node["log_prob"].shape == ()  # all dimensions are event dimensions
        assert node["value"].dtype == torch.float64
        np.testing.assert_allclose(node["log_prob"].item(), law.logpdf(node["value"].numpy()).sum(), rtol=1e-9)


def draws(prior: Prior, site: str, n: int) -> Tensor:
    program = prior.bind(weights())
    with pyro.plate("n", n):
        return program()[site].reshape(-1)


@pytest.mark.parametrize("name", LAWS)
def test_draws_have_the_law(name: str) -> None:
    prior, law, bias = LAWS[name]
    ks_cdf(draws(prior, "weight", 2_000), law.cdf)
    ks_cdf(draws(prior, "bias", 4_000), bias.cdf)


@pytest.mark.parametrize("mutant", [
    Gaussian(3.0, fan_in=False), Gaussian(1.5**2), Gaussian(1.5 * 1.05), Gaussian(3.0 / math.sqrt(3.0)),
], ids=["no fan-in", "variance for scale", "x 1.05", "fan-out"])  # fmt: skip
def test_mutants_are_caught(mutant: Gaussian) -> None:
    with pytest.raises(Mismatch):
        ks_cdf(draws(mutant, "weight", 20_000), LAWS["Gaussian by fan-in"][1].cdf)


@pytest.mark.parametrize(("layer", "fan_in", "input_dim"), [
    (nn.Linear(4, 3), 4, 1),
    (nn.Conv2d(2, 3, (3, 2)), 12, 1),
    (nn.Conv1d(4, 6, 3, groups=2), 6, 1),
    (nn.ConvTranspose1d(2, 3, 5), 10, 0),
])  # fmt: skip
def test_fan_in(layer: nn.Module, fan_in: int, input_dim: int) -> None:
    weight, bias = weights(layer)
    assert (weight.fan_in, weight.input_dim, weight.output_dim) == (fan_in, input_dim, 1 - input_dim)
    assert bias.fan_in == 1


@pytest.mark.parametrize("name", LAWS)
def test_guides_begin_at_the_networks_own_values(name: str) -> None:
    trace = poutine.trace(LAWS[name][0].bind(weights())).get_trace()
    for weight in weights():
        assert torch.equal(trace.nodes[weight.name]["infer"]["initial_value"], weight.value)


class TestGroupNormalJeffreys:
    @pytest.mark.parametrize(("layer", "shape"), [
        (nn.Linear(4, 3), (1, 4)),
        (nn.Conv2d(2, 3, 2), (3, 1, 1, 1)),
        (nn.ConvTranspose1d(2, 3, 2), (1, 3, 1)),
    ])  # fmt: skip
    def test_nodes_are_inputs_of_linear_layers_and_outputs_of_convolutions(
        self, layer: nn.Module, shape: tuple[int, ...]
    ) -> None:
        scale = torch.arange(1.0, 1.0 + math.prod(shape))
        raw = torch.randn(weights(layer)[0].value.shape)
        program = GroupNormalJeffreys().bind(weights(layer))
        trace = poutine.trace(poutine.condition(program, data={"weight.scale": scale, "weight.raw": raw})).get_trace()
        torch.testing.assert_close(trace.nodes["_RETURN"]["value"]["weight"], raw * scale.reshape(shape))
        torch.testing.assert_close(trace.nodes["weight"]["value"], raw * scale.reshape(shape))
        assert trace.nodes["weight"]["infer"]["_deterministic"]

    def test_density(self) -> None:
        scale, raw, bias = torch.tensor([0.5, 2.0, 1.0, 4.0]).double(), torch.randn(3, 4).double(), torch.zeros(3)
        data = {"weight.scale": scale, "weight.raw": raw, "bias": bias.double()}
        program = GroupNormalJeffreys(rest=Laplace(2.0)).bind(weights())
        trace = poutine.trace(poutine.condition(program, data=data)).get_trace()
        expected = -np.log(scale.numpy()).sum() + stats.norm.logpdf(raw.numpy()).sum() - 3 * math.log(4.0)
        np.testing.assert_allclose(trace.log_prob_sum().item(), expected, rtol=1e-6)

    def test_a_prior_draw_is_refused_with_the_reason(self) -> None:
        bnn = BayesianModule(nn.Linear(4, 3), GroupNormalJeffreys())
        with pytest.raises(ImproperPriorError, match=r"infinite|improper.*Hron.*Fit it by SVI.*proper prior"):
            bnn(torch.ones(2, 4))

    @pytest.mark.parametrize("ask", ["trace", "NUTS"])
    def test_a_trace_and_nuts_are_refused_with_the_reason(self, ask: str) -> None:
        bnn = BayesianModule(nn.Linear(4, 3), GroupNormalJeffreys())
        run: dict[str, Callable[[Tensor], Any]] = {
            "trace": lambda x: poutine.trace(bnn).get_trace(x),
            "NUTS": lambda x: MCMC(NUTS(bnn), num_samples=1, warmup_steps=1, disable_progbar=True).run(x),
        }
        with pytest.raises(ImproperPriorError, match=r"improper.*Hron.*Fit it by SVI.*proper prior"):
            run[ask](torch.ones(2, 4))


class TestByName:
    def test_the_first_pattern_that_fits_decides(self) -> None:
        net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        prior = ByName({"*.bias": Laplace(2.0), "0.*": StudentT(), "*": Gaussian(0.1)})
        trace = poutine.trace(BayesianModule(net, prior)).get_trace(torch.ones(1, 4))
        kinds = {name: type(trace.nodes[name]["fn"].base_dist).__name__ for name in trace.stochastic_nodes}
        assert kinds == {"0.weight": "StudentT", "0.bias": "Laplace", "1.weight": "Normal", "1.bias": "Laplace"}
        assert trace.nodes["1.weight"]["fn"].base_dist.scale.eq(0.1).all()

    def test_hierarchical_priors_for_some(self) -> None:
        net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        bnn = BayesianModule(net, ByName({"0.weight": GroupNormalJeffreys(), "*": Gaussian()}))
        data = {"0.weight.scale": torch.ones(4)}
        sites = poutine.trace(poutine.condition(bnn, data=data)).get_trace(torch.ones(1, 4)).stochastic_nodes
        assert sites == ["0.weight.raw", "0.bias", "1.weight", "1.bias"]

    @pytest.mark.parametrize(("priors", "message"), [
        ({}, "at least one pattern"),
        ({"weight": Gaussian()}, r'prior of bias.*pattern that fits.*Add a last pattern "\*"'),
        ({"*": Gaussian(), "bias": Laplace()}, "pattern 'bias'.*none that is left"),
        ({"conv*": Gaussian(), "*": Laplace()}, r"pattern 'conv\*'"),
    ])  # fmt: skip
    def test_patterns_that_do_not_fit_are_refused(self, priors: dict[str, Prior], message: str) -> None:
        with pytest.raises(InputError, match=message):
            ByName(priors).bind(weights())


BAD_NUMBERS = [0.0, -1.0, math.nan, math.inf, "1", None]


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize("make", [
    Gaussian, Laplace, StudentT, lambda v: StudentT(3.0, v), lambda v: ScaleMixture(0.5, v),
    lambda v: ScaleMixture(0.5, 1.0, v),
])  # fmt: skip
def test_hyperparameters_that_are_no_positive_number_are_refused(make: Callable[[Any], Prior], value: Any) -> None:
    with pytest.raises(InputError, match="expected a positive finite number, got"):
        make(value)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan, "0.5", None])
def test_a_share_outside_the_unit_interval_is_refused(share: Any) -> None:
    with pytest.raises(InputError, match=r"weight: expected a share in \(0, 1\)"):
        ScaleMixture(share)


def test_a_narrow_component_wider_than_the_wide_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"narrow: expected less than wide = 1\.0"):
        ScaleMixture(0.5, 1.0, 2.0)


def test_the_fan_in_of_transposed_convolutions_is_that_of_one_group() -> None:
    layer = nn.ConvTranspose2d(4, 8, 3, groups=2)
    assert Weight("w", layer.weight, layer).fan_in == 2 * 9
