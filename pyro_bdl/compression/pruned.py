"""A network without some of its units and the posterior of what is left: what choices are tried on."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pyro_bdl.compression.codec import Parameter
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.quantisation.widths import Evaluate
from pyro_bdl.compression.units.finding import Units
from pyro_bdl.compression.units.shrinking import elements_left, shrink, shrink_tensors
from pyro_bdl.compression.validation import Error


@dataclass(frozen=True, eq=False)
class Pruned:
    """Without the units that are cut, not with zeros in their place: what is tried costs what is left of the network.

    Attributes:
        module: the smaller network.
        posterior: of its weights.
        gone: bool masks of its weights whose mean is 0.
        left: by name of the whole network's parameters, where the smaller ones' elements lie, in the same order.
    """

    module: nn.Module
    posterior: WeightPosterior
    gone: Mapping[str, Tensor]
    left: Mapping[str, Tensor]

    @staticmethod
    def of(mean: nn.Module, posterior: WeightPosterior, units: Units, kept: Mapping[str, Tensor]) -> "Pruned":
        """The network at the posterior mean without the units that are not kept."""
        small = shrink(mean, kept, None, units=units)
        cut = (shrink_tensors(moments, kept, units=units) for moments in (posterior.mean, posterior.variance))
        left = elements_left(mean, units, units.complete(kept))
        gone = {name: parameter.detach() == 0 for name, parameter in small.named_parameters()}
        return Pruned(small, WeightPosterior(*cut), gone, {name: left[name] for name, _ in mean.named_parameters()})

    def error_of(self, evaluate: Error, *, above: float = math.inf) -> Evaluate:
        """The validation error as a function of the parameters' values; beyond `above` it need not be exact."""
        network = copy.deepcopy(self.module)

        @torch.no_grad()
        def error(values: Mapping[str, Tensor]) -> float:
            return evaluate(_fill(network, values), above)

        return error

    def whole(self, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """Integers or places of the smaller network in their places in the whole one, and zeros."""
        return {
            name: replace(q, levels=torch.zeros_like(left, dtype=torch.int64).masked_scatter_(left, q.levels))
            for (name, q), left in ((item, self.left[item[0]]) for item in parameters.items())
        }


def with_values(net: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network with these parameters, for prediction."""
    return _fill(copy.deepcopy(net).eval(), values)


@torch.no_grad()
def _fill(net: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    for name, parameter in net.named_parameters():
        parameter.copy_(values[name])
    return net
