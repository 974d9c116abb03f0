"""Which channels of a network must be pruned together; the only file that knows torch-pruning."""

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from pyro_bdl.compression.units.cutting import SOURCE, replace, source_features, source_positions
from pyro_bdl.compression.units.selected_linear import SelectedLinear
from pyro_bdl.compression.units.unit_groups import Member, Role, UnitGroup

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_PASSIVE = ("ELEMENTWISE", "CONCAT", "SPLIT", "RESHAPE", "UNBIND", "EXPAND", "SLICE")


@dataclass(frozen=True)
class Candidate:
    """A group that the graph proposes, or the reason why its makers are kept whole (None: the output, or one unit)."""

    makers: tuple[str, ...]
    group: UnitGroup | None = None
    reason: str | None = None


def candidates(network: nn.Module, inputs: Sequence[Any], *, order: Mapping[str, int]) -> list[Candidate]:
    """The groups of channels that torch-pruning finds by tracing the network's backward graph.

    Its graph takes an operation that it does not know for one that acts on each channel by itself: what it proposes is
    to be verified.

    Args:
        network: in evaluation mode; may hold `SelectedLinear` layers.
        inputs: its positional arguments.
        order: names of layers with their rank in the order of computation.
    """
    dense = _all_dense(network)
    names = {layer: name for name, layer in dense.named_modules()}
    graph = torch_pruning.DependencyGraph()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        graph.build_dependency(dense, tuple(inputs), forward_fn=lambda net, args: net(*args), verbose=False)
    found: list[Candidate] = []
    seen: set[str] = set()
    for name in [names[layer] for layer in graph.module2node if isinstance(layer, (nn.Linear, *CONVOLUTIONS))]:
        if name not in seen:
            found.append(_proposed(network, dense, name, graph, names, order))
            seen |= {name, *found[-1].makers}
    return found


def _proposed(
    network: nn.Module,
    dense: nn.Module,
    name: str,
    graph: Any,
    names: Mapping[nn.Module, str],
    order: Mapping[str, int],
) -> Candidate:
    """The group that the outputs of this layer belong to."""
    layer = dense.get_submodule(name)
    pruner = graph.get_pruner_of_module(layer)
    try:
        proposal = graph.get_pruning_group(
            layer, pruner.prune_out_channels, list(range(pruner.get_out_channels(layer)))
        )
    except Exception as error:  # the tracer says in many ways that it cannot follow
        return Candidate((name,), reason=f"its units cannot be traced ({error!r})")
    return _candidate(network, graph, proposal, names, order)


def _all_dense(network: nn.Module) -> nn.Module:
    """A copy of the network with a plain linear layer for each `SelectedLinear`, all to be differentiated."""
    dense = copy.deepcopy(network)
    for name, layer in list(dense.named_modules()):
        if isinstance(layer, SelectedLinear):
            dense = replace(dense, name, layer.dense())
    return dense.requires_grad_()


def _candidate(
    network: nn.Module, graph: Any, proposal: Any, names: Mapping[nn.Module, str], order: Mapping[str, int]
) -> Candidate:
    makers: list[str] = []
    problems: list[str] = []
    is_output = False
    places: list[tuple[list[_Place], list[int]]] = []
    couplings: list[tuple[list[int], list[int]]] = []
    for item in proposal:
        node, handler, roots = item.dep.target, item.dep.handler, item.root_idxs
        if node.type.name == "OUTPUT":
            is_output = True
        elif node.type.name == "PARAMETER":
            problems.append("the parameter that its output meets has as many entries")
        elif node.type.name not in _PASSIVE:
            name = names[node.module]
            layer = network.get_submodule(name)
            outgoing = handler == graph.get_pruner_of_module(node.module).prune_out_channels
            found = _places(layer, name, outgoing=outgoing, index=list(item.idxs))
            if isinstance(found, str):
                problems.append(found)
            else:
                places.append((found, list(roots)))
                if isinstance(layer, CONVOLUTIONS) and not _is_depthwise(layer) and layer.groups > 1:
                    per_group = (layer.out_channels if outgoing else layer.in_channels) // layer.groups
                    couplings.append(([i % per_group for i in item.idxs], list(roots)))
            if outgoing and isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
                makers.append(name)
    ordered = tuple(sorted(set(makers), key=lambda name: order.get(name, len(order))))
    if is_output and not any(place.role == "consumer" for found, _ in places for place in found):
        return Candidate(ordered)
    if problems:
        return Candidate(ordered, reason=problems[0])
    unit_of = _couple(max(root for _, roots in places for root in roots) + 1, couplings)
    return _group(ordered, places, unit_of, tied=bool(couplings))


