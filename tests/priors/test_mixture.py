"""Soft weight sharing: density, hyper-priors, what it learns, merging, assignment, states."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from scipy import stats
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.errors import InputError
from pyro_bdl.guides import AutoMeanField, init_to_network
from pyro_bdl.priors import ByName, Gaussian, SoftWeightSharing, Weight

X = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
CENTRES, SHARES = torch.tensor([-0.6, 0.0, 0.4]), torch.tensor([0.1, 0.7, 0.2])


def clustered(seed: int = 2) -> nn.Linear:
    """A trained network, as it were: weights near three values, most of them near zero."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(10, 40)
    with torch.no_grad():
        for p in layer.parameters():
            which = torch.multinomial(SHARES, p.numel(), replacement=True, generator=generator)
            p.copy_((CENTRES[which] + 0.02 * torch.randn(p.numel(), generator=generator)).view(p.shape))
    return layer


def values(layer: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in layer.parameters()])


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


def sharing(**options: Any) -> SoftWeightSharing:
    return SoftWeightSharing(**{"components": 6, "zero_share": 0.7} | options)


def regression(layer: nn.Module, prior: Any, noise: float = 0.05) -> Any:
    """Targets are the network's own outputs: the likelihood holds the weights where they are."""
    bnn = bdl.BayesianModule(layer, prior)

    def model(x: Tensor, y: Tensor) -> Tensor:
        mean = bnn(x)
        with pyro.plate("data", size=50, subsample_size=len(x)):
            return pyro.sample("y", dist.Normal(mean, noise).to_event(1), obs=y)

    return model


def test_density() -> None:
    prior, layer = sharing(), clustered()
    program = prior.bind([Weight(name, value.detach(), layer) for name, value in layer.named_parameters()])
    own = {name: value.detach() for name, value in layer.named_parameters()}
    trace = poutine.trace(poutine.condition(program, data=own)).get_trace()
    shares, means, scales = (part.double().numpy() for part in prior.components)
    assert (shares[0], means[0]) == (pytest.approx(0.7), 0.0)
    assert shares.sum() == pytest.approx(1.0)
    w = values(layer).double().numpy()
    density = sum(p * stats.norm.pdf(w, m, s) for p, m, s in zip(shares, means, scales, strict=True))
    hyper = stats.gamma.logpdf(scales[0] ** -2.0, 5000.0, scale=1 / 2.0)
    hyper += stats.gamma.logpdf(scales[1:] ** -2.0, 250.0, scale=1 / 0.1).sum()
    assert trace.log_prob_sum().item() == pytest.approx(np.log(density).sum() + hyper, rel=1e-4)
    assert prior.log_hyper_prior().item() == pytest.approx(hyper, rel=1e-4)
    assert sharing(hyper_weight=0.5, precision_prior=None).bind([])() == {}


def test_it_begins_over_the_range_of_the_network() -> None:
    prior, layer = sharing(), clustered()
    bdl.BayesianModule(layer, prior)
    means = prior.components.means[1:]
    torch.testing.assert_close(means[[0, -1]], torch.stack(values(layer).aminmax()))
    torch.testing.assert_close(means.diff(), means.diff()[:1].expand(5))


@pytest.mark.parametrize("how", ["bound", "draw", "MeanFieldELBO", "point", "point, Pyro"])
def test_a_fit_finds_the_values_at_which_weights_gather(how: str) -> None:
    prior = sharing(kl="draw" if how == "draw" else "bound", precision_prior=(2.0, 0.001), zero_precision_prior=None)
    layer = clustered()
    original = values(layer)
    model = regression(layer, prior)
    y = layer(X).detach()
    guide: Any = AutoDelta(model, init_loc_fn=init_to_network) if "point" in how else AutoMeanField(model)
    if how in ("MeanFieldELBO", "point, Pyro"):
        elbo = bdl.MeanFieldELBO() if how == "MeanFieldELBO" else Trace_ELBO()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), elbo)
        losses = [svi.step(X, y) for _ in range(400)]
    else:
        estimator: Any = "plain" if how == "point" else "local"
        fit = bdl.fit_svi(
            model, guide, (X, y), epochs=400, batch_size=50, optimizer=adam, progress=False, estimator=estimator
        )
        losses = fit.losses
    assert sum(losses[-20:]) < sum(losses[:20])
    prior.merge(threshold=2.0)
    shares, means, scales = prior.components
    for centre, share in zip(CENTRES, SHARES, strict=True):
        near = (means - centre).abs() < 0.06
        assert shares[near].sum().item() == pytest.approx(share.item(), abs=0.1)
    error = prior.quantize(original) - CENTRES[(original[:, None] - CENTRES).abs().argmin(1)]
    assert error.abs().median() < 0.06
    assert bool((scales < 0.2).all())


