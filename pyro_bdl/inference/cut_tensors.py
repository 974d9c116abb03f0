"""The tensors of a fit whose network lost units: a network's own, and an optimizer's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_bdl.compression.units.selected_linear import SelectedLinear


@dataclass(frozen=True, eq=False)
class Cut:
    """A tensor, what is left of it, and where that lies.

    Attributes:
        whole, part: the tensors; the elements of the part are those of the whole where `left`, in the same order.
        left: bool, of the shape of the whole.
    """

    whole: Tensor
    part: Tensor
    left: Tensor

    @torch.no_grad()
    def put_back(self) -> None:
        """Write the part to its places in the whole."""
        self.whole.masked_scatter_(self.left, self.part)

    @torch.no_grad()
    def take(self) -> None:
        """Read the part from its places in the whole."""
        self.part.copy_(self.whole[self.left].view(self.part.shape))


def cut_buffers(net: nn.Module, part: nn.Module, left: Mapping[str, Tensor]) -> list[Cut]:
    """The buffers of a network and of its part; positions that a layer selects are no state of the fit."""
    positions = {f"{name}.inputs" for name, layer in net.named_modules() if isinstance(layer, SelectedLinear)}
    own, parts = dict(net.named_buffers()), dict(part.named_buffers())
    return [Cut(own[name], parts[name], left[name]) for name in own if name in parts and name not in positions]


def exchange_parameters(optimizer: torch.optim.Optimizer, changes: Sequence[Cut]) -> None:
    """Let an optimizer go on with the parts of its parameters.

    State tensors of a parameter's own shape (Adam's moments, a momentum) lose the same elements; the others (the
    count of steps) stay what they are.
    """
    new = {id(change.whole): change.part for change in changes}
    states = {
        change.part: {
            key: value[change.left].view(change.part.shape)
            if isinstance(value, Tensor) and value.shape == change.whole.shape
            else value
            for key, value in optimizer.state[change.whole].items()
        }
        for change in changes
        if change.whole in optimizer.state
    }
    for group in optimizer.param_groups:
        group["params"] = [new.get(id(parameter), parameter) for parameter in group["params"]]
    for change in changes:
        optimizer.state.pop(change.whole, None)
    optimizer.state.update(states)
