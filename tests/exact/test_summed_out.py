"""A program with its discrete sites summed out has the other sites, and the density that the sum gives."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.errors import UnsupportedModelError


def mixture(x: Tensor) -> None:
    shift = pyro.param("shift", torch.tensor(0.5).double())
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(()).double(), 3.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7]).double()))
        pyro.sample("x", dist.Normal(loc[z] + shift, 1.0), obs=x)


def by_hand(x: Tensor, loc: Tensor) -> Tensor:
    log = torch.tensor([0.3, 0.7]).double().log() + dist.Normal(loc + 0.5, 1.0).log_prob(x[:, None])
    return log.logsumexp(-1).sum() + dist.Normal(torch.zeros(()).double(), 3.0).log_prob(loc).sum()


@pytest.mark.parametrize("how", ["condition", "replay", "draw"])
def test_density(how: str) -> None:
    """However the continuous sites get their values, they are counted once."""
    x, loc = torch.randn(7).double(), torch.randn(2).double()
    program: Any = bdl.sum_out(mixture)
    if how == "condition":
        program = pyro.condition(program, data={"loc": loc})
    elif how == "replay":
        guide: Any = poutine.trace(lambda _: pyro.sample("loc", dist.Delta(loc).to_event(1))).get_trace(x)
        program = poutine.replay(program, trace=guide)
    for _ in range(2):
        trace: Any = poutine.trace(program).get_trace(x)
        assert [name for name, site in trace.nodes.items() if site["type"] == "sample"] == ["loc", "summed out"]
        assert torch.allclose(trace.log_prob_sum(), by_hand(x, trace.nodes["loc"]["value"]))


def test_parameters_are_seen() -> None:
    trace: Any = poutine.trace(bdl.sum_out(mixture)).get_trace(torch.zeros(3).double())
    assert trace.nodes["shift"]["type"] == "param"


def test_sgld_takes_it() -> None:
    """Its record of the density is that before each update."""
    x = torch.randn(5).double()
    kernel = bdl.SGLD(bdl.sum_out(mixture), step_size=1e-3, init={"loc": torch.zeros(2).double()})
    chains = bdl.sample_chains(
        kernel, num_samples=3, num_chains=2, model_args=(x,), seed=0, chain_method="sequential", progress=False
    )
    draws, density = chains.get_samples(group_by_chain=True)["loc"], chains.sample_stats()["lp"]
    assert torch.allclose(density[:, 1:], torch.stack([torch.stack([by_hand(x, d) for d in c[:-1]]) for c in draws]))


def test_subsampling_is_refused() -> None:
    def subsampled() -> None:
        with pyro.plate("data", 10, subsample_size=5):
            pyro.sample("z", dist.Bernoulli(0.5))

    with pytest.raises(UnsupportedModelError, match='"data": expected all of its 10 elements, got 5'):
        bdl.sum_out(subsampled)()
