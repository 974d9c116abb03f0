"""`BayesianModule` over many networks, crossed with what each must obey."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from torch import Tensor, nn
from torch.func import functional_call

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.errors import InputError
from pyro_bdl.estimators import flipout, local_reparameterization
from pyro_bdl.guides import AutoMeanField
from pyro_bdl.priors import Gaussian, GroupNormalJeffreys
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import mean_is, variance_is

INPUTS = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.out = kind(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x.mT)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 6, 2, stride=2)
        self.up, self.last = nn.ConvTranspose1d(6, 4, 2, stride=2), nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.softplus(self.first(x))
        return self.last(torch.cat([top, self.up(F.softplus(self.down(top)))], 1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Softplus(), nn.Conv1d(4, 4, 1))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.softplus(x + self.block(x)).mean(-1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 6), nn.Linear(6, 6)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x[:, 0]).tanh())


def _cube(size: tuple[int, ...]) -> nn.Module:
    return nn.Unflatten(1, size)


NETS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(18, 4), nn.Tanh(), nn.Linear(4, 2)), {}),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)), {}),
    "conv2d": (lambda: nn.Sequential(nn.Unflatten(2, (2, 3)), nn.Conv2d(3, 4, 2, groups=1), nn.Flatten()), {}),
    "conv2d padded by reflection": (
        lambda: nn.Sequential(nn.Unflatten(2, (2, 3)), nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")), {}),
    "conv3d": (lambda: nn.Sequential(nn.Flatten(), _cube((1, 2, 3, 3)), nn.Conv3d(1, 2, 2, bias=False)), {}),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 2, 3, stride=2), {}),
    "conv_transpose2d": (lambda: nn.Sequential(nn.Unflatten(2, (2, 3)), nn.ConvTranspose2d(3, 2, 2)), {}),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(16, 2)),
        {"select": ["0.*", "3.*"]}),
    "layer norm": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(18, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
        {"select": lambda name, parameter: parameter.dim() > 1}),
    "layer norm, all random": (lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(18), nn.Linear(18, 2)), {}),
    "LSTM": (lambda: Recurrent(nn.LSTM), {}),
    "GRU": (lambda: Recurrent(nn.GRU), {}),
    "attention": (Attention, {}),
    "U-Net": (UNet, {}),
    "ResNet": (Residual, {}),
    "tied": (Tied, {}),
}  # fmt: skip
ESTIMATORS: dict[str, Callable[..., Any]] = {
    "plain": lambda guide, **_: guide,
    "local": local_reparameterization,
    "flipout": flipout,
}


def build(name: str, **options: Any) -> BayesianModule:
    make, own = NETS[name]
    return BayesianModule(make().eval(), **(own | options))


@pytest.mark.parametrize("name", NETS)
def test_output_is_that_of_the_sampled_weights(name: str) -> None:
    bnn = build(name)
    trace = poutine.trace(bnn).get_trace(INPUTS)
    weights = {site: trace.nodes[site]["value"] for site in trace.stochastic_nodes}
    expected = functional_call(bnn.net, weights, (INPUTS,))
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], expected, rtol=0, atol=0)
    assert list(weights) == [n for n, _ in bnn.net.named_parameters() if n in weights] == [w.name for w in bnn.weights]
    if "select" not in NETS[name][1]:
        assert len(weights) == len(list(bnn.net.parameters()))


@pytest.mark.parametrize("name", NETS)
def test_a_guide_of_no_spread_gives_the_network_itself(name: str) -> None:
    """Guides begin at the network's own weights."""
    bnn = build(name)
    for make in ESTIMATORS.values():
        guide = make(AutoMeanField(bnn, init_scale=1e-6), model=bnn)
        out = poutine.replay(bnn, trace=poutine.trace(guide).get_trace(INPUTS))(INPUTS)
        torch.testing.assert_close(out, bnn.net(INPUTS), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", NETS)
def test_every_parameter_gets_a_gradient(name: str, estimator: str) -> None:
    bnn = build(name)
    auto = AutoMeanField(bnn, init_scale=0.1)
    guide = ESTIMATORS[estimator](auto, model=bnn)
    trace = poutine.trace(guide).get_trace(INPUTS)
    poutine.replay(bnn, trace=trace)(INPUTS).square().sum().backward()
    sizes = [site.size for site in auto.sites]
    for site, loc, variance in zip(
        auto.sites, auto.loc.grad.split(sizes), auto.log_variance.grad.split(sizes), strict=True
    ):
        assert loc.isfinite().all(), site.name
        assert variance.isfinite().all(), site.name
        if not site.name.endswith("in_proj_bias"):  # of which the keys' part has no effect
            assert (loc != 0).all(), site.name
            assert (variance != 0).all(), site.name
    learned = [p for n, p in bnn.net.named_parameters() if n not in {w.name for w in bnn.weights}]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learned)


