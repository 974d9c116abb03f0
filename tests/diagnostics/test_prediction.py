"""Predictions under draws: exact ones share a draw over all points and batches, local ones do not."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.diagnostics import guide_draws, predict, predict_locally
from pyro_bdl.errors import InputError
from pyro_bdl.estimators import local_reparameterization

X = torch.linspace(-2, 2, 10)[:, None]
W = torch.randn(6, 1, 1, generator=torch.Generator().manual_seed(0))


def network(x: Tensor) -> Tensor:
    return x @ pyro.sample("w", dist.Normal(torch.zeros(1, 1), 1.0).to_event(2))


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    mean = network(x)[:, 0]
    with pyro.plate("data", 50, subsample_size=len(x)):
        return pyro.sample("y", dist.Normal(mean, 0.1), obs=y)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 5, 10, 99])
def test_one_draw_for_all_points_whatever_the_batches(batch_size: int | None) -> None:
    found = predict(network, {"w": W}, X, batch_size=batch_size)
    torch.testing.assert_close(found, X[None] * W)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_new_observations_only_when_asked_for(batch_size: int | None) -> None:
    many = {"w": W[:1].expand(1_000, 1, 1)}
    few = X[:3] if batch_size is None else X[:6]
    found = predict(model, many, few, may_draw=["y"], batch_size=batch_size)
    assert found.shape == (1_000, len(few))
    z = (found.mean(0) - few[:, 0] * W[0, 0, 0]) / (0.1 / 1_000**0.5)
    assert z.abs().max() < 5.6  # at most ten normal deviates, 2e-8 each
    np.testing.assert_allclose(found.std(0), 0.1, rtol=5.6 / (2 * 1_000) ** 0.5)
    with pytest.raises(InputError, match="'y'"):
        predict(model, many, X)


def per_point_guide(x: Tensor) -> None:
    """As if the weight were drawn where it is used: one per row, which a matrix product takes as well."""
    pyro.sample("w", dist.Normal(torch.ones(1, 1), 0.5).to_event(2))


def test_local_predictions_follow_the_guide() -> None:
    few = X[:3]
    found = predict_locally(network, per_point_guide, few, num_samples=1_000, batch_size=1)
    assert found.shape == (1_000, 3, 1)
    deviation = 0.5 * few.abs()
    z = (found.mean(0) - few) / (deviation / 1_000**0.5)
    assert z.abs().max() < 5.6
    # batches of one point: points are drawn independently, so neighbours have no correlation
    correlation = np.corrcoef(found[:, 0, 0], found[:, 1, 0])[0, 1]
    assert abs(correlation) < 5.2 / 1_000**0.5


def test_weights_drawn_where_they_are_used_give_each_point_its_own_draw() -> None:
    """Same law of each point as one draw for all, but no correlation between points, in one batch."""
    bnn = BayesianModule(nn.Linear(1, 1, bias=False))

    def guide(x: Tensor) -> None:
        pyro.sample("weight", dist.Normal(torch.ones(1, 1), 0.5).to_event(2))

    few, draws = X[:2], 1_000
    local = predict_locally(bnn, local_reparameterization(guide, model=bnn), few, num_samples=draws)[..., 0]
    exact = predict(bnn, guide_draws(guide, few, num_samples=draws), few)[..., 0]
    assert type(local) is Tensor
    for found in (local, exact):
        z = (found.mean(0) - few[:, 0]) / (0.5 * few[:, 0].abs() / draws**0.5)
        assert z.abs().max() < 5.6
        np.testing.assert_allclose(found.std(0) / (0.5 * few[:, 0].abs()), 1.0, rtol=5.6 / (2 * draws) ** 0.5)
    assert abs(np.corrcoef(*local.T)[0, 1]) < 5.2 / draws**0.5
    assert np.corrcoef(*exact.T)[0, 1] > 0.999


def test_local_predictions_never_draw_from_the_prior() -> None:
    def empty(x: Tensor) -> None:
        pyro.sample("other", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="'w'"):
        predict_locally(network, empty, X, num_samples=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict(network, {"v": W}, X), "'w'"),
        (lambda: predict(network, {"w": W[:, 0]}, X), "shape"),
        (lambda: predict(network, {"w": W}, X, batch_size=0), "batch_size"),
        (lambda: predict(network, {"w": W}, X[:0]), "at least one row"),
        (lambda: predict(lambda x: None, {"w": W}, X), "return value: expected a tensor"),
        (lambda: predict(lambda x: x.sum(), {"w": W}, X, batch_size=3), "return value: expected 3 rows"),
        (lambda: predict_locally(network, per_point_guide, X, num_samples=0), "num_samples"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
