"""The moments of weights under guides: exact for products, against drawn weights, and what is refused."""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoGuideList, AutoMultivariateNormal, AutoNormal
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.guides.initial import init_to_network
from pyro_bdl.priors import ByName, Gaussian, GroupHorseshoe, GroupNormalJeffreys, LogUniform, RegularizedHorseshoe
from pyro_bdl.priors.horseshoe import bounded
from pyro_bdl.weight_moments import weight_posterior
from tests.compression.units.unprunable_networks import Tied
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import Mismatch, mean_is

DRAWS = 40_000
Draws = dict[str, Tensor]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.ConvTranspose2d(3, 2, 2), nn.Flatten(), nn.Linear(32, 2))


def fitted(net: nn.Module, prior: Any, x: Tensor, *, init_scale: float = 0.3) -> bdl.guides.AutoMeanField:
    """A guide whose means and variances are anything."""
    guide = bdl.guides.AutoMeanField(bdl.Classifier(bdl.BayesianModule(net, prior)), init_scale=init_scale)
    guide(x, torch.zeros(len(x)).long())
    with torch.no_grad():
        guide.loc += 0.3 * torch.randn_like(guide.loc)
        guide.log_variance += 0.5 * torch.randn_like(guide.log_variance)
    return guide


def sites(guide: Any, count: int) -> Draws:
    return {name: law.sample((count,)).double() for name, law in guide.distributions().items()}


def scale_shape(weight: Tensor, scale: Tensor) -> Tensor:
    """A node scale against its weights: output channels of a convolution, input units of a linear layer."""
    if weight.dim() == 3:
        return scale[:, None, :]
    dim = 2 if scale.shape[1] == weight.shape[2] != weight.shape[1] else 1
    return scale.reshape(len(scale), *(scale.shape[1] if d == dim else 1 for d in range(1, weight.dim())))


def plain(drawn: Draws, name: str) -> Tensor:
    return drawn[name]


def jeffreys(drawn: Draws, name: str) -> Tensor:
    raw = drawn[f"{name}.raw"]
    return raw * scale_shape(raw, drawn[f"{name}.scale"])


def horseshoe(drawn: Draws, name: str) -> Tensor:
    raw = drawn[f"{name}.raw"]
    return raw * scale_shape(raw, drawn[f"{name}.global"] * drawn[f"{name}.local"])


def decomposed(drawn: Draws, name: str) -> Tensor:
    raw, factors = (
        drawn[f"{name}.raw"],
        [f"{name}.{s}.{f}" for s in ("global", "local") for f in ("gamma", "inverse_gamma")],
    )
    g, h, a, b = (drawn[factor] for factor in factors)
    return raw * scale_shape(raw, (g * h * a * b).sqrt())


def regularized(drawn: Draws, name: str) -> Tensor:
    raw = drawn[f"{name}.raw"]
    return raw * scale_shape(raw, bounded(drawn[f"{name}.global"] * drawn[f"{name}.local"], drawn[f"{name}.slab"]))


CASES: dict[str, tuple[Callable[[], Any], Callable[[Draws, str], Tensor]]] = {
    "gaussian": (Gaussian, plain),
    "log-uniform": (LogUniform, plain),
    "jeffreys": (GroupNormalJeffreys, jeffreys),
    "horseshoe": (GroupHorseshoe, horseshoe),
    "horseshoe, decomposed": (lambda: GroupHorseshoe(half_cauchy="decomposed"), decomposed),
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (1, 3)),
    "conv": (conv, (1, 1, 4, 4)),
}


def require_moments(found: WeightPosterior, drawn: Callable[[str], Tensor]) -> None:
    """Means and variances are those of the draws. Finds errors of about 4% of the variance, see `mean_is`."""
    rows: list[Tensor] = []
    for name, mean in found.mean.items():
        values, m, v = drawn(name), mean.double(), found.variance[name].double()
        z = (values - m) / v.sqrt()
        rows += [z.flatten(1), (z.square() - 1).flatten(1)]
    samples = torch.cat(rows, 1)
    mean_is(samples.numpy(), np.zeros(samples.shape[1]))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", CASES)
def test_against_drawn_weights(network: str, case: str) -> None:
    build, shape = NETWORKS[network]
    prior, weight = CASES[case]
    net, x = build(), torch.zeros(shape)
    guide = fitted(net, prior(), x, init_scale=0.15)
    found = weight_posterior(net, guide, x)
    drawn = sites(guide, DRAWS)

    def of(name: str) -> Tensor:
        return drawn[name] if name.endswith("bias") else weight(drawn, name)

    require_moments(found, of)
    for mutant in mutants(found, guide):
        with pytest.raises(Mismatch):
            require_moments(mutant, of)


