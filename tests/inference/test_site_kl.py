"""Sites that a guide draws in another order than the model: no closed form where a prior learned from its own site."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.inference.kl_terms import kl_terms
from pyro_bdl.record import Record
from pyro_bdl.site_kl import turned
from tests.statistics import Mismatch, means_agree

X = torch.tensor([1.0, 2.0])


def model(x: Tensor) -> None:
    """b -> a -> z -> x, where a and b are of all data."""
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    a = pyro.sample("a", dist.Normal(b, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x: Tensor) -> None:
    """z given a, and a before b."""
    a = pyro.sample("a", dist.Normal(torch.tensor(0.5), 0.8))
    pyro.sample("b", dist.Normal(0.5 * a, 0.7))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * (a + x), 0.7))


def draws(elbo: Any) -> Tensor:
    return torch.tensor([elbo.loss(model, guide, X) for _ in range(1000)])


ELBOS: dict[str, Callable[[], Any]] = {"elbo": bdl.MeanFieldELBO, "iwae 1": lambda: bdl.ImportanceWeightedELBO(1)}


@pytest.mark.parametrize("name", ELBOS)
def test_sites_outside_plates_drawn_in_another_order(name: str) -> None:
    means_agree(draws(ELBOS[name]()), draws(Trace_ELBO()))


@pytest.mark.parametrize("name", ELBOS)
def test_the_closed_form_there_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("inference.kl_terms", "particles"):
        monkeypatch.setattr(f"pyro_bdl.{module}.turned", lambda *_: set())
    with pytest.raises(Mismatch):
        means_agree(draws(ELBOS[name]()), draws(Trace_ELBO()))


def test_sites_of_data_points_of_which_one_of_all_data_is_drawn() -> None:
    def model(x: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(a, 1.0)), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.5 * x, 0.7))
        pyro.sample("a", dist.Normal(z.mean(), 0.3))

    ours, pyros = ([elbo.loss(model, guide, X) for _ in range(1000)] for elbo in (bdl.MeanFieldELBO(), Trace_ELBO()))
    means_agree(torch.tensor(ours), torch.tensor(pyros))


def test_sites_of_a_mean_field_guide_keep_their_closed_form_in_any_order() -> None:
    """The model draws the weights of the upper decoder first, the guide those of the lower; no KL varies."""
    decoder = [bdl.BayesianModule(nn.Linear(d, n), name=f"net{d}") for d, n in ((2, 3), (1, 4))]
    vae = bdl.VariationalAutoencoder([nn.Linear(3, 4), nn.Linear(2, 2)], decoder, [2, 1])
    x, found = torch.ones(5, 3), []
    for _ in range(2):
        guide_trace = Record.of(vae.guide, x)
        model_trace = Record.of(vae.model, x, answers=guide_trace.nodes)
        assert turned(model_trace, guide_trace) == {"z.1"}
        terms = kl_terms(model_trace, guide_trace)
        found.append({site: float(kl.detach()) for site, kl in terms if not site.startswith("z")})
    assert len(found[0]) == 4
    assert found[0] == found[1]
    orders = [[name for name in trace.nodes if name in found[0]] for trace in (guide_trace, model_trace)]
    assert orders[0] != orders[1]
