"""The pointwise log-likelihood against formulas written by hand, for every shape of model and every batch size."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_bdl.diagnostics import batching, evaluation, pointwise, pointwise_log_likelihood
from pyro_bdl.errors import InputError, NumericalError, UnsupportedModelError
from tests.diagnostics.programs import CASES, LABELS, W3, YD, Case, N, S, W, X, Y, arguments_carry_the_batch, normal


def compute(case: Case, batch_size: int | None) -> torch.Tensor:
    found = pointwise_log_likelihood(case.model, case.posterior, *case.args, kwargs=case.kwargs, batch_size=batch_size)
    assert list(found) == ["y"]
    return found["y"]


@pytest.mark.parametrize("batch_size", [None, 1, 3, 4, 5, 10, 11, 100])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_formula(name: str, batch_size: int | None) -> None:
    found, expected = compute(CASES[name], batch_size), CASES[name].expected
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def _scaled_log_prob(site: Any) -> torch.Tensor:
    return _LOG_PROB(site) * site["scale"]


def _maskless_log_prob(site: Any) -> torch.Tensor:
    return site["fn"].log_prob(site["value"])


def _overlapping_join(self: batching.Batches, name: str, parts: list[torch.Tensor], event_dim: int = 0) -> Any:
    axis = self.axes.get(name)
    return parts[0] if axis is None or len(parts) == 1 else torch.cat(parts, axis - event_dim)


def _backward_join(self: batching.Batches, name: str, parts: list[torch.Tensor], event_dim: int = 0) -> Any:
    return _JOIN(self, name, parts[::-1], event_dim)


def _first_batch_only(self: batching.Batches, name: str, parts: list[torch.Tensor], event_dim: int = 0) -> Any:
    return parts[0]


def _no_plate_answer(self: evaluation.Substitution, msg: Any) -> None:
    return None


_LOG_PROB, _JOIN = evaluation.log_prob, batching.Batches.join
MUTANTS = {
    "scale of the plate left in": (pointwise, "log_prob", _scaled_log_prob),
    "mask ignored": (pointwise, "log_prob", _maskless_log_prob),
    "overlap counted twice": (batching.Batches, "join", _overlapping_join),
    "batches in the wrong order": (batching.Batches, "join", _backward_join),
    "one batch for all": (batching.Batches, "join", _first_batch_only),
    "plates not told their rows": (evaluation.Substitution, "_answer_plate", _no_plate_answer),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    wrong = 0
    for case in CASES.values():
        try:
            found = compute(case, 4)
        except (InputError, RuntimeError):
            wrong += 1
            continue
        wrong += found.shape != case.expected.shape or not torch.allclose(found, case.expected, rtol=1e-5, atol=1e-5)
    assert wrong > 0


def test_memory_is_bounded_by_the_batch() -> None:
    rows: list[int] = []

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        rows.append(len(x))
        arguments_carry_the_batch(x, y)

    pointwise_log_likelihood(model, {"w": W}, X, Y, batch_size=2)
    assert max(rows) == 4  # the probe runs two batches at once, everything else one
    assert sum(rows) >= S * N


def test_several_observed_sites_with_and_without_the_plate() -> None:
    def model(x: torch.Tensor, y: torch.Tensor, labels: torch.Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
        pyro.sample("budget", dist.Normal(w.sum(), 0.5), obs=torch.tensor(0.3))
        with pyro.plate("data", 50, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(x @ w.T, 0.5).to_event(1), obs=y)
            pyro.sample("label", dist.Categorical(logits=x @ w.T), obs=labels)
        pyro.factor("not data", w.sum())

    for batch_size in (None, 4):
        found = pointwise_log_likelihood(model, {"w": W3}, X, YD, LABELS, batch_size=batch_size)
        assert {name: value.shape for name, value in found.items()} == {"budget": (S,), "y": (S, N), "label": (S, N)}
        torch.testing.assert_close(found["budget"], normal(torch.tensor(0.3), W3.sum((1, 2))))
        torch.testing.assert_close(found["y"], CASES["event_dims"].expected)
        torch.testing.assert_close(found["label"], CASES["classifier"].expected)


def network_model(net: nn.Module) -> Any:
    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        mean = net(x @ weight.T)[:, 0]
        with pyro.plate("data", 50, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return model


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2), nn.Dropout(0.5)])
def test_coupled_data_points_are_refused_unless_taken_whole(layer: nn.Module) -> None:
    draws = {"weight": torch.randn(S, 2, 2)}
    with pytest.raises(UnsupportedModelError, match="batch_size=None"):
        pointwise_log_likelihood(network_model(layer.train()), draws, X, Y, batch_size=4)
    assert pointwise_log_likelihood(network_model(layer), draws, X, Y, batch_size=None)["y"].shape == (S, N)
    whole = pointwise_log_likelihood(network_model(layer.eval()), draws, X, Y, batch_size=None)["y"]
    torch.testing.assert_close(pointwise_log_likelihood(network_model(layer), draws, X, Y, batch_size=4)["y"], whole)


def test_a_latent_site_without_draws_is_never_drawn_from_the_prior() -> None:
    draws = {"w": W}
    with pytest.raises(InputError, match=r"'shift'.*never drawn from the prior"):
        pointwise_log_likelihood(CASES["latent_per_point"].model, draws, X, Y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": {"w": torch.zeros(S, 3)}}, r"'w': expected shape \(2,\)"),
        ({"draws": {"w": torch.zeros(())}}, "leading dimension"),
        ({"draws": {}}, "leading dimension"),
        ({"draws": {"w": W, "v": W[:2]}}, "leading dimension"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"data_plate": "rows", "batch_size": 4}, "data_plate"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    options = {"draws": {"w": W}, **change}
    with pytest.raises(InputError, match=message):
        pointwise_log_likelihood(arguments_carry_the_batch, options.pop("draws"), X, Y, **options)


def test_not_a_number_is_named() -> None:
    draws = {"w": torch.where(torch.arange(S)[:, None] == 2, torch.nan, W)}
    with pyro.validation_enabled(False), pytest.raises(NumericalError, match="site 'y' is NaN under draw 2"):
        pointwise_log_likelihood(arguments_carry_the_batch, draws, X, Y)


def test_random_state_and_gradients_are_left_alone() -> None:
    before = torch.random.get_rng_state()
    found = pointwise_log_likelihood(CASES["plate_picks_the_batch"].model, {"w": W.requires_grad_()}, X, Y)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not found["y"].requires_grad
    W.requires_grad_(False)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_deterministic_sites_over_batches(batch_size: int | None) -> None:
    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("twice", 2 * w)
        mean = pyro.deterministic("mean", x @ w)
        with pyro.plate("data", 50, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    plan = batching.plan_batches(model, {"w": W[0]}, (X, Y), batch_size=batch_size)
    for w in W:
        found = pointwise.evaluate(model, {"w": w}, plan).deterministic
        torch.testing.assert_close(found["twice"], 2 * w)
        torch.testing.assert_close(found["mean"], X @ w)


@pytest.mark.parametrize("name", [n for n in CASES if n != "no_plate"])
def test_observed_values_come_back_in_order(name: str) -> None:
    case = CASES[name]
    draw = {site: value[0] for site, value in case.posterior.items()}
    plan = batching.plan_batches(case.model, draw, case.args, case.kwargs, batch_size=4)
    expected = {"args": case.args[1]}["args"] if case.args else Y
    expected = expected.T if name == "data_plate_inside" else expected
    assert torch.equal(pointwise.observed_values(case.model, draw, plan)["y"], expected)
