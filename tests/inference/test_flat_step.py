"""The step on flat buffers has the loss and gradients of `MeanFieldELBO` and autograd, whatever the program."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, kl_divergence

import pyro_bdl as bdl
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.guides.mean_field import posterior
from pyro_bdl.inference.flat_posterior import FlatPosterior
from pyro_bdl.inference.steps import FlatStep, Loss
from pyro_bdl.minibatches import Batch
from tests.inference.programs import PROGRAMS, B, N, program
from tests.statistics import means_agree

ESTIMATORS: dict[str, Callable[..., Any]] = {"local": bdl.local_reparameterization, "flipout": bdl.flipout}


class Bench:
    """A program with a guide of sizeable variance, and one batch."""

    def __init__(self, name: str) -> None:
        self.model, (x, y) = program(name)
        self.batch = Batch((x[:B], y[:B]), torch.arange(B))
        self.guide = bdl.guides.AutoMeanField(self.model, init_scale=0.3)
        self.guide(*self.batch.args)
        with torch.no_grad():
            self.guide.loc.add_(0.2 * torch.randn_like(self.guide.loc))
            self.guide.log_variance.add_(0.3 * torch.randn_like(self.guide.loc))

    def flat_step(self, estimator: str, *, num_particles: int = 1) -> FlatStep:
        wrapped = None if estimator == "plain" else ESTIMATORS[estimator](self.guide, model=self.model)
        return FlatStep(
            self.model, self.guide, wrapped, SubsampleIndices(size=N), self.batch, num_particles=num_particles
        )

    def gradients(self, step: FlatStep, kl_weight: float = 1.0) -> tuple[Loss, list[Tensor]]:
        loss = step(self.batch, kl_weight)
        return loss, [p.grad.clone() for p in step.parameters]  # type: ignore[union-attr]

    def through_elbo(self, estimator: str, parameters: list[Tensor], kl_weight: float) -> tuple[float, list[Tensor]]:
        guide = ESTIMATORS[estimator](self.guide, model=self.model)
        guide.examine(self.model, self.batch.args, {})
        plate = SubsampleIndices(size=N)
        plate.set(self.batch)
        torch.manual_seed(5)
        with plate:
            loss = bdl.MeanFieldELBO(kl_weight=kl_weight).differentiable_loss(self.model, guide, *self.batch.args)
        return float(loss.detach()), list(torch.autograd.grad(loss, parameters))

    def by_hand(self, parameters: list[Tensor], kl_weight: float) -> tuple[float, list[Tensor]]:
        """Ordinary draws of all weights, Pyro's own traces, and autograd."""
        noise = torch.empty_like(self.guide.loc).normal_()
        sizes = [site.size for site in self.guide.sites]
        moments = dict(zip([s.name for s in self.guide.sites], self.guide.moments(), strict=True))
        values = {}
        for site, part in zip(self.guide.sites, noise.split(sizes), strict=True):
            u = moments[site.name].loc + moments[site.name].variance.sqrt() * part.view(site.shape)
            values[site.name] = biject_to(self.guide.support(site))(u)
        plate = SubsampleIndices(size=N)
        plate.set(self.batch)
        with plate:
            trace = poutine.trace(poutine.condition(self.model, data=values)).get_trace(*self.batch.args)
        trace.compute_log_prob(lambda name, _: name not in values)
        loss = -sum(trace.nodes[name]["log_prob_sum"] for name in trace.observation_nodes if name not in values)
        for site in sorted(self.guide.sites, key=lambda s: list(trace.nodes).index(s.name)):
            node = trace.nodes[site.name]
            q = posterior(site, moments[site.name], self.guide.support(site), node["fn"].event_dim)
            try:
                kl = kl_divergence(q, node["fn"])
            except NotImplementedError:
                draw = q.rsample()
                kl = q.log_prob(draw) - node["fn"].log_prob(draw)
            loss = loss + kl_weight * node["scale"] * kl.sum()
        return float(loss.detach()), list(torch.autograd.grad(loss, parameters))


def assert_same(found: tuple[Loss, list[Tensor]], expected: tuple[float, list[Tensor]]) -> None:
    assert found[0].total == pytest.approx(expected[0], rel=1e-9)
    for a, b in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
