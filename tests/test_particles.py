"""Many draws of each data point: which sites have them, and that weights are of the right pairs."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.particles import Particles, detached, log_mean_exp, traces, weighed
from tests.fresh_state import fresh_state  # noqa: F401
from tests.latent.programs import black_and_white, semi_supervised

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


def beside(program: Any, name: str, size: int) -> Any:
    """The program with a site in another plate."""

    def both(x: Tensor) -> None:
        program(x)
        with pyro.plate(name, size):
            pyro.sample("g", dist.Normal(0.0, 1.0))

    return both


def tempered(x: Tensor) -> None:
    """A likelihood that counts twice."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.poutine.scale(scale=2.0):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_of_tempered(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


REFUSED = {
    "a plate of one": (
        beside(model, "one", 1),
        beside(guide, "one", 1),
        "model: expected one data plate, got data, one",
    ),
    "another plate": (beside(model, "a", 4), beside(guide, "a", 4), "model: expected one data plate, got a, data"),
    "two scales": (tempered, guide_of_tempered, "plate data: expected one scale of all its sites, got 1, 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    *pair, message = REFUSED[case]
    with pytest.raises(UnsupportedModelError, match=message):
        weighed(*traces(*pair, (X,), {}, 3))


def test_labelled_beside_unlabelled_data_are_two_plates() -> None:
    pair, x = bdl.SemiSupervisedPair(semi_supervised(), alpha=0.0), black_and_white(4, 4)
    with pytest.raises(UnsupportedModelError, match="expected one data plate, got data, labelled"):
        bdl.log_marginal(pair.model, pair.guide, x, x, torch.tensor([0, 1, 2, 0]), num_samples=30)


def test_the_bound_of_a_scaled_program_is_the_scaled_bound() -> None:
    """With the KL of what data points share."""
    losses = []
    for scale in (0.1, 1.0):
        torch.manual_seed(0)
        pair = (pyro.poutine.scale(program, scale) for program in (model, guide))
        losses.append(bdl.ImportanceWeightedELBO(3).loss(*pair, X))
    assert losses[0] == pytest.approx(0.1 * losses[1], rel=1e-5)


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