LOCAL_USES = {
    "linear": {"1.weight", "1.bias", "3.weight", "3.bias"},
    "U-Net": {f"{layer}.{leaf}" for layer in ("first", "down", "up", "last") for leaf in ("weight", "bias")},
    "conv2d padded by reflection": {"1.weight", "1.bias"},
    "LSTM": {"out.weight", "out.bias"},
    "tied": {"encode.bias", "decode.bias"},
}


@pytest.mark.parametrize("name", ["linear", "U-Net", "conv2d padded by reflection", "LSTM"])
def test_what_is_drawn_locally(name: str) -> None:
    bnn = build(name)
    local = local_reparameterization(AutoMeanField(bnn))
    poutine.replay(bnn, trace=poutine.trace(local).get_trace(INPUTS))(INPUTS)
    assert {use.site for use in local.coverage() if use.how == "local"} == LOCAL_USES[name]


def test_tied_weights_are_one_site_with_one_draw() -> None:
    bnn = build("tied")
    local = local_reparameterization(AutoMeanField(bnn))
    poutine.replay(bnn, trace=poutine.trace(local).get_trace(INPUTS))(INPUTS)
    assert [w.name for w in bnn.weights] == ["encode.weight", "encode.bias", "decode.bias"]
    assert {u.how for u in local.coverage() if u.site == "encode.weight"} == {"drawn"}


def test_two_networks_in_one_model() -> None:
    first, second = BayesianModule(nn.Linear(3, 2), name="first"), BayesianModule(nn.Linear(2, 1), name="second")

    def model(x: Tensor) -> Tensor:
        return second(first(x).tanh())

    sites = poutine.trace(model).get_trace(INPUTS[..., 0]).stochastic_nodes
    assert sites == ["first.weight", "first.bias", "second.weight", "second.bias"]
    local = local_reparameterization(AutoMeanField(model), fallback="raise")
    poutine.replay(model, trace=poutine.trace(local).get_trace(INPUTS[..., 0]))(INPUTS[..., 0])
    assert len(local.coverage()) == 4


def test_unselected_parameters_are_learned_parameters() -> None:
    bnn = BayesianModule(nn.Linear(3, 2), name="net", select=["weight"])
    trace = poutine.trace(bnn).get_trace(INPUTS[..., 0])
    assert trace.stochastic_nodes == ["net.weight"]
    assert trace.nodes["net.bias"]["type"] == "param"
    assert pyro.param("net.bias") is bnn.net.bias


def test_the_prior_predictive_law() -> None:
    bnn = BayesianModule(nn.Linear(3, 2), Gaussian(2.0))
    x = INPUTS[:2, :, 0]
    out = torch.stack([bnn(x) for _ in range(3_000)])
    variance = 4.0 * (x.square().sum(1) + 1.0)
    mean_is(out, 0.0, sd=variance[:, None].expand(2, 2).sqrt())
    variance_is(out, variance[:, None], mean=0.0)
    drawn = Predictive(bnn, num_samples=3)(x)
    assert {name: value.shape[0] for name, value in drawn.items()} == {"weight": 3, "bias": 3}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_nuts(jit_compile: bool) -> None:
    bnn = BayesianModule(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)))

    def model(x: Tensor, y: Tensor) -> None:
        mean = bnn(x)[:, 0]
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    kernel = NUTS(model, max_tree_depth=3, jit_compile=jit_compile)
    mcmc = MCMC(kernel, num_samples=3, warmup_steps=3, disable_progbar=True)
    mcmc.run(INPUTS[..., 0], torch.ones(4))
    shapes = {name: tuple(value.shape) for name, value in mcmc.get_samples().items()}
    assert shapes == {"0.weight": (3, 2, 3), "0.bias": (3, 2), "2.weight": (3, 1, 2), "2.bias": (3, 1)}


@pytest.mark.parametrize("name", ["linear", "conv1d", "layer norm", "U-Net"])
def test_vmap_over_weights(name: str) -> None:
    bnn = build(name)
    weights = {w.name: torch.randn(5, *w.value.shape) for w in bnn.weights}
    # Learned parameters enter Pyro's store at a first call, which is not to be within vmap.
    one = torch.stack([poutine.condition(bnn, data={n: w[i] for n, w in weights.items()})(INPUTS) for i in range(5)])
    together = torch.func.vmap(lambda w: poutine.condition(bnn, data=w)(INPUTS))(weights)
    torch.testing.assert_close(together, one, rtol=1e-4, atol=1e-4)


