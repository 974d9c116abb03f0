"""The two operations on a network whose units are known: zero the units that are not kept, or cut them out."""

from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from pyro_bdl.compression.units.selected_linear import SelectedLinear
from pyro_bdl.compression.units.unit_groups import Role, UnitGroup, cuts

WEIGHTS: tuple[Role, ...] = ("producer", "bias", "channel", "consumer")


@torch.no_grad()
def zero(
    module: nn.Module, groups: Collection[UnitGroup], masks: Mapping[str, Tensor], *, roles: Collection[Role] = WEIGHTS
) -> nn.Module:
    """Set the parameters of the units that are not kept to zero, in place; buffers stay."""
    parameters = dict(module.named_parameters())
    for group in groups:
        for member in group.of(*roles):
            if member.name in parameters:
                parameter = parameters[member.name]
                parameter.index_fill_(member.dim, member.cut(masks[group.name]).to(parameter.device), 0)
    return module


@torch.no_grad()
def cut(module: nn.Module, groups: Collection[UnitGroup], masks: Mapping[str, Tensor]) -> nn.Module:
    """Take the units that are not kept out of the tensors and sizes, in place; the result may be another module."""
    positions = {key: cut for key, cut in cuts(list(groups), masks).items() if len(cut)}
    source = {name.rpartition(".")[0]: cut for (name, _), cut in positions.items() if name.endswith(SOURCE)}
    columns = {name.rpartition(".")[0] for (name, dim) in positions if dim == 1 and name.endswith("weight")}
    linears = {name for name in source.keys() | columns if is_linear(module.get_submodule(name))}
    for name in sorted(linears):
        layer = cast(nn.Linear, module.get_submodule(name))
        gone = positions.get((_join(name, "weight"), 1), _NONE)
        selected = _select(layer, gone, source.get(name, _NONE))
        module = replace(module, name, selected)
    for (name, dim), gone in positions.items():
        owner_name, _, attribute = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        if (owner_name in linears and dim == 1) or name.endswith(SOURCE):
            continue
        value = getattr(owner, attribute)
        setattr(owner, attribute, value - len(gone) if isinstance(value, int) else without(value, dim, gone))
    return module


SOURCE = "source_features"
_NONE = torch.zeros(0, dtype=torch.long)


def is_linear(layer: object) -> bool:
    """Whether this is a linear layer whose inputs can be selected; of a subclass, nobody knows what it computes."""
    return type(layer) in (nn.Linear, SelectedLinear)


def source_features(linear: nn.Linear) -> int:
    """Length of what a linear layer is handed."""
    return linear.source_features if isinstance(linear, SelectedLinear) else linear.in_features


def source_positions(linear: nn.Linear) -> Tensor:
    """Which of its inputs each column of a linear layer's weight reads."""
    return linear.inputs.cpu() if isinstance(linear, SelectedLinear) else torch.arange(linear.in_features)


def _select(linear: nn.Linear, columns: Tensor, source: Tensor) -> nn.Linear:
    """A linear layer without these columns, whose input no longer has these positions."""
    kept_columns = _complement(columns, linear.in_features)
    kept_source = _complement(source, source_features(linear))
    inputs = torch.searchsorted(kept_source, source_positions(linear)[kept_columns])
    linear.weight = without(linear.weight, 1, columns)
    linear.in_features = len(kept_columns)
    if len(inputs) < len(kept_source):
        return SelectedLinear.of(linear, inputs, source_features=len(kept_source))
    if isinstance(linear, SelectedLinear):
        return linear.dense()
    return linear


def without(tensor: Tensor, dim: int, gone: Tensor) -> Tensor:
    """A tensor without these positions along a dimension; a parameter stays one, with its `requires_grad`."""
    kept = _complement(gone, tensor.shape[dim]).to(tensor.device)
    value = tensor.detach().index_select(dim, kept)
    return nn.Parameter(value, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _complement(positions: Tensor, size: int) -> Tensor:
    kept = torch.ones(size, dtype=torch.bool)
    kept[positions] = False
    return kept.nonzero().flatten()


def replace(module: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Put another layer under this name, in place; a module that is the layer itself is answered by the other."""
    if not name:
        return layer
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, layer)
    return module


def _join(layer: str, attribute: str) -> str:
    return f"{layer}.{attribute}" if layer else attribute
