"""SurvivalRegressor and PartialLikelihood: likelihoods by hand, closed-form posteriors, minibatches, bad input."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.minibatches import Batch
from pyro_bdl.observation.risk_sets import partial_log_likelihood

SOURCE = torch.Generator().manual_seed(0)
X = torch.randn(8, 3, generator=SOURCE, dtype=torch.float64)
TIME = torch.rand(8, generator=SOURCE, dtype=torch.float64) * 5 + 0.1
EVENT = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1]).bool()
INTERVALS = bdl.Intervals.of_events(TIME, EVENT, count=3)
DATA = X, TIME, EVENT


def weights(x: Tensor) -> Tensor:
    return x @ pyro.sample("w", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))


def linear(k: int = 1) -> bdl.BayesianModule:
    return bdl.BayesianModule(nn.Linear(3, k, bias=False).double())


def survival(**options: Any) -> bdl.SurvivalRegressor:
    return bdl.SurvivalRegressor(weights, INTERVALS, **options)


def log_joint(model: Any, values: dict[str, Tensor], batch: Batch, size: int = 8) -> Tensor:
    plate = SubsampleIndices(size=size)
    plate.set(batch)
    with plate:
        return poutine.trace(poutine.condition(model, data=values)).get_trace(*batch.args).log_prob_sum()


def test_intervals_have_equally_many_events() -> None:
    time, event = torch.arange(1.0, 13.0), torch.arange(12) % 2 == 0  # events at 1, 3, ..., 11
    cuts, rates = bdl.Intervals.of_events(time, event, count=3)
    assert cuts.tolist() == [3.0, 7.0]
    spent = [1 + 2 + 3 * 10, 1 + 2 + 3 + 4 * 6, 1 + 2 + 3 + 4 + 5]  # a part of a time in each interval it reaches
    np.testing.assert_allclose(rates.numpy(), [2 / s for s in spent], rtol=1e-6)
    tied = bdl.Intervals.of_events(torch.tensor([1.0, 1.0, 1.0, 2.0]), torch.ones(4), count=4)
    assert tied.cuts.tolist() == [1.0]
    assert bdl.Intervals.at(torch.tensor([0.5, 5.0]), time, event).rates[0] == 0.5 / 6.0


def test_the_rates_are_the_largest_likelihood_without_covariates() -> None:
    log_rates = INTERVALS.rates.log().requires_grad_()
    law = bdl.distributions.PiecewiseExponential(log_rates, INTERVALS.cuts)
    bdl.distributions.RightCensored(law, EVENT).log_prob(TIME).sum().backward()
    assert float(log_rates.grad.abs().max()) < 1e-12  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [None, 80])
def test_likelihood_by_hand(size: int | None) -> None:
    w, a = torch.tensor([0.3, -0.2, 0.5]).double(), torch.tensor([0.1, -0.1, 0.2]).double()
    model = poutine.condition(survival(size=size), data={"w": w, "time.log_baseline": a})
    trace = poutine.trace(model).get_trace(*DATA)
    trace.compute_log_prob()
    expected = 0.0
    edges = [0.0, *INTERVALS.cuts.tolist(), math.inf]
    for x, t, d in zip(*DATA, strict=True):
        for j in range(3):
            hazard = float(INTERVALS.rates[j] * (a[j] + x @ w).exp())
            expected -= hazard * max(0.0, min(float(t), edges[j + 1]) - edges[j])
            expected += math.log(hazard) if d and edges[j] < t <= edges[j + 1] else 0.0
    assert float(trace.nodes["time"]["log_prob_sum"]) == pytest.approx(expected * (10 if size else 1), rel=1e-10)


def test_hazards_that_are_not_proportional() -> None:
    model = bdl.SurvivalRegressor(linear(3), INTERVALS, baseline="learned")
    trace = poutine.trace(model).get_trace(*DATA)
    ratios = X @ trace.nodes["weight"]["value"].T
    law = trace.nodes["time"]["fn"].base
    torch.testing.assert_close(law.log_hazard, INTERVALS.rates.log() + ratios)


@pytest.mark.parametrize(
    "draw", [bdl.SurvivalRegressor(linear(), INTERVALS), bdl.SurvivalRegressor(linear(3), INTERVALS)]
)
def test_draws_and_curves(draw: Any) -> None:
    assert draw(X).shape == (8,)
    times = torch.linspace(0, 9, 6).double()
    curves = draw.curves(times)(X)
    assert curves.shape == (8, 6)
    assert bool((curves.diff(dim=1) < 0).all())
    torch.testing.assert_close(curves[:, 0], torch.ones(8).double())


def test_the_posterior_of_an_exponential_model_is_the_gammas() -> None:
    """One interval without covariates: rate ~ Gamma(a + d, b + sum t), by quadrature over its logarithm."""
    d, total = float(EVENT.sum()), float(TIME.sum())
    one = bdl.Intervals.at(torch.zeros(0).double(), TIME, EVENT)
    assert float(one.rates) == pytest.approx(d / total)
    model = bdl.SurvivalRegressor(lambda x: x.new_zeros(len(x)), one)
    grid = torch.linspace(-4, 4, 4001).double()
    joint = torch.stack(
        [log_joint(model, {"time.log_baseline": a[None]}, Batch(DATA)) for a in grid]
    )  # fmt: skip
    prior = dist.Normal(0.0, 1.0).log_prob(grid)
    likelihood = d * (grid + one.rates.log()) - total * (grid + one.rates.log()).exp()
    torch.testing.assert_close(joint, prior + likelihood)
    guide = AutoDelta(model)
    with pyro.get_param_store().scope():
        bdl.fit_svi(
            model, guide, DATA, epochs=300, optimizer=lambda p: torch.optim.Adam(p, lr=0.05), estimator="plain",
            schedule=lambda f: 1 - f, progress=False, seed=0,
        )  # fmt: skip
        mode = float(guide.median()["time.log_baseline"])
    assert mode == pytest.approx(float(grid[joint.argmax()]), abs=2e-3)


def gradients(model: Any, batches: list[Batch], size: int = 8) -> list[Tensor]:
    found = []
    for batch in batches:
        w = torch.tensor([0.3, -0.2, 0.5]).double().requires_grad_()
        values = {"w": w, "time.log_baseline": torch.zeros(3).double()}
        (gradient,) = torch.autograd.grad(log_joint(model, values, batch, size), w)
        found.append(gradient)
    return found


def all_pairs(least_events: int = 0) -> list[Batch]:
    pairs = [torch.tensor(rows) for rows in itertools.combinations(range(8), 2)]
    return [Batch((X[r], TIME[r], EVENT[r]), r) for r in pairs if int(EVENT[r].sum()) >= least_events]


def test_minibatch_gradients_are_unbiased() -> None:
    """All 28 pairs of 8 subjects: their mean is the full gradient. Of the partial likelihood it is not, as said."""
    full = gradients(survival(), [Batch(DATA, torch.arange(8))])[0]
    mean = torch.stack(gradients(survival(), all_pairs())).mean(0)
    torch.testing.assert_close(mean, full, rtol=0, atol=1e-12)
    unscaled = torch.stack(gradients(survival(), all_pairs(), size=2)).mean(0)  # the mutant without N/B
    assert float((unscaled - full).abs().max()) > 0.1
    cox = bdl.PartialLikelihood(weights)
    full = gradients(cox, [Batch(DATA, torch.arange(8))])[0]
    batches = all_pairs(least_events=1)
    mean = torch.stack(gradients(cox, batches)).sum(0) / 28  # pairs without an event would add the prior's gradient
    assert float((mean - full).abs().max()) > 0.1


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_the_partial_likelihood_is_a_factor(ties: Any) -> None:
    model = bdl.PartialLikelihood(weights, ties=ties, size=16)
    trace = poutine.trace(model).get_trace(*DATA)
    trace.compute_log_prob()
    expected = 2 * partial_log_likelihood(X @ trace.nodes["w"]["value"], TIME, EVENT, ties=ties).sum()
    torch.testing.assert_close(trace.nodes["partial_likelihood"]["log_prob_sum"], expected)
    assert model(X).shape == (8,)


def test_curves_with_breslows_baseline() -> None:
    """With no covariates they are exp(-H) of Nelson and Aalen."""
    model = bdl.PartialLikelihood(lambda x: x.new_zeros(len(x)))
    times = TIME.sort().values
    curves = model.curves(DATA, times)(X[:2])
    happened = EVENT[TIME.argsort()].double()
    expected = (-(happened / torch.arange(8, 0, -1)).cumsum(0)).exp()
    torch.testing.assert_close(curves, expected.expand(2, 8))


@pytest.mark.parametrize("level", [-200.0, 200.0])
def test_a_level_of_the_log_hazards_drops_out(level: float) -> None:
    curves = [
        bdl.PartialLikelihood(lambda x, shift=shift: x[:, 0] + shift).curves(DATA, TIME)(X) for shift in (0.0, level)
    ]
    torch.testing.assert_close(curves[1], curves[0])


def test_independent_numbers_may_be_the_baseline() -> None:
    """They are of one subject group, not of a batch."""
    model = survival(baseline=dist.Normal(torch.zeros(3).double(), 1.0))
    site = pyro.poutine.trace(model).get_trace(*DATA).nodes["time.log_baseline"]
    assert site["fn"].event_shape == (3,)


def test_draws_for_each_data_point_are_refused() -> None:
    model = bdl.PartialLikelihood(linear())
    for estimator in ("local", "flipout"):
        guide = bdl.guides.AutoMeanField(model)
        with pytest.raises(UnsupportedModelError, match='estimator="plain"'):
            bdl.fit_svi(model, guide, DATA, epochs=1, estimator=estimator, progress=False)


def test_plain_draws_are_fitted() -> None:
    """Both likelihoods find the covariate that matters, from minibatches."""
    x = torch.randn(400, 3)
    time = torch.empty(400).exponential_() * (-1.5 * x[:, 0]).exp()
    event = time < 3
    time = time.clamp(1e-3, 3.0)
    adam = lambda p: torch.optim.Adam(p, lr=0.03)  # noqa: E731
    one, other = (bdl.BayesianModule(nn.Linear(3, 1, bias=False)) for _ in range(2))
    full = bdl.SurvivalRegressor(other, bdl.Intervals.of_events(time, event))
    estimators: list[tuple[Any, Any]] = [("plain", bdl.PartialLikelihood(one)), ("local", full)]
    for estimator, model in estimators:
        guide = bdl.guides.AutoMeanField(model)
        bdl.fit_svi(
            model, guide, (x, time, event), epochs=60, batch_size=100, optimizer=adam, estimator=estimator,
            progress=False, seed=0,
        )  # fmt: skip
        found = guide.median()["weight"].squeeze()
        assert found[0] == pytest.approx(1.5, abs=0.4)
        assert float(found[1:].abs().max()) < 0.3


def test_a_learned_baseline_is_the_largest_likelihood() -> None:
    """Without covariates that of the rates, from a wrong start; and it is the model's own."""
    time = torch.empty(500).exponential_() + 1e-3
    event = torch.ones(500)
    known = bdl.Intervals.of_events(time, event, count=3)
    wrong = known._replace(rates=3 * known.rates)
    model = bdl.SurvivalRegressor(lambda x: x.new_zeros(len(x)), wrong, baseline="learned")
    adam = lambda p: torch.optim.Adam(p, lr=0.1)  # noqa: E731
    bdl.fit_svi(
        model, lambda *_: None, (time[:, None], time, event), epochs=200, batch_size=500, optimizer=adam,
        estimator="plain", schedule=lambda f: 1 - f, progress=False, seed=0,
    )  # fmt: skip
    law = poutine.trace(model).get_trace(time[:, None], time, event).nodes["time"]["fn"].base
    torch.testing.assert_close(law.log_hazard[0].detach().exp(), known.rates, rtol=1e-2, atol=0)


