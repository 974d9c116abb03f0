"""The handlers in Pyro's hands: each case in which other implementations are silently wrong, one test each."""

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import Tensor

from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.estimators import DeferredDraw, Use, flipout, local_reparameterization
from tests.estimators.programs import Program, inputs, normal
from tests.statistics import Mismatch, mean_is, means_agree, require, two_sided, variance_is

BUILDS = [local_reparameterization, flipout]
LINEAR = Program({"w": normal(3, 4), "b": normal(3, seed=5)}, lambda x, w, b: F.linear(x, w, b))
X = inputs(2, 4)


def regression(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A linear layer observed with noise, batched weights welcome: x (B, 4), y (B,)."""
    w = pyro.sample("w", dist.Normal(torch.zeros(1, 4), 1.0).to_event(2))
    mean = F.linear(x, w)[:, 0] if w.dim() == 2 else (x @ w.mT)[..., 0].squeeze(-2)
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def regression_guide(x: Tensor, y: Tensor | None = None) -> None:
    loc = pyro.param("loc", torch.full((1, 4), 0.3))
    scale = pyro.param("scale", torch.full((1, 4), 0.2), dist.constraints.positive)
    pyro.sample("w", dist.Normal(loc, scale).to_event(2))


@pytest.mark.parametrize("build", BUILDS)
def test_a_guide_traced_outside_any_context_then_the_model_replayed(build: Callable[..., Any]) -> None:
    """The local law in the model, though nothing is active but the trace. The prior is 1000: no prior draw."""
    mean, variance = LINEAR.moments(X)
    out = LINEAR.draws(build(LINEAR.guide, model=LINEAR.model), X, 500)
    mean_is(out, mean, sd=variance.sqrt())
    if build is local_reparameterization:
        variance_is(out, variance, mean=mean)


def test_rows_are_independent_and_of_the_exact_variance() -> None:
    x = inputs(1, 4).repeat(20_000, 1)
    mean, variance = LINEAR.moments(x[:1])
    out = LINEAR.run(local_reparameterization(LINEAR.guide, model=LINEAR.model), x)
    variance_is(out.detach(), variance[0], mean=mean[0])
    centred = (out.detach() - mean) / variance.sqrt()
    require(two_sided((centred[1:] * centred[:-1]).mean(0) * len(x) ** 0.5), "correlation of neighbouring rows")


@pytest.mark.parametrize("factor", [1.05, 2**0.5])
def test_more_noise_is_caught(factor: float) -> None:
    x = inputs(1, 4).repeat(20_000, 1)
    mean, variance = LINEAR.moments(x[:1])
    out = LINEAR.run(local_reparameterization(LINEAR.guide, model=LINEAR.model), x)
    with pytest.raises(Mismatch):
        variance_is((mean + (out.detach() - mean) * factor), variance[0], mean=mean[0])


def test_flipout_rows_are_uncorrelated() -> None:
    out = LINEAR.draws(flipout(LINEAR.guide, model=LINEAR.model), X[:1].repeat(2, 1), 1_500)
    mean, variance = LINEAR.moments(X[:1])
    centred = (out - mean) / variance.sqrt()
    products = centred[:, 0] * centred[:, 1]
    mean_is(products, 0.0)
    ordinary = (LINEAR.ordinary(X[:1].repeat(2, 1), 3_000) - mean) / variance.sqrt()
    with pytest.raises(Mismatch):  # rows of ordinary draws are the same
        mean_is(ordinary[:, 0] * ordinary[:, 1], 0.0)


@pytest.mark.parametrize("build", BUILDS)
def test_condition(build: Callable[..., Any]) -> None:
    """A conditioned weight is that value; the other stays local."""
    fixed = torch.ones(3, 4, dtype=torch.float64)
    model = poutine.condition(LINEAR.model, data={"w": fixed})
    trace = poutine.trace(build(LINEAR.guide, model=LINEAR.model)).get_trace(X)
    out = torch.stack([poutine.replay(model, trace=trace)(X) for _ in range(2_000)]).detach()
    bias = LINEAR.sites["b"]
    mean_is(out, X @ fixed.T + bias.mean, sd=bias.stddev)
    variance_is(out, bias.variance, mean=X @ fixed.T + bias.mean)


def test_condition_on_a_deferred_draw() -> None:
    trace = poutine.trace(local_reparameterization(LINEAR.guide, model=LINEAR.model)).get_trace(X)
    data = {name: trace.nodes[name]["value"] for name in "wb"}
    a, b = (poutine.condition(LINEAR.model, data=data)(X) for _ in range(2))
    assert (a != b).all()
    assert a.abs().max() < 100.0  # the prior is 1000


def test_replay_of_a_guide_by_an_ordinary_trace() -> None:
    """A value that someone else gave is not replaced by a draw."""
    given = poutine.trace(LINEAR.guide).get_trace(X)
    estimator = local_reparameterization(poutine.replay(LINEAR.guide, trace=given), model=LINEAR.model)
    expected = F.linear(X, given.nodes["w"]["value"], given.nodes["b"]["value"])
    torch.testing.assert_close(LINEAR.run(estimator, X), expected)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("build", BUILDS)
def test_predictive(build: Callable[..., Any], parallel: bool) -> None:
    regression_guide(X)
    x = X.float()
    predictive = Predictive(regression, guide=build(regression_guide, model=regression), num_samples=600,
                            parallel=parallel, return_sites=["y", "w"])  # fmt: skip
    drawn = predictive(x)
    w, y = drawn["w"].reshape(-1, 4), drawn["y"].reshape(600, 2)
    mean_is(w, 0.3, sd=0.2)
    variance_is(w, 0.2**2, mean=0.3)
    mean_is(y - w @ x.T, 0.0, sd=0.5)  # the same weights, for all data points
    variance_is(y - w @ x.T, 0.25, mean=0.0)


@pytest.mark.parametrize("elbo", [
    Trace_ELBO(num_particles=16),
    Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1),
    TraceMeanField_ELBO(num_particles=16),
], ids=["Trace_ELBO", "Trace_ELBO, vectorised", "TraceMeanField_ELBO"])  # fmt: skip
@pytest.mark.parametrize("build", BUILDS)
def test_many_particles_of_pyros_elbos(build: Callable[..., Any], elbo: Any) -> None:
    """Loss and gradient have the exact mean of the conjugate model."""
    x, y = X.float(), torch.tensor([0.5, -1.0])
    estimator = build(regression_guide, model=regression)
    losses, gradients = [], []
    for _ in range(30):
        pyro.clear_param_store()
        losses.append(elbo.loss_and_grads(regression, estimator, x, y))
        store = pyro.get_param_store()
        gradients.append(torch.cat([store[n].unconstrained().grad.reshape(-1) for n in ("loc", "scale")]))
    loc, scale = (torch.full((1, 4), v, requires_grad=True) for v in (0.3, torch.log(torch.tensor(0.2)).item()))
    variance = scale.exp().square()
    expected = (((x @ loc.T)[:, 0] - y).square() + x.square() @ variance[0]).sum() / 0.5 + 2 * 0.5 * torch.log(
        torch.tensor(2 * torch.pi * 0.25)
    )
    expected = expected + 0.5 * (variance + loc.square() - 1.0 - variance.log()).sum()
    expected.backward()
    mean_is(torch.tensor(losses), expected.item())
    mean_is(torch.stack(gradients), torch.cat([loc.grad.reshape(-1), scale.grad.reshape(-1)]))


@pytest.mark.parametrize("build", BUILDS)
def test_a_new_batch_size_on_a_reused_trace(build: Callable[..., Any]) -> None:
    estimator = build(LINEAR.guide, model=LINEAR.model)
    trace = poutine.trace(estimator).get_trace(X)
    for size in (2, 5, 1, 64):
        x = X[:1].repeat(size, 1)
        out = poutine.replay(LINEAR.model, trace=trace)(x)
        assert out.shape == (size, 3)
        mean, variance = LINEAR.moments(x)
        assert ((out - mean).abs() < 7 * variance.sqrt()).all()
        assert len(out.unique()) > 1


def network(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Two layers for classes, as a Pyro program with a plate."""
    v = pyro.sample("v", dist.Normal(torch.zeros(5, 4), 1.0).to_event(2))
    w = pyro.sample("w", dist.Normal(torch.zeros(2, 5), 1.0).to_event(2))
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Categorical(logits=F.linear(F.linear(x, v).relu(), w)), obs=y)


