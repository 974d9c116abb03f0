"""Hierarchical priors: all weights of a node share a random scale, so that whole nodes can vanish."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_bdl.distributions import LogUniform
from pyro_bdl.priors.independent import Gaussian, zero_and
from pyro_bdl.priors.weight import Prior, Weight, WeightProgram


class GroupNormalJeffreys:
    r"""Group normal-Jeffreys: a log-uniform scale for each node, Gaussian weights given the scale.

    .. math:: p(z_i) \propto 1 / |z_i|, \qquad w_{ij} = z_i\, \tilde w_{ij}, \qquad \tilde w_{ij} \sim N(0, 1)

    (Louizos, Ullrich & Welling 2017, eqs. 5 to 9, with :math:`w \mid z \sim N(0, z^2)` written without its centre, so
    that the KL of the weights does not depend on z). A node is an input unit of a linear layer and an output channel
    of a convolution, as in the paper. Biases, and all that is no matrix, have the prior of `rest`.

    Sites of a weight `fc1.weight`: `fc1.weight.scale` of shape (nodes,), `fc1.weight.raw` of the weight's own shape,
    and the deterministic `fc1.weight`, their product.

    The density of the scales is improper, and with it the posterior (Hron, Matthews & Ghahramani 2018). A variational
    fit minimises the expected loss plus the KL "up to a constant": a good regulariser and pruning criterion, whose
    result is not an approximate posterior over the scales. MCMC and prior draws are refused.

    Args:
        rest: the prior of biases and other vectors. Default N(0, 1).

    >>> GroupNormalJeffreys()
    GroupNormalJeffreys(rest=Gaussian(scale=1.0, fan_in=False))
    """

    def __init__(self, *, rest: Prior | None = None) -> None:
        self.rest: Prior = Gaussian() if rest is None else rest

    def bind(self, weights: Sequence[Weight]) -> WeightProgram:
        """The program: scales and raw weights for each matrix, `rest` for the others."""
        nodes = [_Node(w) for w in weights if w.is_matrix]
        rest = self.rest.bind([w for w in weights if not w.is_matrix])

        def program() -> dict[str, Tensor]:
            return {node.name: node.sample() for node in nodes} | rest()

        return program

    def __repr__(self) -> str:
        return f"GroupNormalJeffreys(rest={self.rest!r})"


class _Node:
    """The sites of one weight matrix."""

    def __init__(self, weight: Weight) -> None:
        self.name = weight.name
        dim = weight.output_dim if weight.is_convolution else weight.input_dim
        nodes = weight.value.shape[dim]
        self.broadcast = tuple(nodes if d == dim else 1 for d in range(weight.value.dim()))
        self.scale = LogUniform((nodes,)).to_event(1)
        # All scales begin at one, where the network is the one that was handed over.
        self.scale_start: Any = {"initial_value": weight.value.new_ones(nodes)}
        self.raw = dist.Normal(*zero_and(1.0, weight)).expand(weight.value.shape).to_event(weight.value.dim())
        self.raw_start = weight.start

    def sample(self) -> Tensor:
        scale = pyro.sample(f"{self.name}.scale", self.scale, infer=self.scale_start)
        raw = pyro.sample(f"{self.name}.raw", self.raw, infer=self.raw_start)
        return deterministic(self.name, raw * scale.reshape(scale.shape[:-1] + self.broadcast))


def deterministic(name: str, value: Tensor) -> Tensor:
    """Record a weight that follows from other sites, unless it has no single value (a deferred draw)."""
    if type(value) is Tensor:
        pyro.deterministic(name, value, event_dim=value.dim())
    return value