def test_chains_of_both() -> None:
    """Vectorised chains with batches of their own, and traces, in which numbers cannot be looked at."""
    for model, compiled in itertools.product((survival(), bdl.PartialLikelihood(weights)), (False, True)):
        kernel = bdl.SGLD(model, step_size=1e-3, data=DATA, batch_size=7, jit_compile=compiled)
        chains = bdl.sample_chains(kernel, num_samples=4, num_chains=3, chain_method="vectorized", progress=False)
        assert chains.get_samples()["w"].shape == (12, 3)


def cox(time: Tensor = TIME, event: Tensor = EVENT) -> Any:
    return bdl.PartialLikelihood(weights)(X, time, event)


def cox_curves(times: Tensor) -> Any:
    return bdl.PartialLikelihood(weights).curves(DATA, times)


def full(time: Tensor = TIME, event: Tensor = EVENT, **options: Any) -> Any:
    return survival(**options)(X, time, event)


def put(row: int, value: float) -> Tensor:
    changed = TIME.clone()
    changed[row] = value
    return changed


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a time of 0": (lambda: full(put(2, 0.0)), "times: expected positive finite numbers, got 0.0 at row 2"),
    "a negative time": (lambda: cox(put(1, -1.0)), "times: expected positive finite numbers, got -1.0 at row 1"),
    "a time that is NaN": (lambda: full(put(3, math.nan)), "got nan at row 3"),
    "an infinite time": (lambda: cox(put(3, math.inf)), "got inf at row 3"),
    "whole times": (lambda: full(TIME.long()), "times: expected floating-point numbers"),
    "an event 2": (lambda: full(event=EVENT.long() * 2), "events: expected 1 for an event, 0 .* got 2 at row 0"),
    "too few events": (lambda: cox(event=EVENT[:5]), r"events: expected shape \(8,\), got shape \(5,\)"),
    "no events in a batch": (lambda: cox(event=EVENT & False), "events in a batch: expected at least one, got none"),
    "times without events": (lambda: survival()(X, TIME), "both or neither"),
    "times alone": (lambda: bdl.PartialLikelihood(weights)(X, TIME), "both or neither"),
    "two outputs": (lambda: bdl.PartialLikelihood(linear(2))(*DATA), "output: expected shape"),
    "two for three": (lambda: bdl.SurvivalRegressor(linear(2), INTERVALS)(*DATA), "expected 1 or 3 columns, got 2"),
    "a baseline of two": (lambda: survival(baseline=dist.Normal(torch.zeros(2), 1.0).to_event(1)), "of 3 real numbers"),
    "an unknown baseline": (lambda: survival(baseline="flat"), "got 'flat'"),
    "a baseline of counts": (lambda: survival(baseline=dist.Poisson(torch.ones(3)).to_event(1)), "3 real numbers"),
    "unknown ties": (lambda: bdl.PartialLikelihood(weights, ties="exact"), '"efron" or "breslow"'),  # type: ignore[arg-type]
    "no events at all": (lambda: bdl.Intervals.of_events(TIME, EVENT & False), "number of events: .* got 0 among 8"),
    "more intervals than events": (lambda: bdl.Intervals.of_events(TIME, EVENT, count=7), "in each of 7 intervals"),
    "cuts that fall": (lambda: bdl.Intervals.at(torch.tensor([2.0, 1.0]), TIME, EVENT), "cuts: expected"),
    "cuts after the end": (
        lambda: bdl.Intervals.at(torch.tensor([99.0]).double(), TIME, EVENT),
        "cuts: expected times",
    ),
    "curves at no time": (lambda: cox_curves(torch.tensor([math.nan])), "times: expected numbers from 0 .* got nan"),
    "a number of curves": (lambda: cox_curves(torch.tensor(1.0)), r"times: expected shape \(T,\)"),
    "curves before 0": (lambda: survival().curves(torch.tensor([-1.0])), "times: expected numbers from 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    run, message = BAD[case]
    with pytest.raises(InputError, match=message):
        run()


def test_a_bad_batch_leaves_the_parameters_alone() -> None:
    model = bdl.SurvivalRegressor(linear(), INTERVALS)
    guide = bdl.guides.AutoMeanField(model)
    guide(*DATA)
    before = {name: value.clone() for name, value in guide.median().items()}
    with pytest.raises(InputError, match="times"):
        bdl.fit_svi(model, guide, (X, put(7, 0.0), EVENT), epochs=1, progress=False)
    after = guide.median()
    assert all(torch.equal(after[name], value) for name, value in before.items())