LABELS = torch.tensor([0, 1])


def test_pyros_auto_normal_is_local() -> None:
    guide = AutoNormal(network)
    estimator = local_reparameterization(guide, fallback="raise")
    trace = poutine.trace(estimator).get_trace(X.float(), LABELS)
    poutine.replay(network, trace=trace)(X.float(), LABELS)
    assert [str(use) for use in estimator.coverage()] == [
        "v_unconstrained: local by linear",
        "w_unconstrained: local by linear",
    ]
    assert not estimator.shared


def test_auto_normal_whose_handler_is_first_called_without_labels() -> None:
    guide = AutoNormal(network)
    guide(X.float(), LABELS)
    estimator = local_reparameterization(guide)
    trace = poutine.trace(estimator).get_trace(X.float())
    assert poutine.replay(network, trace=trace)(X.float()).shape == (2,)
    assert all(use.how == "local" for use in estimator.coverage())


def test_the_dry_run_of_auto_normal_keeps_the_users_own_handlers() -> None:
    tied = Program({"w": normal(4, 4)}, lambda x, w: F.linear(F.linear(x, w), w))

    def model(x: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(torch.zeros(4, 4, dtype=torch.float64), 1.0).to_event(2))
        v = pyro.sample("v", dist.Normal(torch.zeros(4, 4, dtype=torch.float64), 1.0).to_event(2))
        return tied.network(x, w) + F.linear(x, v)

    handled = poutine.condition(model, data={"v": torch.ones(4, 4, dtype=torch.float64)})
    estimator = local_reparameterization(AutoNormal(handled))
    estimator(X)
    assert estimator.shared == {"w_unconstrained"}