def _group(
    makers: tuple[str, ...], places: Iterable[tuple[list["_Place"], list[int]]], unit_of: Tensor, *, tied: bool
) -> Candidate:
    members = []
    for found, roots in places:
        units = unit_of[torch.tensor(roots)]
        for place in found:
            index = torch.tensor(place.index)
            pairs = torch.stack([index[index >= 0], units[index >= 0]], dim=1).unique(dim=0)
            members.append(Member(place.name, place.dim, pairs[:, 0], pairs[:, 1], place.role))
    group = UnitGroup(makers[0], int(unit_of.max()) + 1, tuple(members))
    if group.size < 2:
        return Candidate(makers, reason="a grouped convolution ties all its units together" if tied else None)
    if not group.of("producer"):
        return Candidate(makers, reason="no layer that can be pruned makes its units")
    return Candidate(makers, group=group)


@dataclass(frozen=True)
class _Place:
    """Positions along a dimension of a tensor, one for each index handed in; -1 where there is none."""

    name: str
    dim: int
    index: list[int]
    role: Role


def _places(layer: nn.Module, name: str, *, outgoing: bool, index: list[int]) -> list[_Place] | str:
    """Where a layer's tensors and sizes have these channels; or why this layer cannot be pruned."""

    def place(attribute: str, dim: int, role: Role, positions: list[int] = index) -> list[_Place]:
        if getattr(layer, attribute, None) is None:
            return []
        return [_Place(f"{name}.{attribute}" if name else attribute, dim, positions, role)]

    if type(layer) in (nn.Linear, SelectedLinear):
        assert isinstance(layer, nn.Linear)
        if outgoing:
            return place("weight", 0, "producer") + place("bias", 0, "bias") + place("out_features", 0, "size")
        column = torch.full((source_features(layer),), -1)
        column[source_positions(layer)] = torch.arange(layer.in_features)
        source = _Place(f"{name}.{SOURCE}" if name else SOURCE, 0, index, "size")
        return [*place("weight", 1, "consumer", column[torch.tensor(index)].tolist()), source]
    if type(layer) in CONVOLUTIONS:
        assert isinstance(layer, CONVOLUTIONS)
        if _is_depthwise(layer):
            sizes = [p for size in ("groups", "in_channels", "out_channels") for p in place(size, 0, "size")]
            return place("weight", 0, "channel") + place("bias", 0, "channel") + sizes
        per_group = (layer.out_channels if outgoing else layer.in_channels) // layer.groups
        within = [i % per_group for i in index]
        if outgoing:
            rows = place("weight", 1, "producer", within) if layer.transposed else place("weight", 0, "producer")
            return rows + place("bias", 0, "bias") + place("out_channels", 0, "size")
        columns = place("weight", 0, "consumer") if layer.transposed else place("weight", 1, "consumer", within)
        return columns + place("in_channels", 0, "size")
    if type(layer) in NORMS:
        assert isinstance(layer, (nn.modules.batchnorm._BatchNorm, _InstanceNorm))
        tensors = ("weight", "bias", "running_mean", "running_var")
        return [p for t in tensors for p in place(t, 0, "channel")] + place("num_features", 0, "size")
    if type(layer) is nn.PReLU:
        return [] if layer.num_parameters == 1 else place("weight", 0, "channel") + place("num_parameters", 0, "size")
    return f"{name} ({type(layer).__name__}) reads or makes its units"


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, CONVOLUTIONS) and 1 < layer.groups == layer.in_channels == layer.out_channels


def _couple(size: int, couplings: Iterable[tuple[list[int], list[int]]]) -> Tensor:
    """The unit of each root index; those of one key in a coupling (a grouped convolution's) are one unit."""
    parent = list(range(size))

    def top(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for keys, roots in couplings:
        first: dict[int, int] = {}
        for key, root in zip(keys, roots, strict=True):
            a, b = sorted((top(first.setdefault(key, root)), top(root)))
            parent[b] = a
    return torch.tensor([top(i) for i in range(size)]).unique(return_inverse=True)[1]
