"""The M-step of EM where the way up is hard to find, or there is none."""

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_bdl import fit_em
from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.inference import em

DOUBLE = torch.float64


def spread(x: Tensor, *, constraint: Any = constraints.positive, smallest: float = 0.0) -> None:
    """A mixture of known means, whose scale is fitted."""
    scale = pyro.param("scale", torch.ones_like(x[0]), constraint=constraint)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.full_like(x[0], 0.5)))
        pyro.sample("x", dist.Normal(6 * z - 3, scale + smallest), obs=x)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("scale", [1e6, 1e12, 1e-2])
def test_climbs_from_afar(scale: float, dtype: torch.dtype) -> None:
    """From there the line search of L-BFGS leaps to infinity: that is no convergence."""
    x = (torch.randn(60) + 6 * torch.randint(0, 2, (60,)) - 3).to(dtype)
    fits = [fit_em(spread, x, start={"scale": torch.tensor(s, dtype=dtype)}, progress=False) for s in (scale, 1.0)]
    assert all(fit.converged for fit in fits)
    assert fits[0].bounds[-1] == pytest.approx(fits[1].bounds[-1], abs=1e-3)


def test_a_start_from_which_no_climb_is_possible() -> None:
    """On the boundary, and where the gradient is infinite."""
    model = partial(spread, constraint=constraints.nonnegative, smallest=0.1)
    x, start = torch.randn(20, dtype=DOUBLE), {"scale": torch.tensor(0.0, dtype=DOUBLE)}
    with pytest.raises(InputError, match=r'start, "scale": expected numbers within .*, got 0.0, on its boundary'):
        fit_em(model, x, start=start, progress=False)

    def root(x: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros((), dtype=DOUBLE)).sqrt()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full_like(x[0], 0.5)))
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

    with pytest.raises(NumericalError, match="gradient of the expected complete log density is inf"):
        fit_em(root, x, progress=False)


def test_a_climb_that_goes_down_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(em, "climb", lambda objective, values, parameters: {"scale": 2 * values["scale"]})
    with pytest.raises(NumericalError, match="step 1: the climb lowered the bound"):
        fit_em(spread, 6 * torch.ones(20, dtype=DOUBLE).cumsum(0).remainder(2) - 3, progress=False)