def mutants(found: WeightPosterior, guide: Any) -> list[WeightPosterior]:
    """Ten percent too much variance, means ten percent too small, and, with scales, the variance of the raw weight."""
    wrong = [
        WeightPosterior(found.mean, {n: 1.1 * v for n, v in found.variance.items()}),
        WeightPosterior({n: 0.9 * m for n, m in found.mean.items()}, found.variance),
    ]
    if f"{(name := '0.weight')}.raw" in (laws := guide.distributions()):
        raw = laws[f"{name}.raw"].variance.detach()
        wrong.append(WeightPosterior(found.mean, {**found.variance, name: raw}))
    return wrong


def test_a_scale_common_to_a_layer_counts() -> None:
    """The variance of the global scale is part of each weight's: without it the moments are others."""
    net, x = mlp(), torch.zeros(1, 3)
    guide = fitted(net, GroupHorseshoe(), x)
    laws = guide.distributions()
    found = weight_posterior(net, guide, x)
    s, z, w = (laws[f"0.weight.{part}"] for part in ("global", "local", "raw"))
    mean = s.mean * z.mean * w.mean
    second = (s.variance + s.mean**2) * (z.variance + z.mean**2) * (w.variance + w.mean**2)
    torch.testing.assert_close(found.mean["0.weight"], mean)
    torch.testing.assert_close(found.variance["0.weight"], second - mean**2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_scales_are_finite_or_refused(dtype: torch.dtype) -> None:
    net = mlp().to(dtype)
    x = torch.zeros(1, 3, dtype=dtype)
    for loc, log_variance in ((-200.0, -100.0), (0.0, -200.0), (20.0, 2.0), (0.0, 3.0), (-300.0, 5.0), (400.0, 0.0)):
        guide = fitted(net, GroupNormalJeffreys(), x)
        with torch.no_grad():
            guide.loc[:3], guide.log_variance[:3] = loc, log_variance
        try:
            found = weight_posterior(net, guide, x)
        except InputError as error:
            assert "finite" in str(error)  # noqa: PT017
        else:
            assert all(bool((v >= 0).all() & v.isfinite().all()) for v in found.variance.values())


def test_moments_by_sampling_for_scales_that_are_no_product() -> None:
    net, x = mlp(), torch.zeros(1, 3)
    guide = fitted(net, RegularizedHorseshoe(global_scale=0.1), x, init_scale=0.2)
    found = weight_posterior(net, guide, x)
    drawn = sites(guide, DRAWS)
    for name in ("0.weight", "2.weight"):
        exact = regularized(drawn, name)
        error = (found.mean[name] - exact.mean(0)).abs() / exact.std(0)
        assert float(error.max()) < 6 / 16  # the deviation of 256 draws' mean; 20 numbers at 6 deviations: 4e-8
        # 256 draws of numbers of some kurtosis k: the variance is off by about sqrt((k - 1) / 256).
        kurtosis = (((exact - exact.mean(0)) / exact.std(0)) ** 4).mean(0)
        ratio = (found.variance[name] / exact.var(0) - 1).abs()
        assert bool((ratio < 8 * ((kurtosis - 1) / 256).sqrt()).all())
    assert torch.equal(found.mean["0.bias"], guide.median()["0.bias"])  # known without drawing


@pytest.mark.parametrize("make", [AutoDiagonalNormal, AutoMultivariateNormal])
def test_pyros_joint_guides(make: Any) -> None:
    net, x = mlp(), torch.zeros(1, 3)
    guide = make(bdl.Classifier(bdl.BayesianModule(net)), init_scale=0.5)
    guide(x, torch.zeros(1).long())
    found = weight_posterior(net, guide, x)
    for name, value in guide.median(x).items():
        assert float((found.mean[name] - value).abs().max()) < 0.5 * 6 / 16
        assert float((found.variance[name] / 0.25 - 1).abs().max()) < 8 * (2 / 256) ** 0.5


def test_auto_normal() -> None:
    net, x = conv(), torch.zeros(1, 1, 4, 4)
    for prior in (Gaussian(), GroupNormalJeffreys()):
        model = bdl.Classifier(bdl.BayesianModule(net, prior))
        guide = AutoNormal(model, init_loc_fn=init_to_network, init_scale=0.2)
        guide(x, torch.zeros(1).long())
        found = weight_posterior(net, guide, x)
        if isinstance(prior, Gaussian):
            assert torch.equal(found.mean["0.weight"], net[0].weight)
            torch.testing.assert_close(found.variance["0.weight"], torch.full((3, 1, 2, 2), 0.04))
        else:  # Pyro transforms the scales itself: by sampling
            second = math.exp(2 * 0.04) * (net[0].weight.square() + 0.04)
            exact = (second - math.exp(0.04) * net[0].weight.square()).detach()
            assert bool(((found.variance["0.weight"] / exact - 1).abs() < 8 * (3 / 256) ** 0.5).all())
        torch.testing.assert_close(found.variance["0.bias"], torch.full((3,), 0.04))


def test_a_prior_by_name_and_parameters_that_are_not_random() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    net.train()
    x = torch.zeros(2, 3)
    prior = ByName({"0.weight": GroupHorseshoe(), "*.bias": Gaussian(), "*": LogUniform()})
    bnn = bdl.BayesianModule(net, prior, select=["0.*", "3.*"])
    guide = bdl.guides.AutoMeanField(bdl.Classifier(bnn), init_scale=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guide(x, torch.zeros(2).long())
        buffers = copy.deepcopy(dict(net.named_buffers()))
        found = weight_posterior(bnn, guide, x)
    assert list(found.mean) == [name for name, _ in net.named_parameters()]
    assert found.variance["1.weight"].count_nonzero() == 0
    assert torch.equal(found.mean["1.weight"], net[1].weight)
    assert found.mean["1.weight"].data_ptr() != net[1].weight.data_ptr()
    assert bool((found.variance["3.bias"] > 0.03).all())
    assert all(torch.equal(b, buffers[n]) for n, b in net.named_buffers())
    assert all(module.training for module in net.modules())


def test_tied_weights_are_one() -> None:
    net, x = Tied(), torch.zeros(1, 4)
    found = weight_posterior(net, fitted(net, GroupNormalJeffreys(), x), x)
    assert list(found.mean) == [name for name, _ in net.named_parameters()]
    assert bool((found.variance["second.weight"] > 0).all())


def test_a_guide_written_by_hand() -> None:
    net = nn.Linear(2, 1)
    bnn = bdl.BayesianModule(net)

    def guide(x: Tensor) -> None:
        pyro.sample("weight", dist.Normal(torch.ones(1, 2), 0.5).to_event(2))
        pyro.sample("bias", dist.Delta(torch.ones(1), event_dim=1))

    with pytest.raises(InputError, match="local_reparameterization"):
        weight_posterior(net, guide, torch.zeros(1, 2))
    found = weight_posterior(net, bdl.local_reparameterization(guide, model=bnn), torch.zeros(1, 2))
    assert found.mean["weight"].tolist() == [[1.0, 1.0]]
    assert found.variance["weight"].tolist() == [[0.25, 0.25]]
    assert (found.mean["bias"].tolist(), found.variance["bias"].tolist()) == ([1.0], [0.0])


def test_some_weights_as_points() -> None:
    net = nn.Linear(2, 1)
    model = bdl.BayesianModule(net)
    guide = AutoGuideList(model)
    guide.append(AutoDelta(pyro.poutine.block(model, expose=["bias"])))
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["weight"]), init_scale=0.5))
    guide(torch.zeros(1, 2))
    found = weight_posterior(net, guide, torch.zeros(1, 2))
    assert found.variance["bias"].item() == 0
    torch.testing.assert_close(found.variance["weight"], torch.full((1, 2), 0.25))


