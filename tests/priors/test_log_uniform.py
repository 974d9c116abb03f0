"""The log-uniform prior on each weight: sites, refusals, and weights that vanish."""

from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import nn

import pyro_bdl as bdl
from pyro_bdl.distributions.kl import log_alpha
from pyro_bdl.errors import ImproperPriorError
from pyro_bdl.priors import Laplace, LogUniform, Weight

X = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))


def test_sites() -> None:
    layer = nn.Conv2d(2, 3, 2)
    weights = [Weight(name, value.detach(), layer) for name, value in layer.named_parameters()]
    program = poutine.condition(LogUniform(rest=Laplace(2.0)).bind(weights), data={"weight": layer.weight.detach()})
    trace = poutine.trace(program).get_trace()
    assert trace.nodes["weight"]["fn"].event_shape == (3, 2, 2, 2)
    assert trace.nodes["bias"]["fn"].base_dist.scale.eq(2.0).all()
    expected = -layer.weight.detach().abs().log().sum()
    torch.testing.assert_close(trace.nodes["weight"]["fn"].log_prob(layer.weight.detach()), expected)


@pytest.mark.parametrize("ask", ["draw", "NUTS", "SGLD"])
def test_what_needs_a_proper_prior_is_refused_with_the_reason(ask: str) -> None:
    model = bdl.Regressor(bdl.BayesianModule(nn.Linear(5, 1), LogUniform()), noise=0.1)
    sgld = bdl.SGLD(model, step_size=bdl.Constant(1e-4), data=(X, X[:, 0]))
    run: dict[str, Any] = {
        "draw": lambda: model(X),
        "NUTS": lambda: MCMC(NUTS(model), num_samples=1, warmup_steps=1, disable_progbar=True).run(X, X[:, 0]),
        "SGLD": lambda: MCMC(sgld, num_samples=1, warmup_steps=1, disable_progbar=True).run(),
    }
    with pytest.raises(ImproperPriorError, match=r"Hron"):
        run[ask]()


def test_variational_dropout_thins_weights_that_say_nothing() -> None:
    y = 2.0 * X[:, 0] + 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(1))
    model = bdl.Regressor(bdl.BayesianModule(nn.Linear(5, 1), LogUniform()), noise=0.1)
    guide = bdl.guides.AutoMeanField(model)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.05)

    bdl.fit_svi(model, guide, (X, y), epochs=400, batch_size=300, kl_warmup=50, optimizer=adam, progress=False)
    moments = dict(zip([s.name for s in guide.sites], guide.moments(), strict=True))["weight"]
    rates = log_alpha(*moments)[0]
    assert rates[0] < -4.0
    assert bool((rates[1:] > rates[0] + 3.0).all())