@pytest.mark.parametrize("estimator", ["local", "flipout", "plain"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_same_gradients(name: str, estimator: str, kl_weight: float) -> None:
    """Two steps with the same seed as the reference: buffers carry nothing over."""
    if name == "constrained" and estimator != "plain":
        pytest.skip("the guide draws transformed sites at another moment; see test_transformed_sites")
    bench = Bench(name)
    step = bench.flat_step(estimator)
    bench.gradients(step, 0.7)
    torch.manual_seed(5)
    found = bench.gradients(step, kl_weight)
    torch.manual_seed(5)
    parameters = list(step.parameters)
    if estimator == "plain":
        expected = bench.by_hand(parameters, kl_weight)
    else:
        expected = bench.through_elbo(estimator, parameters, kl_weight)
    assert_same(found, expected)


def draws(bench: Bench, estimator: str, count: int, *, num_particles: int = 1) -> Tensor:
    """So many gradients, one a row."""
    step = bench.flat_step(estimator, num_particles=num_particles)
    rows = [torch.cat([g.reshape(-1) for g in bench.gradients(step)[1]]) for _ in range(count)]
    return torch.stack(rows)


@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_transformed_sites(estimator: str) -> None:
    """Their draws come in another order than the guide's, so that gradients agree in the mean only."""
    bench = Bench("constrained")
    means_agree(draws(bench, estimator, 200), draws(bench, "plain", 200))


@pytest.mark.parametrize(
    ("name", "estimator"),
    [("Gaussian", "local"), ("Gaussian", "flipout"), ("Gaussian", "plain"), ("learned noise", "local")],
)
def test_particles_are_averaged(name: str, estimator: str) -> None:
    """Four particles have the same mean gradient as one, and a quarter of the variance."""
    bench = Bench(name)
    one, four = draws(bench, estimator, 300), draws(bench, estimator, 300, num_particles=4)
    means_agree(one, four)
    assert 0.1 < float(four.var(0).sum() / one.var(0).sum()) < 0.6  # 0.25 +- 0.06 at most, by far


def test_kl_does_not_depend_on_the_batch_size() -> None:
    bench = Bench("Gaussian")
    step = bench.flat_step("local")
    x, y = program("Gaussian")[1]
    kls = {step(Batch((x[:b], y[:b]), torch.arange(b)), 1.0).kl for b in (1, 7, N)}
    assert len(kls) == 1
    expected: Any = sum(
        kl_divergence(q, node["fn"])
        for name, node in poutine.trace(bench.model).get_trace(x, y).nodes.items()
        if (q := bench.guide.distributions().get(name)) is not None
    )
    assert kls.pop() == pytest.approx(float(expected.detach()))


def _no_entropy(self: FlatPosterior) -> None:
    self.grad_variance.mul_(self.variance)
    self.loc.grad, self.log_variance.grad = self.grad_loc, self.grad_variance


def _not_by_variance(self: FlatPosterior) -> None:
    for run in self.runs:
        self.grad_variance[run.start : run.stop].sub_(0.5 * self._weights[0])
    self.loc.grad, self.log_variance.grad = self.grad_loc, self.grad_variance


def _wrong_weight(begin: Callable[..., None]) -> Callable[..., None]:
    return lambda self, kl_weight: begin(self, 1.0)


def _wrong_sign(begin: Callable[..., None]) -> Callable[..., None]:
    return lambda self, kl_weight: begin(self, -kl_weight)


MUTANTS: dict[str, tuple[str, Any]] = {
    "no entropy": ("finish", lambda _: _no_entropy),
    "d/dv for d/dlog v": ("finish", lambda _: _not_by_variance),
    "KL weight ignored": ("begin", _wrong_weight),
    "KL of the wrong sign": ("begin", _wrong_sign),
    "variance for deviation": ("begin", lambda begin: lambda self, w: (begin(self, w), self.variance.sqrt_())[0]),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, change = MUTANTS[mutant]
    bench = Bench("Gaussian")
    monkeypatch.setattr(FlatPosterior, method, change(getattr(FlatPosterior, method)))
    step = bench.flat_step("local")
    torch.manual_seed(5)
    found = bench.gradients(step, 0.3)
    with pytest.raises(AssertionError):
        assert_same(found, bench.through_elbo("local", list(step.parameters), 0.3))
