"""How a network takes more than one input, such as an image and its class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_bdl.errors import InputError


class Concatenated(nn.Module):
    r"""A network of all its inputs in a row: :math:`f([v_1, v_2, \dots])`, each flattened.

    Raises:
        InputError: in a call, an input of one number for each data point that is not (B, 1).

    >>> Concatenated(nn.Linear(6 + 3, 4))(torch.zeros(5, 2, 3), torch.zeros(5, 3)).shape
    torch.Size([5, 4])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's output, for inputs (B, \\*any)."""
        for value in inputs:
            if value.dim() < 2:
                raise InputError("an input", expected="rows of numbers", got=f"shape {tuple(value.shape)}")
        return self.network(torch.cat([value.flatten(1) for value in inputs], 1))


class Summed(nn.Module):
    r"""A network whose first layer adds up what it makes of each input: :math:`f(b + \sum_i W_i v_i)`.

    The same functions as `Concatenated(nn.Sequential(nn.Linear(...), network))`, but what is made of one input is
    computed once for all values of the others: of an image once for all classes that it may have.

    Args:
        sizes: numbers of each input.
        units: of the first layer.
        network: what comes after it; begin with a nonlinearity.

    Raises:
        InputError: in a call, an input whose last dimension is another; flatten images.

    >>> net = Summed([6, 3], 4, nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    >>> net(torch.zeros(5, 6), torch.zeros(10, 1, 3)).shape
    torch.Size([10, 5, 2])
    """

    broadcasts = True

    def __init__(self, sizes: Sequence[int], units: int, network: nn.Module) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.first = nn.ModuleList(nn.Linear(size, units, bias=i == 0) for i, size in enumerate(sizes))
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's output, for inputs (\\*leading, size) whose leading dimensions broadcast."""
        for value, size in zip(inputs, self.sizes, strict=True):
            if value.dim() < 2 or value.shape[-1] != size:
                raise InputError("an input", expected=f"rows of {size} numbers", got=f"shape {tuple(value.shape)}")
        return self.network(sum(layer(value) for layer, value in zip(self.first, inputs, strict=True)))
