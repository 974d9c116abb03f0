"""Inputs of linear layers that can be pruned one by one: pixels, and features of a flattened image."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from pyro_bdl.compression.units.cutting import is_linear, source_features, source_positions
from pyro_bdl.compression.units.probing import Probe, random_mask, same
from pyro_bdl.compression.units.unit_groups import Member, UnitGroup


def selections(probe: Probe, groups: Sequence[UnitGroup], shared: Collection[str]) -> list[tuple[float, UnitGroup]]:
    """Groups of inputs of linear layers, with their rank in the order of computation.

    An input that stands for a whole unit of the layer before goes with that unit and is in no group of its own.

    Args:
        probe: the network.
        groups: the groups of units that layers make.
        shared: parameters that other modules have too.
    """
    found: list[tuple[float, UnitGroup]] = []
    taken = {group.name for group in groups}
    columns = {name: free for name in probe.reads if len(free := _free_columns(probe, name, groups, shared)) > 1}
    for place, x in enumerate(probe.inputs):
        readers = [name for name in columns if isinstance(x, Tensor) and _reads(probe, name, x)]
        if readers and (group := _input_group(probe, place, readers, columns, taken)) is not None:
            found.append((-1.0, group))
            taken.add(group.name)
            columns = {name: free for name, free in columns.items() if name not in readers}
    for name, free in columns.items():
        title = _untaken(f"{name}.input" if name else "input", taken)
        member = Member(_weight(name), 1, free, torch.arange(len(free)), "consumer")
        found.append((probe.order[name] - 0.5, UnitGroup(title, len(free), (member,))))
        taken.add(title)
    return found


def _free_columns(probe: Probe, name: str, groups: Sequence[UnitGroup], shared: Collection[str]) -> Tensor:
    """The columns of a linear layer's weight that are not the only one that reads some unit."""
    layer = probe.network.get_submodule(name)
    if not is_linear(layer) or _weight(name) in shared:
        return torch.zeros(0, dtype=torch.long)
    free = torch.ones(layer.get_parameter("weight").shape[1], dtype=torch.bool)
    for group in groups:
        for member in group.of("consumer"):
            if member.name == _weight(name):
                alone = torch.bincount(member.unit, minlength=group.size)[member.unit] == 1
                free[member.index[alone]] = False
    return free.nonzero().flatten()


def _reads(probe: Probe, name: str, x: Tensor) -> bool:
    """Whether a linear layer was handed this input of the network, flattened or as it is, and nothing else."""
    calls = probe.reads[name]
    return len(calls) == 1 and (torch.equal(calls[0], x) or (x.dim() > 1 and torch.equal(calls[0], x.flatten(1))))


def _input_group(
    probe: Probe, place: int, readers: Sequence[str], columns: dict[str, Tensor], taken: Collection[str]
) -> UnitGroup | None:
    """The units of a network's input; None where other layers than these read it too."""
    layers = {name: _linear(probe, name) for name in readers}
    x = probe.inputs[place]
    wide = {source_features(layer) for layer in layers.values()}
    whole = all(len(columns[name]) == layer.in_features for name, layer in layers.items())
    if len(wide) > 1 or not whole or not x.is_floating_point():
        return None
    positions = torch.cat([source_positions(layer) for layer in layers.values()]).unique()
    members = tuple(
        Member(
            _weight(name), 1, torch.arange(layer.in_features), torch.searchsorted(positions, source_positions(layer)),
            "consumer",
        )
        for name, layer in layers.items()
    )  # fmt: skip
    title = _untaken("input" if len(probe.inputs) == 1 else f"input{place}", taken)
    group = UnitGroup(title, len(positions), members)
    mask = random_mask(group.size, seed=0)
    other = x.clone()
    flat = other.view(-1, next(iter(wide)))
    flat[:, positions[~mask]] += 1 + flat[:, positions[~mask]].abs()
    network = probe.zeroed([group], {title: mask})
    inputs = (*probe.inputs[:place], other, *probe.inputs[place + 1 :])
    closed = same(probe.outputs(network), probe.outputs(network, inputs), tolerance=probe.tolerance)
    return group if closed else None


def _linear(probe: Probe, name: str) -> nn.Linear:
    layer = probe.network.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def _weight(name: str) -> str:
    return f"{name}.weight" if name else "weight"


def _untaken(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "'"
    return name