def test_hyper_priors_hold_the_precisions() -> None:
    prior = sharing()
    bdl.BayesianModule(clustered(), prior)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        (-prior.log_hyper_prior()).backward()
        optimizer.step()
    precision = prior.components.scales.square().reciprocal()
    torch.testing.assert_close(precision, torch.tensor([4999.0 / 2.0] + [249.0 / 0.1] * 6), rtol=1e-3, atol=0.0)


def set_components(prior: SoftWeightSharing, means: list[float], sds: list[float], shares: list[float]) -> None:
    with torch.no_grad():
        prior.means.copy_(torch.tensor(means))
        prior.log_variances.copy_(2.0 * torch.tensor(sds[1:]).log())
        prior.zero_log_variance.fill_(2.0 * math.log(sds[0]))
        prior.logits.copy_(torch.tensor(shares[1:]).log())
        prior.zero_log_share.fill_(math.log(shares[0]))


def test_merging_keeps_shares_and_moments() -> None:
    prior = SoftWeightSharing(components=4, zero_share=0.5)
    set_components(prior, [0.002, 0.5, 0.51, -0.3], [0.05] * 5, [0.5, 0.1, 0.2, 0.1, 0.1])
    w = torch.tensor([0.0, 0.49, 0.52, -0.31])
    assert prior.merge() == 2
    shares, means, scales = prior.components
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.3, 0.1]))
    torch.testing.assert_close(means, torch.tensor([0.0, (0.2 * 0.5 + 0.1 * 0.51) / 0.3, -0.3]))
    variance = 0.05**2 + (0.2 * 0.1) / 0.3**2 * 0.01**2
    assert scales[1].item() == pytest.approx(math.sqrt(variance), rel=1e-4)
    assert prior.assign(w).tolist() == [0, 1, 1, 2]
    torch.testing.assert_close(prior.quantize(w), means[[0, 1, 1, 2]])
    assert prior.merge() == 0
    assert isinstance(prior.means, nn.Parameter)
    with pytest.raises(InputError, match="threshold"):
        prior.merge(threshold=-1.0)


def test_far_components_are_not_merged_and_one_beside_zero_stays() -> None:
    prior = SoftWeightSharing(components=2, zero_share=0.5)
    set_components(prior, [0.001, 0.002], [0.05] * 3, [0.5, 0.25, 0.25])
    assert prior.merge(threshold=100.0) == 1
    prior = SoftWeightSharing(components=2, zero_share=0.5)
    set_components(prior, [0.2, 0.0], [0.05, 0.05, 0.005], [0.5, 0.25, 0.25])
    assert prior.merge() == 0  # as near as can be, but of another width


@pytest.mark.parametrize("within", ["alone", "ByName"])
def test_the_components_are_saved_with_the_network(within: str) -> None:
    def build() -> tuple[bdl.BayesianModule, SoftWeightSharing]:
        prior = sharing()
        chosen: Any = prior if within == "alone" else ByName({"*.bias": Gaussian(), "*": prior})
        return bdl.BayesianModule(nn.Sequential(clustered()), chosen), prior

    (bnn, prior), (fresh, other) = build(), build()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.rand_like(parameter))
    prior.merge(threshold=50.0)
    assert len(prior.means) < 6
    fresh.load_state_dict(bnn.state_dict())
    for ours, theirs in zip(other.components, prior.components, strict=True):
        assert torch.equal(ours, theirs)
    assert fresh(X).shape == (50, 40)
    alone = SoftWeightSharing()
    alone.load_state_dict(prior.state_dict())
    bdl.BayesianModule(clustered(), alone)  # what was loaded stays
    assert torch.equal(alone.means, prior.means)