def test_a_deep_copy_is_another_network() -> None:
    bnn = build("linear")
    other = copy.deepcopy(bnn)
    with torch.no_grad():
        other.net[1].weight.fill_(7.0)
    assert AutoMeanField(other).median(INPUTS)["1.weight"].eq(7.0).all()
    assert not AutoMeanField(bnn).median(INPUTS)["1.weight"].eq(7.0).any()


@pytest.mark.parametrize("move", [lambda m: m.double(), lambda m: m.to(torch.float64)])
@pytest.mark.parametrize("prior", [Gaussian(), GroupNormalJeffreys()])
def test_another_dtype_after_the_first_call(move: Callable[[nn.Module], nn.Module], prior: Any) -> None:
    bnn = build("linear", prior=prior)
    guide = AutoMeanField(bnn)
    poutine.replay(bnn, trace=poutine.trace(guide).get_trace(INPUTS))(INPUTS)
    move(bnn)
    fresh = AutoMeanField(bnn)
    out = poutine.replay(bnn, trace=poutine.trace(fresh).get_trace(INPUTS.double()))(INPUTS.double())
    assert out.dtype == fresh.loc.dtype == torch.float64


@pytest.mark.parametrize("estimator", ["local", "flipout"])
class TestBatchNorm:
    def run(self, bnn: BayesianModule, estimator: str, passes: int = 1) -> None:
        guide = ESTIMATORS[estimator](AutoMeanField(bnn), model=bnn)
        for _ in range(passes):
            poutine.replay(bnn, trace=poutine.trace(guide).get_trace(INPUTS))(INPUTS)

    def test_warns_once_in_training_mode(self, estimator: str) -> None:
        bnn = build("ResNet").train()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.run(bnn, estimator, passes=3)
        assert ["couples the data points" in str(w.message) for w in caught] == [True]

    def test_says_nothing_of_evaluation_mode_or_ordinary_draws(self, estimator: str) -> None:
        self.run(build("ResNet"), estimator)
        self.run(build("linear").train(), estimator)
        self.run(build("ResNet").train(), "plain")

    @pytest.mark.filterwarnings("ignore:batch normalisation in training mode")
    def test_the_dry_run_leaves_the_running_statistics(self, estimator: str) -> None:
        bnn = build("ResNet").train()
        guide = AutoMeanField(bnn)
        guide(INPUTS)  # the guide's own first call is an ordinary pass
        before = {name: buffer.clone() for name, buffer in bnn.net.named_buffers()}
        handler = ESTIMATORS[estimator](guide, model=bnn)
        trace = poutine.trace(handler).get_trace(INPUTS)
        assert handler.examined
        for name, buffer in bnn.net.named_buffers():
            torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)
        poutine.replay(bnn, trace=trace)(INPUTS)
        assert not torch.equal(bnn.net.block[1].running_mean, before["block.1.running_mean"])


def test_an_unforeseen_second_use_is_refused_although_a_dry_run_was_made() -> None:
    """The network says where its passes begin, so a second use cannot pass for a new pass."""

    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.times = nn.Linear(3, 3), 1

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = self.layer(x)
            return x

    bnn = BayesianModule(Fickle())
    local = local_reparameterization(AutoMeanField(bnn))
    trace = poutine.trace(local).get_trace(INPUTS[..., 0])
    for _ in range(2):
        poutine.replay(bnn, trace=trace)(INPUTS[..., 0])
    bnn.net.times = 2
    with pytest.raises(InputError, match="second use"):
        poutine.replay(bnn, trace=trace)(INPUTS[..., 0])


@pytest.mark.parametrize(("select", "message"), [
    (["nothing.*"], "pattern that fits one of .*weight"),
    ([], "at least one random parameter"),
    (lambda name, parameter: False, "at least one random parameter"),
])  # fmt: skip
def test_a_selection_of_nothing_is_refused(select: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BayesianModule(nn.Linear(2, 1), select=select)


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(InputError, match="at least one random parameter"):
        BayesianModule(nn.ReLU())


def test_a_module_goes_to_another_process_and_draws_the_same() -> None:
    bnn = BayesianModule(nn.Linear(2, 1))
    sent = pickle.loads(pickle.dumps(bnn))
    x, draws = torch.ones(3, 2), []
    for each in (bnn, sent):
        with pyro.poutine.seed(rng_seed=0):
            draws.append(each(x))
    assert torch.equal(*draws)


def test_two_learned_parameters_of_one_name_in_a_program_are_refused() -> None:
    short = BayesianModule(nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 1)), select=["1.*"])
    long = BayesianModule(nn.Sequential(nn.LayerNorm(2), nn.Tanh(), nn.Linear(2, 1)), select=["2.*"])
    with pytest.raises(InputError, match=r"the parameter 0\.weight: expected one of that name"):
        poutine.trace(lambda x: short(x) + long(x)).get_trace(torch.ones(3, 2))