def test_a_posterior_without_scales_is_refused() -> None:
    net, x = mlp(), torch.zeros(1, 3)
    guide = AutoDelta(bdl.Classifier(bdl.BayesianModule(net)))
    guide(x, torch.zeros(1).long())
    with pytest.raises(UnsupportedModelError, match="point values"):
        weight_posterior(net, guide, x)


def test_another_network_is_refused() -> None:
    net, x = mlp(), torch.zeros(1, 3)
    guide = fitted(net, Gaussian(), x)
    with pytest.raises(InputError, match="does not call"):
        weight_posterior(mlp(), guide, x)
    assert not net._forward_pre_hooks


def test_nothing_is_changed() -> None:
    net, x = mlp(), torch.zeros(1, 3)
    net[0].eval()
    guide = fitted(net, RegularizedHorseshoe(), x)
    for p in [*net.parameters(), *guide.parameters()]:
        p.grad = torch.ones_like(p)
    before = copy.deepcopy([*net.state_dict().values(), *guide.state_dict().values()]), torch.get_rng_state()
    first, second = weight_posterior(net, guide, x), weight_posterior(net, guide, x)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before[0], [*net.state_dict().values(), *guide.state_dict().values()], strict=True)
    )
    assert torch.equal(before[1], torch.get_rng_state())
    assert [m.training for m in net.modules()] == [True, False, True, True]
    assert all(bool((p.grad == 1).all()) for p in [*net.parameters(), *guide.parameters()])
    assert all(torch.equal(first.variance[n], second.variance[n]) for n in first.variance)
    assert not net._forward_pre_hooks
