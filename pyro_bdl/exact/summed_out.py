"""A program with its discrete sites summed out: what samplers and guides of continuous sites can take."""

from collections.abc import Callable
from typing import Any

import pyro
from pyro import poutine

from pyro_bdl.exact.factors import Program, enumerate_factors
from pyro_bdl.exact.plates import plate_nesting


def sum_out(model: Program) -> Callable[..., None]:
    r"""The same Pyro program of the continuous latent sites alone.

    .. math:: p(\theta)\, p(x \mid \theta) = p(\theta) \sum_z p(x, z \mid \theta)

    Its latent sites are those of `model` that are not discrete; discrete and observed sites are gone, and the sum over
    them enters as the factor "summed out". So `SGLD`, `NUTS` or any guide goes with a mixture or a hidden Markov
    model as it stands, and the gradient is Fisher's identity, by autograd through the sum.

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
        if nesting is None:  # a run that draws from the priors, which not all go through torch.vmap
            nesting = plate_nesting(model, args, kwargs)
        with poutine.block(expose_fn=_is_continuous_latent):
            factors = enumerate_factors(model, nesting, args, kwargs)
        pyro.factor("summed out", factors.log_total())

    return summed_out


def _is_continuous_latent(site: Any) -> bool:
    if site["type"] == "param":
        return True
    return (
        site["type"] == "sample" and not site["is_observed"]
        and type(site["fn"]).__name__ != "_Subsample" and not getattr(site["fn"], "has_enumerate_support", False)
    )  # fmt: skip
