"""What a prior is told of a weight, and what a prior is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

WeightProgram = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Weight:
    """One random parameter tensor of a network.

    Attributes:
        name: the name of its Pyro site, e.g. `fc1.weight`.
        value: the network's own value: where a fit begins; it tells shape, dtype and device.
        module: the layer it belongs to.
        whole: the weight of which it is a part, if units were cut out of the network: the prior stays what it was.
    """

    name: str
    value: Tensor
    module: nn.Module
    whole: "Weight | None" = None

    @property
    def is_matrix(self) -> bool:
        """Whether it multiplies inputs (a linear layer's weight, a convolution's filters), unlike a bias."""
        return self.value.dim() >= 2

    @property
    def fan_in(self) -> int:
        """How many inputs one output unit sums: the product of all but the output dimension; 1 for a bias.

        The filters of a transposed convolution hold the input channels of all its groups, of which a unit sums one.
        """
        if self.whole is not None:
            return self.whole.fan_in
        if not self.is_matrix:
            return 1
        groups = self.module.groups if isinstance(self.module, _ConvTransposeNd) else 1
        return math.prod(self.value.shape) // self.value.shape[self.output_dim] // groups

    @property
    def input_dim(self) -> int:
        """The dimension that counts input units or channels."""
        return 0 if isinstance(self.module, _ConvTransposeNd) else 1

    @property
    def output_dim(self) -> int:
        """The dimension that counts output units or channels."""
        return 1 if isinstance(self.module, _ConvTransposeNd) else 0

    @property
    def is_convolution(self) -> bool:
        """Whether it is the filters of a convolution, transposed or not."""
        return isinstance(self.module, _ConvNd) and self.is_matrix

    @property
    def start(self) -> Any:
        """The `infer` record of its sample site: a guide begins at the network's own value."""
        return {"initial_value": self.value}


class Prior(Protocol):
    """A recipe for Pyro programs over named weights.

    `bind` is called once for a network (and again after it moves to another device or dtype), so what is static is
    made once: the program then only runs `pyro.sample` statements and returns one tensor a weight.
    """

    def bind(self, weights: Sequence[Weight]) -> WeightProgram:
        """The Pyro program that samples these weights and returns them by name."""
        ...
