"""Units that single pruned weights have left without any effect."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bdl.compression.units.cutting import SOURCE, zero
from pyro_bdl.compression.units.probing import positional
from pyro_bdl.compression.units.unit_groups import Member, UnitGroup, Units
from pyro_bdl.errors import InputError


def without_dead_units(
    module: nn.Module,
    weights_kept: Mapping[str, Tensor],
    example_input: Any,
    *,
    units: Units,
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The units that still do something when single weights are pruned.

    A unit has no effect if every weight that reads it is zero; or if every weight that makes it is zero and the
    constant that it then is, behind bias, normalisation and activation, is zero where it is read. Without it others may
    have none: repeated until nothing changes. A unit that is another constant is kept, as it acts like a bias. So the
    outputs are those of the network with the single weights pruned, exactly.

    Args:
        module: the network, which is not changed.
        weights_kept: by parameter name a bool mask; parameters that are not named are kept whole.
        example_input: what the network can be called with, on its device.
        units: `find_units` of the network.
        kept: masks of units that are pruned anyway.

    Returns:
        By group a mask of the units that are kept, at least one.

    Raises:
        InputError: a mask of an unknown parameter, or of the wrong shape or type.

    >>> from pyro_bdl.compression.units.finding import find_units
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> units = find_units(net, torch.zeros(1, 2))
    >>> readers = torch.tensor([[True, False, True]])                # nobody reads the second unit
    >>> without_dead_units(net, {"2.weight": readers}, torch.zeros(1, 2), units=units)["0"]
    tensor([ True, False,  True])
    """
    masks = units.complete(kept or {})
    network = copy.deepcopy(module).eval().requires_grad_(False)
    _apply(network, weights_kept)
    groups = list(units.groups.values())
    zero(network, groups, masks)
    while True:
        read = _what_is_read(network, groups, positional(example_input))
        before = {name: mask.clone() for name, mask in masks.items()}
        for group in groups:
            alive = _alive(network, group, read) & masks[group.name]
            if not bool(alive.any()):
                alive[int(masks[group.name].int().argmax())] = True
            masks[group.name] = alive
        masks = _with_channels(units, masks, before)
        zero(network, groups, masks)
        if all(torch.equal(before[name], mask) for name, mask in masks.items()):
            return masks


def _apply(network: nn.Module, weights_kept: Mapping[str, Tensor]) -> None:
    parameters = dict(network.named_parameters())
    for name, mask in weights_kept.items():
        if name not in parameters:
            raise InputError("the weights kept", expected=f"parameters among {list(parameters)}", got=name)
        if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
            raise InputError(
                f"the weights kept of {name}",
                expected=f"a bool mask of shape {tuple(parameters[name].shape)}",
                got=f"{mask.dtype} of shape {tuple(mask.shape)}",
            )
        parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)


def _with_channels(units: Units, masks: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of a linear layer go with their channel; where none is left, one that can be stays."""
    result = units.with_channels(masks)
    for name, mask in result.items():
        if not bool(mask.any()):
            possible = units.with_channels(masks | {name: torch.ones_like(mask)})[name]
            mask[int((possible.int() + (possible & before[name]).int()).argmax())] = True
    return result


def _alive(network: nn.Module, group: UnitGroup, read: Mapping[str, Tensor]) -> Tensor:
    """Units that some weight reads, and that some weight makes or that are a constant other than zero."""
    is_read = _any_weight(network, group.of("consumer"), group.size)
    if group.is_selection:
        return is_read
    return is_read & (_any_weight(network, group.of("producer"), group.size) | _any_value(group, read))


def _any_weight(network: nn.Module, members: list[Member], size: int) -> Tensor:
    """Whether one of these tensors has a weight other than zero for each unit."""
    found = torch.zeros(size, dtype=torch.long)
    for member in members:
        rows = (network.get_parameter(member.name) != 0).movedim(member.dim, 0).flatten(1).any(1).cpu()
        found.index_add_(0, member.unit, rows[member.index].long())
    return found > 0


def _any_value(group: UnitGroup, read: Mapping[str, Tensor]) -> Tensor:
    """Whether the layers that read a unit were handed something other than zero; unknown counts as yes."""
    found = torch.zeros(group.size, dtype=torch.long)
    for member in _inputs(group):
        values = read.get(member.layer)
        seen = torch.ones(len(member.index)).bool() if values is None else values[member.index]
        found.index_add_(0, member.unit, seen.long())
    return found > 0


def _inputs(group: UnitGroup) -> list[Member]:
    """The members that say where a layer's input has the units."""
    readers = {member.layer for member in group.of("consumer")}
    sizes = (SOURCE, "in_channels")
    return [m for m in group.of("size") if m.layer in readers and m.name.rpartition(".")[2] in sizes]


@torch.no_grad()
def _what_is_read(network: nn.Module, groups: list[UnitGroup], inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """By layer, which positions of its input are anything but zero, on the example and on noise."""
    read: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            channels = -1 if isinstance(layer, nn.Linear) else -1 - len(getattr(layer, "kernel_size", ()))
            nonzero = (x != 0).movedim(channels, 0).flatten(1).any(1).cpu()
            read[name] = read[name] | nonzero if name in read else nonzero

        return layer.register_forward_pre_hook(hook)

    names = {member.layer for group in groups for member in _inputs(group)}
    handles = [watch(name, network.get_submodule(name)) for name in sorted(names)]
    generator = torch.Generator().manual_seed(0)
    noise = tuple(
        torch.randn(x.shape, generator=generator).to(x) if isinstance(x, Tensor) and x.is_floating_point() else x
        for x in inputs
    )
    try:
        network(*inputs)
        network(*noise)
    finally:
        for handle in handles:
            handle.remove()
    return read
