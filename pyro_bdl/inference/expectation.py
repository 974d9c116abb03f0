r"""The E-step of EM: the posterior of the discrete sites, a weight for each case of each factor, and what follows.

With the joint density a product of factors f(z_f; theta), see `pyro_bdl.exact`, the expected complete log density is

.. math:: Q(\theta' \mid \theta) = \sum_f \sum_{z_f} q(z_f) \log f(z_f; \theta'), \qquad
   q(z_f) = p(z_f \mid x, \theta) = \frac{\partial \log p(x, \theta)}{\partial \log f(z_f; \theta)}

so that one gradient of the sum gives all the weights (Darwiche 2003; Eisner 2016, "Inside-outside and forward-backward
algorithms are just backprop").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_bdl.errors import NumericalError
from pyro_bdl.exact import Factors


@dataclass(frozen=True, eq=False)
class Expectation:
    """The discrete sites' posterior at theta.

    Attributes:
        bound: log p(x, theta), nats, which the evidence lower bound with this posterior is.
        weights: q(z_f) by site, of the shape of the site's factor.
        responsibilities: q(z) of each discrete site: an axis a plate, then one over its values.
    """

    bound: float
    weights: Mapping[str, Tensor]
    responsibilities: Mapping[str, Tensor]

    def complete(self, factors: Factors) -> Tensor:
        """Q of the parameters that these factors have, differentiable by them; cases of weight 0 count as 0."""
        terms = [
            torch.where(weight == 0, 0.0, weight * torch.where(weight == 0, 0.0, factors.log[site])).sum()
            for site, weight in self.weights.items()
        ]
        return torch.stack(terms).sum()


def expect(factors: Factors) -> Expectation:
    """The E-step.

    Args:
        factors: those of the program at theta.

    Raises:
        NumericalError: a bound or a responsibility that is not finite; the factors that are not are named.
    """
    leaves = {site: log.detach().clone().requires_grad_() for site, log in factors.log.items()}
    total = factors.log_total(leaves)
    weights = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    bound = float(total.detach())
    if not math.isfinite(bound) or not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
        bad = [site for site, log in factors.log.items() if not bool(torch.isfinite(log).all())]
        raise NumericalError(
            f"the log density of {', '.join(bad) or 'the model'} is not finite: the log of the sum is {bound}"
        )
    found = {site: _marginal(factors, weights[site], site) for site in factors.symbols}
    return Expectation(bound, weights, found)


def _marginal(factors: Factors, weight: Tensor, site: str) -> Tensor:
    """q of one site: its factor's weights, summed over the values of the sites that its law depends on."""
    dims, kept = factors.dims[site], factors.plates[site] + factors.symbols[site]
    summed = [axis for axis, symbol in enumerate(dims) if symbol not in kept]
    left = [symbol for symbol in dims if symbol in kept]
    weight = weight.sum(summed) if summed else weight
    weight = weight.permute([left.index(symbol) for symbol in kept if symbol in left])
    for axis, symbol in enumerate(kept):
        if symbol not in dims:  # of length 1: Pyro packs it away
            weight = weight.unsqueeze(axis)
    return weight
