"""Many draws of each data point: which sites have them, and that weights are of the right pairs."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_bdl.particles import Particles, detached, log_mean_exp, traces, weighed
from tests.fresh_state import fresh_state  # noqa: F401

X = torch.tensor([0.3, -1.0, 2.0, 0.0])


def model(x: Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", 40, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1) + weight.sum(), 1.0), obs=x)


def guide(x: Tensor) -> None:
    pyro.sample("weight", dist.Normal(torch.ones(3), 0.5).to_event(1))
    with pyro.plate("data", 40, subsample_size=len(x)):
        mean = 0.3 * x[:, None].expand(len(x), 2)
        pyro.sample("z", dist.Normal(mean, 0.7).to_event(1))


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_only_sites_of_data_points_have_particles(count: int, rows: int) -> None:
    model_trace, guide_trace = traces(model, guide, (X[:rows],), {}, count)
    for trace in (model_trace, guide_trace):
        assert trace.nodes["weight"]["value"].shape == (3,)
        assert trace.nodes["z"]["value"].shape == (count, rows, 2)
        assert trace.nodes["weight"]["scale"] == 1.0
        assert float(trace.nodes["z"]["scale"]) == 40 / rows
    assert torch.equal(model_trace.nodes["weight"]["value"], guide_trace.nodes["weight"]["value"])
    assert count == 1 or len(guide_trace.nodes["z"]["value"][:, 0, 0].unique()) == count


def test_weights_are_written_out() -> None:
    model_trace, guide_trace = traces(model, guide, (X,), {}, 5)
    draws = weighed(model_trace, guide_trace)
    z, weight = guide_trace.nodes["z"]["value"], guide_trace.nodes["weight"]["value"]
    normal = torch.distributions.Normal
    expected = (
        normal(0.0, 1.0).log_prob(z).sum(-1)
        + normal(z.sum(-1) + weight.sum(), 1.0).log_prob(X)
        - normal(0.3 * X[:, None], 0.7).log_prob(z).sum(-1)
    )
    torch.testing.assert_close(draws.log_weights, expected)
    assert draws.scale == 10.0
    assert [node["name"] for node, _ in draws.latent] == ["z"]
    assert [node["name"] for node, _ in draws.shared] == ["weight"]


def test_the_plate_of_particles_does_not_scale() -> None:
    with Particles(7), pyro.poutine.trace() as tracer, pyro.plate("data", 3):
        pyro.sample("z", dist.Normal(0.0, 1.0))
    node = tracer.trace.nodes["z"]
    assert (node["value"].shape, float(node["scale"])) == ((7, 3), 1.0)


def test_log_mean_exp() -> None:
    weights = torch.tensor([[0.0, -1e4], [math.log(3.0), -1e4]])
    torch.testing.assert_close(log_mean_exp(weights), torch.tensor([math.log(2.0), -1e4]))


@pytest.mark.parametrize(
    "law",
    [
        lambda p: dist.Normal(p, p.exp()),
        lambda p: dist.Normal(p, p.exp()).to_event(1),
        lambda p: dist.Laplace(p, p.exp()).to_event(1),
        lambda p: dist.MultivariateNormal(p, scale_tril=p.exp().diag_embed()),
        lambda p: dist.Bernoulli(logits=p).to_event(1),
    ],
)
def test_detached_is_the_same_law_without_gradient(law) -> None:  # type: ignore[no-untyped-def]
    parameter = torch.tensor([[0.2, -0.3], [0.1, 0.4]], requires_grad=True)
    own = law(parameter)
    other, value = detached(own), own.sample()
    torch.testing.assert_close(other.log_prob(value), own.log_prob(value))
    assert own.log_prob(value).requires_grad
    assert not other.log_prob(value).requires_grad
    assert (other.batch_shape, other.event_shape) == (own.batch_shape, own.event_shape)
