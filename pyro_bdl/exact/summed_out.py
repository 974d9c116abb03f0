"""A program with its discrete sites summed out: what samplers and guides of continuous sites can take."""

from collections.abc import Callable
from typing import Any

import pyro
from pyro import poutine

from pyro_bdl.exact.factors import Program, enumerate_factors
from pyro_bdl.exact.plates import is_continuous_latent, plate_nesting


def sum_out(model: Program) -> Callable[..., None]:
    r"""The same Pyro program of the continuous latent sites alone.

    .. math:: p(\theta)\, p(x \mid \theta) = p(\theta) \sum_z p(x, z \mid \theta)

    Its latent sites are those of `model` that are not discrete; discrete and observed sites are gone, and the sum over
    them enters as the factor "summed out". So `SGLD`, `NUTS` or any guide goes with a mixture or a hidden Markov
    model as it stands, and the gradient is Fisher's identity, by autograd through the sum. Pyro's enumeration does not
    go through `torch.vmap`: `sample_chains` draws its chains one after another (`chain_method="sequential"`).

    Args:
        model: a Pyro program, see `factors_of`.

    Raises:
        UnsupportedModelError: by the new program when it is run, see `factors_of`.

    >>> import torch, pyro.distributions as dist
    >>> def mixture(x):
    ...     loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
    ...         pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
    >>> trace = pyro.poutine.trace(sum_out(mixture)).get_trace(torch.randn(10))
    >>> [name for name, site in trace.nodes.items() if site["type"] == "sample"]
    ['loc', 'summed out']
    """

    nesting: int | None = None

    def summed_out(*args: Any, **kwargs: Any) -> None:
        nonlocal nesting
        if nesting is None:  # by a run of its own, once
            nesting = plate_nesting(model, args, kwargs)
        shown: list[str] = []

        def show(site: Any) -> bool:
            """What the handlers around see; they may condition it, so that it has to be noted here."""
            if site["type"] == "sample" and is_continuous_latent(site):
                shown.append(site["name"])
                return True
            return site["type"] == "param"

        with poutine.block(expose_fn=show):
            factors = enumerate_factors(model, nesting, args, kwargs, left_out=shown)
        pyro.factor("summed out", factors.log_total())

    return summed_out