def test_pyros_auto_diagonal_normal_gets_an_ordinary_draw() -> None:
    guide = AutoDiagonalNormal(network)
    estimator = local_reparameterization(guide)
    trace = poutine.trace(estimator).get_trace(X.float(), LABELS)
    first, second = (poutine.trace(poutine.replay(network, trace=trace)).get_trace(X.float()) for _ in range(2))
    for name in "vw":
        assert not isinstance(trace.nodes[name]["value"], DeferredDraw)
        torch.testing.assert_close(first.nodes[name]["value"], second.nodes[name]["value"], rtol=0, atol=0)
    assert all(use.how == "drawn" for use in estimator.coverage())


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal])
@pytest.mark.parametrize("build", BUILDS)
def test_pyros_autoguides_in_svi(build: Callable[..., Any], auto: Any) -> None:
    guide = auto(network)
    svi = SVI(network, build(guide), pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(X.float(), LABELS) for _ in range(120)]
    assert sum(losses[-30:]) < sum(losses[:30])


class TestSharedWeights:
    """Weights used twice: one ordinary draw for all uses, so the joint law is right."""

    PROGRAMS = {  # noqa: RUF012
        "tied": Program({"w": normal(4, 4)}, lambda x, w: F.linear(F.linear(x, w).tanh(), w.T)),
        "recurrent": Program(
            {"w": normal(4, 4, spread=0.5)}, lambda x, w: F.linear(F.linear(F.linear(x, w).tanh(), w).tanh(), w)
        ),
        "siamese": Program({"w": normal(3, 4)}, lambda x, w: F.linear(x, w) * F.linear(x.flip(0), w)),
        "a penalty": Program({"w": normal(3, 4)}, lambda x, w: F.linear(x, w) * w.square().sum()),
        "a shared scale": Program(
            {"v": normal(4, 4), "w": normal(3, 4), "z": normal(1)},
            lambda x, v, w, z: F.linear(F.linear(x, v * z).tanh(), w * z),
        ),
    }

    @pytest.mark.parametrize("build", BUILDS)
    @pytest.mark.parametrize("name", PROGRAMS)
    def test_joint_law(self, name: str, build: Callable[..., Any]) -> None:
        program = self.PROGRAMS[name]
        estimator = build(program.guide, model=program.model)
        right, drawn = program.ordinary(X, 20_000), program.draws(estimator, X, 800)
        joint = [torch.einsum("nbi,nci->nbci", out, out) for out in (drawn, right)]  # data points together too
        means_agree(drawn, right)
        means_agree(*joint)
        assert all(use.how == "drawn" for use in estimator.coverage())

    @pytest.mark.parametrize("name", ["tied", "siamese"])
    def test_independent_draws_of_each_use_are_caught(self, name: str) -> None:
        """The error of which this is the remedy."""
        program = self.PROGRAMS[name]
        x = X[:1].repeat(2, 1)
        wrong = local_reparameterization(program.guide)
        wrong.examined = True
        out, right = program.draws(wrong, x, 2_000), program.ordinary(x, 20_000)
        with pytest.raises(Mismatch):
            means_agree(torch.cat([out, out.square()], -1), torch.cat([right, right.square()], -1))

    @pytest.mark.parametrize("name", ["tied", "siamese", "recurrent"])
    def test_without_a_dry_run_a_second_use_raises(self, name: str) -> None:
        program = self.PROGRAMS[name]
        trace = poutine.trace(local_reparameterization(program.guide)).get_trace(X)
        with pytest.raises(UnsupportedModelError, match=r'the weight w: .* second use.*shared=\["w"\]'):
            poutine.replay(program.model, trace=trace)(X)

    def test_said_by_hand(self) -> None:
        program = self.PROGRAMS["tied"]
        estimator = local_reparameterization(program.guide, shared=["w"])
        w = poutine.trace(estimator).get_trace(X).nodes["w"]["value"]
        torch.testing.assert_close(program.network(X, w), program.network(X, w.value()))


