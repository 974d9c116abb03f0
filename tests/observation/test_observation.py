"""Classifier and Regressor: torch's own log-likelihood, the data's size, what they refuse."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Batch

X = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
LABELS, TARGETS = torch.arange(7) % 4, torch.linspace(-1, 1, 7)


def log_likelihood(model: Callable[..., Any], y: Tensor, **values: Tensor) -> tuple[float, Any]:
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(X, y)
    trace.compute_log_prob()
    return float(trace.nodes["y"]["log_prob_sum"].detach()), trace


def outputs(trace: Any) -> Tensor:
    return X @ trace.nodes["weight"]["value"].T + trace.nodes["bias"]["value"]


def linear(k: int) -> bdl.BayesianModule:
    return bdl.BayesianModule(nn.Linear(3, k))


@pytest.mark.parametrize("size", [None, 70])
def test_classifier(size: int | None) -> None:
    found, trace = log_likelihood(bdl.Classifier(linear(4), size=size), LABELS)
    expected = -F.cross_entropy(outputs(trace), LABELS, reduction="sum") * (10 if size else 1)
    assert found == pytest.approx(float(expected), rel=1e-5)


NOISES: dict[str, tuple[Any, int, Callable[[Tensor], Tensor]]] = {
    "known": (0.3, 1, lambda out: torch.tensor(0.3)),
    "integer": (2, 1, lambda out: torch.tensor(2.0)),
    "learned": ("learned", 1, lambda out: torch.tensor(1.0)),
    "random": (dist.Gamma(2.0, 2.0), 1, lambda out: torch.tensor(0.6)),
    "heteroscedastic": ("heteroscedastic", 2, lambda out: F.softplus(out[:, 1]) + 1e-3),
}


@pytest.mark.parametrize("size", [None, 70])
@pytest.mark.parametrize("case", NOISES)
def test_regressor(case: str, size: int | None) -> None:
    noise, k, scale = NOISES[case]
    values = {"y.noise": torch.tensor(0.6)} if case == "random" else {}
    found, trace = log_likelihood(bdl.Regressor(linear(k), noise=noise, size=size), TARGETS, **values)
    out = outputs(trace)
    variance = scale(out).expand(7).square()
    nll = F.gaussian_nll_loss(out[:, 0], TARGETS, variance, full=True, reduction="sum", eps=1e-12)
    assert found == pytest.approx(-float(nll) * (10 if size else 1), rel=1e-5)


@pytest.mark.parametrize("make", [lambda: bdl.Classifier(linear(4)), lambda: bdl.Regressor(linear(1))])
def test_draws_without_observations(make: Callable[[], Any]) -> None:
    assert make()(X).shape == (7,)


def test_flat_outputs() -> None:
    model = bdl.Regressor(lambda x: x[:, 0], noise=0.5)
    assert model(X).shape == (7,)


def test_size_is_what_the_data_says() -> None:
    plate = SubsampleIndices(size=700)
    plate.set(Batch((X, LABELS)))
    with plate:
        _, trace = log_likelihood(bdl.Classifier(linear(4)), LABELS)
    assert trace.nodes["y"]["scale"] == 100.0
    with plate, pytest.raises(InputError, match="expected size=700, the number of data points, got size=70"):
        bdl.Classifier(linear(4), size=70)(X, LABELS)


def test_learned_noise_belongs_to_its_model() -> None:
    """Fitting one model leaves another of the same names alone; its own noise stays with it."""
    one, two = (bdl.Regressor(linear(1)) for _ in range(2))
    guide = bdl.guides.AutoMeanField(one)
    y = X[:, 0] * 0.1
    adam = lambda p: torch.optim.Adam(p, lr=0.05)  # noqa: E731
    bdl.fit_svi(one, guide, (X, y), epochs=60, optimizer=adam, progress=False, seed=0)
    fitted = float(one.noise_scale().detach())
    assert fitted < 0.5
    two(X, y)
    assert float(two.noise_scale().detach()) == 1.0
    trace = poutine.trace(one).get_trace(X, y)
    assert float(trace.nodes["y"]["fn"].scale[0].detach()) == pytest.approx(fitted)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "labels too long": (lambda: bdl.Classifier(linear(4))(X, torch.zeros(8).long()), r"labels: expected shape \(7,\)"),
    "labels of rank 2": (lambda: bdl.Classifier(linear(4))(X, LABELS[:, None]), r"got shape \(7, 1\)"),
    "labels that are floats": (lambda: bdl.Classifier(linear(4))(X, LABELS.float()), "integers, got torch.float32"),
    "logits of rank 3": (lambda: bdl.Classifier(linear(4))(X[None], LABELS), "output: expected shape"),
    "no rows": (lambda: bdl.Classifier(linear(4))(X[:0], LABELS[:0]), "at least one row"),
    "integer targets": (lambda: bdl.Regressor(linear(1))(X, LABELS), "floating-point numbers, got torch.int64"),
    "targets of rank 2": (lambda: bdl.Regressor(linear(1))(X, TARGETS[:, None]), r"targets: expected shape \(7,\)"),
    "two outputs": (lambda: bdl.Regressor(linear(2))(X, TARGETS), "output: expected shape"),
    "three for two": (lambda: bdl.Regressor(linear(3), noise="heteroscedastic")(X, TARGETS), r"\(batch, 2\)"),
    "noise 0": (lambda: bdl.Regressor(linear(1), noise=0.0), "noise: expected a positive number"),
    "noise NaN": (lambda: bdl.Regressor(linear(1), noise=float("nan")), "noise: expected"),
    "noise True": (lambda: bdl.Regressor(linear(1), noise=True), "noise: expected"),
    "noise unknown": (lambda: bdl.Regressor(linear(1), noise="larned"), "got 'larned'"),
    "noise not positive": (lambda: bdl.Regressor(linear(1), noise=dist.Normal(0.0, 1.0)), "noise: expected"),
    "noise of many": (lambda: bdl.Regressor(linear(1), noise=dist.Gamma(torch.ones(2), 1.0)), "noise: expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    run, message = BAD[case]
    pyro.clear_param_store()
    with pytest.raises(InputError, match=message):
        run()