@pytest.mark.parametrize("change", [
    lambda s: {k: v for k, v in s.items() if k != "means"},
    lambda s: s | {"means": s["means"][1:]},
    lambda s: s | {"logits": s["logits"] * math.nan},
    lambda s: s | {"zero_log_share": torch.zeros(2)},
])  # fmt: skip
def test_wrong_states_are_refused(change: Any) -> None:
    prior = sharing()
    before = {k: v.clone() for k, v in prior.state_dict().items()}
    with pytest.raises(InputError, match="the state"):
        prior.load_state_dict(change(prior.state_dict()))
    assert all(torch.equal(v, before[k]) for k, v in prior.state_dict().items())


def test_checkpoints_hold_the_components(tmp_path: Any) -> None:
    def run(epochs: int, path: Any) -> SoftWeightSharing:
        prior, layer = sharing(), clustered()
        model = regression(layer, prior)
        data = (X, layer(X).detach())
        bdl.fit_svi(model, AutoMeanField(model), data, epochs=epochs, progress=False, seed=0, checkpoint=path)
        return prior

    run(2, tmp_path / "fit")
    resumed, whole = run(4, tmp_path / "fit"), run(4, None)
    for ours, theirs in zip(resumed.components, whole.components, strict=True):
        assert torch.equal(ours, theirs)


def test_a_prior_for_other_weights_is_refused() -> None:
    prior = sharing()
    bnn = bdl.BayesianModule(clustered(), prior)
    with pytest.raises(InputError, match=r"to which it is bound.*Make one for each"):
        bdl.BayesianModule(nn.Sequential(clustered()), prior)
    assert bnn.double()(X.double()).dtype == torch.float64  # the same weights elsewhere
    assert prior.means.dtype == torch.float64


def test_two_mixtures_in_one_network() -> None:
    net = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 3))
    model = regression(net, ByName({"0.*": sharing(), "1.*": sharing(components=2)}))
    guide = AutoMeanField(model)
    fit = bdl.fit_svi(model, guide, (X, net(X).detach()), epochs=3, progress=False)
    assert all(math.isfinite(loss) for loss in fit.losses)


def test_it_is_proper() -> None:
    bnn = bdl.BayesianModule(nn.Linear(10, 1), sharing(precision_prior=None))
    assert bnn(X).shape == (50, 1)
    model = bdl.Regressor(bnn, noise=0.5)
    for kernel, arguments in (
        (NUTS(model, max_tree_depth=3), (X, X[:, 0])),
        (bdl.SGLD(model, step_size=bdl.Constant(1e-5), data=(X, X[:, 0])), ()),
    ):
        mcmc = MCMC(kernel, num_samples=5, warmup_steps=5, disable_progbar=True)
        mcmc.run(*arguments)
        assert bool(torch.isfinite(mcmc.get_samples()["weight"]).all())


@settings(max_examples=100, deadline=None)
@given(st.floats(-10.0, 10.0), st.floats(-1e4, 1e4), st.floats(0.0, 1e4))
def test_any_range_of_weights_gives_a_finite_density(log_sd: float, low: float, width: float) -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(low + width * torch.rand(2, 3))
        layer.bias.fill_(low)
    prior = sharing()
    bnn = bdl.BayesianModule(layer, prior)
    with torch.no_grad():
        prior.log_variances.add_(2.0 * log_sd)
    log_prob = prior.distribution().log_prob(values(layer)).sum()
    assert bool(torch.isfinite(log_prob))
    for gradient in torch.autograd.grad(log_prob, [*prior.parameters()]):
        assert bool(torch.isfinite(gradient).all())
    assert bnn.weights


@pytest.mark.parametrize("options", [
    {"components": 0}, {"components": 2.5}, {"components": True}, {"zero_share": 1.0}, {"zero_share": math.nan},
    {"precision_prior": (1.0,)}, {"precision_prior": (0.0, 1.0)}, {"zero_precision_prior": 3.0}, {"hyper_weight": 0.0},
    {"kl": "exact"},
])  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        SoftWeightSharing(**options)


def test_a_network_with_nan_is_refused() -> None:
    layer = clustered()
    with torch.no_grad():
        layer.bias[0] = math.nan
    with pytest.raises(InputError, match="finite numbers"):
        bdl.BayesianModule(layer, sharing())
