"""Hierarchical priors: all weights of a node share a random scale, so that whole nodes can vanish."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_bdl.distributions import LogUniform
from pyro_bdl.priors.independent import Gaussian, zero_and
from pyro_bdl.priors.weight import Prior, Weight, WeightProgram

ScaleProgram = Callable[[], Tensor]


class NodePrior(nn.Module, ABC):
    r"""A prior of the form :math:`w_{ij} = z_i\, \tilde w_{ij}`, :math:`\tilde w_{ij} \sim N(0, 1)`, node by node.

    Final subclasses say what the scales z are. A node is an input unit of a linear layer and an output channel of a
    convolution (Louizos, Ullrich & Welling 2017, section 4). Biases, and all that is no matrix, have the prior of
    `rest`. Sites of a weight `fc1.weight`: those of its scale, `fc1.weight.raw` of the weight's own shape, and the
    deterministic `fc1.weight`, their product.

    It is a module only so that a `rest` with parameters of its own is found by `state_dict`.
    """

    def __init__(self, *, rest: Prior | None = None) -> None:
        super().__init__()
        self.rest: Prior = Gaussian() if rest is None else rest

    @abstractmethod
    def scale(self, weight: Weight, nodes: int) -> tuple[ScaleProgram, float]:
        """The program that samples the scales (..., nodes) of a weight, and the number at which they begin."""

    def bind(self, weights: Sequence[Weight]) -> WeightProgram:
        """The program: scales and raw weights for each matrix, `rest` for the others."""
        nodes = [_Node(w, *self.scale(w, w.value.shape[node_dim(w)])) for w in weights if w.is_matrix]
        rest = self.rest.bind([w for w in weights if not w.is_matrix])

        def program() -> dict[str, Tensor]:
            return {node.name: node.sample() for node in nodes} | rest()

        return program


class GroupNormalJeffreys(NodePrior):
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

    def scale(self, weight: Weight, nodes: int) -> tuple[ScaleProgram, float]:
        """Log-uniform scales; all begin at one, where the network is the one that was handed over."""
        law = LogUniform((nodes,)).to_event(1)
        start: Any = {"initial_value": weight.value.new_ones(nodes)}
        return lambda: pyro.sample(f"{weight.name}.scale", law, infer=start), 1.0

    def __repr__(self) -> str:
        return f"GroupNormalJeffreys(rest={self.rest!r})"


class _Node:
    """The sites of one weight matrix."""

    def __init__(self, weight: Weight, scale: ScaleProgram, start: float) -> None:
        self.name, self.scale = weight.name, scale
        dim = node_dim(weight)
        self.broadcast = tuple(n if d == dim else 1 for d, n in enumerate(weight.value.shape))
        self.raw = dist.Normal(*zero_and(1.0, weight)).expand(weight.value.shape).to_event(weight.value.dim())
        self.raw_start: Any = weight.start if start == 1.0 else {"initial_value": weight.value / start}

    def sample(self) -> Tensor:
        scale = self.scale()
        raw = pyro.sample(f"{self.name}.raw", self.raw, infer=self.raw_start)
        return deterministic(self.name, raw * scale.reshape(scale.shape[:-1] + self.broadcast))


def node_dim(weight: Weight) -> int:
    """The dimension that counts a weight's nodes: output channels of a convolution, else input units."""
    return weight.output_dim if weight.is_convolution else weight.input_dim


def deterministic(name: str, value: Tensor) -> Tensor:
    """Record a weight that follows from other sites, unless it has no single value (a deferred draw)."""
    if type(value) is Tensor:
        pyro.deterministic(name, value, event_dim=value.dim())
    return value