class TestFallback:
    PROGRAM = Program(
        {"w": normal(3, 4), "v": normal(4, 4)}, lambda x, w, v: F.linear(F.linear(x, v), w).sum() * w.tanh()
    )

    def test_raise_names_site_operation_and_reason(self) -> None:
        estimator = local_reparameterization(self.PROGRAM.guide, model=self.PROGRAM.model, fallback="raise")
        trace = poutine.trace(estimator).get_trace(X)
        with pytest.raises(UnsupportedModelError, match=r"estimator of w: .*linear.*more than once.*fallback"):
            poutine.replay(self.PROGRAM.model, trace=trace)(X)

    def test_warn_says_each_thing_once(self) -> None:
        estimator = local_reparameterization(self.PROGRAM.guide, model=self.PROGRAM.model, fallback="warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                self.PROGRAM.run(estimator, X)
        said = sorted(str(w.message).split(":")[0] for w in caught)
        assert said == [f"w got one ordinary draw for the whole batch, in {name}" for name in ("linear", "tanh")]

    def test_draw_is_silent_and_reported(self) -> None:
        estimator = local_reparameterization(self.PROGRAM.guide, model=self.PROGRAM.model)
        self.PROGRAM.run(estimator, X)
        assert estimator.coverage() == [
            Use("v", "linear", "local"),
            Use("w", "linear", "drawn", "w is used more than once in a pass"),
            Use("w", "tanh", "drawn", "there is no rule for this function"),
        ]

    def test_unknown_functions_share_one_draw(self) -> None:
        program = Program({"w": normal(3, 4)}, lambda x, w: torch.stack([w.exp().log(), w.tanh().atanh(), w + 0.0]))
        out = program.run(local_reparameterization(program.guide, model=program.model), X)
        torch.testing.assert_close(out[0], out[1])
        torch.testing.assert_close(out[0], out[2])

    @pytest.mark.parametrize("fallback", ["ignore", None, 1])
    def test_another_word_is_refused(self, fallback: Any) -> None:
        with pytest.raises(InputError, match=r"fallback: expected .*got"):
            local_reparameterization(LINEAR.guide, fallback=fallback)

    @pytest.mark.parametrize("guide", [None, 3, local_reparameterization(LINEAR.guide)])
    def test_what_is_no_guide_is_refused(self, guide: Any) -> None:
        with pytest.raises(InputError, match="guide: expected a Pyro guide"):
            flipout(guide)


def test_sites_within_plates_are_ordinary_draws() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("units", 3):
            pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    trace = poutine.trace(local_reparameterization(guide)).get_trace(X)
    assert type(trace.nodes["w"]["value"]) is Tensor
    assert isinstance(trace.nodes["b"]["value"], DeferredDraw)


def test_other_families_are_ordinary_draws() -> None:
    def guide(x: Tensor) -> None:
        pyro.sample("gamma", dist.Gamma(2.0, 1.0))
        pyro.sample("joint", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
        pyro.sample("bounded", dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.SigmoidTransform()))
        pyro.sample("class", dist.Categorical(torch.ones(3)))

    trace = poutine.trace(local_reparameterization(guide)).get_trace(X)
    assert all(type(trace.nodes[name]["value"]) is Tensor for name in trace.stochastic_nodes)


def test_the_dry_run_leaves_no_trace_and_uses_no_random_numbers() -> None:
    estimator = local_reparameterization(LINEAR.guide, model=LINEAR.model)
    state = torch.get_rng_state()
    with poutine.trace() as outer:
        estimator.examine(LINEAR.model, (X,), {})
    assert torch.equal(state, torch.get_rng_state())
    assert not list(outer.trace.nodes)
    assert estimator.coverage() == []
    assert estimator.examined


def test_a_failed_dry_run_changes_nothing() -> None:
    def model(x: Tensor) -> None:
        raise ZeroDivisionError

    estimator = local_reparameterization(LINEAR.guide, model=model)
    with pytest.raises(ZeroDivisionError):
        estimator(X)
    assert not estimator.examined
    assert not estimator.shared


def test_a_deferred_draw_tells_its_metadata_without_being_used() -> None:
    trace = poutine.trace(local_reparameterization(LINEAR.guide)).get_trace(X)
    w = trace.nodes["w"]["value"]
    assert (tuple(w.shape), w.dim(), w.numel(), len(w)) == ((3, 4), 2, 12, 3)
    assert (w.dtype, w.device.type, w.is_floating_point()) == (torch.float64, "cpu", True)
    assert torch.zeros_like(w).shape == w.new_ones(3, 4).shape == (3, 4)
    assert repr(w) == "DeferredDraw(w, shape=(3, 4))"
    assert w.roots[0].uses == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("build", BUILDS)
def test_dtypes(build: Callable[..., Any], dtype: torch.dtype) -> None:
    sites = {"w": dist.Normal(torch.zeros(3, 4, dtype=dtype), torch.ones(3, 4, dtype=dtype))}
    program = Program(sites, lambda x, w: F.linear(x, w))
    out = program.run(build(program.guide, model=program.model, fallback="raise"), X.to(dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()


def test_draws_from_two_passes_through_an_unexamined_trace_cannot_be_confused() -> None:
    """Without a dry run a second pass over one trace looks like a second use, and is refused rather than guessed."""
    trace = poutine.trace(local_reparameterization(LINEAR.guide)).get_trace(X)
    poutine.replay(LINEAR.model, trace=trace)(X)
    with pytest.raises(UnsupportedModelError, match="second use"):
        poutine.replay(LINEAR.model, trace=trace)(X)
