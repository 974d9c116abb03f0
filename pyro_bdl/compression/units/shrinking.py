"""A smaller network with the outputs of the masked one."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bdl.compression.units.cutting import cut, without, zero
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.compression.units.unit_groups import cuts
from pyro_bdl.errors import InputError


def shrink(
    module: nn.Module, kept: Mapping[str, Tensor], example_input: Any, *, units: Units | None = None
) -> nn.Module:
    r"""A plain dense copy of a network without the units that are not kept.

    For weights :math:`W` of a layer with outputs kept in :math:`R` and inputs kept in :math:`C`, the copy has
    :math:`W_{RC}`; biases, normalisation with its running statistics, PReLU and depthwise filters lose the same rows. A
    linear layer that no longer reads some of what it is handed (pixels, features of a flattened image) becomes a
    `SelectedLinear` of the same name. The outputs equal those of `mask(module, kept, ...)` to rounding, but for
    the random numbers that dropout draws in training mode.

    Args:
        module: the network; it is not changed. Devices, dtypes, training flags, `requires_grad`, hooks and other
            buffers are the copy's too.
        kept: by group of `find_units`, a bool mask of its units; groups that are not named are kept whole.
        example_input: what the network can be called with, see `find_units`.
        units: what `find_units(module, example_input)` returned, if that is at hand.

    Raises:
        InputError: an unknown group, a mask of the wrong shape or type, or one that keeps nothing.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> small = shrink(net, {"0": torch.tensor([True, False, True])}, torch.zeros(1, 4))
    >>> small
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=2, bias=True)
    )
    """
    units = find_units(module, example_input) if units is None else units
    masks = units.complete(kept)
    return cut(copy.deepcopy(module), list(units.groups.values()), masks)


def mask(module: nn.Module, kept: Mapping[str, Tensor], example_input: Any, *, units: Units | None = None) -> nn.Module:
    """A copy of a network of the same size, with zeros for all weights of the units that are not kept.

    Zero are the rows that make such a unit, their biases, its normalisation weights and the columns that read it. The
    arguments and errors are those of `shrink`.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> masked = mask(net, {"0": torch.tensor([True, False, True])}, torch.zeros(1, 4))
    >>> masked[0].weight[1].abs().sum().item(), masked[2].weight[:, 1].abs().sum().item()
    (0.0, 0.0)
    """
    units = find_units(module, example_input) if units is None else units
    masks = units.complete(kept)
    return zero(copy.deepcopy(module), list(units.groups.values()), masks)


def shrink_tensors(tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor], *, units: Units) -> dict[str, Tensor]:
    """Tensors that belong to a network's parameters or buffers, cut as `shrink` cuts these.

    For the means and variances of a posterior, or the state of an optimizer.

    Args:
        tensors: by parameter or buffer name, each of the shape of its parameter; other names are passed on as they are.
        kept, units: as for `shrink`.

    Raises:
        InputError: a mask that `shrink` would refuse, or a tensor that is not of its parameter's size.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> kept, units = {"0": torch.tensor([True, False, True])}, find_units(net, torch.zeros(1, 4))
    >>> small = shrink_tensors({"0.bias": torch.arange(3.0), "2.weight": torch.ones(2, 3)}, kept, units=units)
    >>> small["0.bias"], small["2.weight"].shape
    (tensor([0., 2.]), torch.Size([2, 2]))
    """
    groups = list(units.groups.values())
    result = dict(tensors)
    for group in groups:
        for member in group.of("producer", "bias", "channel", "consumer"):
            if member.name in tensors and len(member.index):
                shape = tuple(tensors[member.name].shape)
                if member.dim >= len(shape) or int(member.index.max()) >= shape[member.dim]:
                    raise InputError(
                        f"the tensor of {member.name}",
                        expected=f"more than {int(member.index.max())} positions along dimension {member.dim}",
                        got=f"shape {shape}",
                    )
    for (name, dim), gone in cuts(groups, units.complete(kept)).items():
        if name in result and len(gone):
            result[name] = without(result[name], dim, gone)
    return result


def elements_left(net: nn.Module, units: Units, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By parameter and buffer name, which elements are left where these units are kept (masks of all groups)."""
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    left = {name: torch.ones(tensor.shape, dtype=torch.bool) for name, tensor in tensors.items()}
    for (name, dim), gone in cuts(list(units.groups.values()), kept).items():
        if name in left and len(gone):
            left[name].index_fill_(dim, gone, False)
    return {name: mask.to(tensors[name].device) for name, mask in left.items()}
