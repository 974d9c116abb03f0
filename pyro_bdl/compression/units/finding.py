"""The units of a network that can be pruned: found by tracing it, verified by pruning it."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pyro_bdl.compression.units.dependencies import CONVOLUTIONS, Candidate, candidates
from pyro_bdl.compression.units.probing import OUTPUT, Probe, agrees, random_mask
from pyro_bdl.compression.units.selections import selections
from pyro_bdl.compression.units.unit_groups import Member, Role, UnitGroup, Units

__all__ = ["Member", "Role", "UnitGroup", "Units", "find_units"]

_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.PReLU)


def find_units(module: nn.Module, example_input: Any) -> Units:
    """The groups of units of a network that can be pruned without a trace.

    Units are the outputs of linear and convolutional layers, transposed, grouped and depthwise convolutions among
    them; those that a residual sum ties together are one group. A unit is prunable if all that it does passes through
    columns of weights that read it, so that it can be cut out where these are zero. The graph is traced by
    torch-pruning (Fang et al. 2023, "DepGraph"); each group that it proposes is then tried on a copy in float64 with
    random weights and inputs: the cut network must equal the one with zeroed columns, for single units and for a random
    half, for each group alone and for all together. What fails is kept whole.

    Single inputs of a linear layer that do not stand for a unit of the layer before are units too, with consumers only:
    the network's inputs (group `input`), or the features of a flattened image (group `LAYER.input`). The units of the
    network's output are never pruned.

    Args:
        module: the network. It is not changed, nor is its mode.
        example_input: a tensor, or a tuple of the network's positional arguments; one or two examples are enough.

    Raises:
        InputError: an example input that the network cannot be called with.

    Warns:
        UserWarning: names the layers that are kept whole. `Units.whole` has the reasons.

    >>> net = nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(180, 50), nn.ReLU(),
    ...                     nn.Linear(50, 10))
    >>> units = find_units(net, torch.zeros(1, 1, 10, 10))
    >>> units.architecture()
    '20-180-50'
    >>> list(units.groups)
    ['0', '3.input', '3']
    """
    probe = Probe.of(module, example_input)
    shared = _shared(module)
    whole: dict[str, str] = {}
    outputs: set[str] = set()
    try:
        proposed = candidates(probe.network, probe.inputs, order=probe.order)
    except Exception as error:  # the tracer says in many ways that it cannot follow
        proposed = []
        whole = {name: f"the network cannot be traced ({error!r})" for name, _ in _layers(module)}
    groups: list[UnitGroup] = []
    for candidate, reason in _verified(proposed, probe, shared):
        if reason == OUTPUT or (reason is None and candidate.group is None):
            outputs |= set(candidate.makers)
        elif reason is not None:
            whole |= dict.fromkeys(candidate.makers, reason)
        elif candidate.group is not None:
            groups.append(candidate.group)
    ordered = sorted(
        [*((_rank(group, probe.order), group) for group in groups), *selections(probe, groups, shared)],
        key=lambda ranked: ranked[0],
    )
    found = Units({group.name: group for _, group in ordered}, _with_unseen(whole, module, ordered, outputs))
    if found.whole:
        told = "; ".join(f"{name or 'the network'}: {reason}" for name, reason in found.whole.items())
        warnings.warn(f"Layers kept whole: {told}", UserWarning, stacklevel=2)
    return found


def _verified(
    proposed: Sequence[Candidate], probe: Probe, shared: Mapping[str, str]
) -> list[tuple[Candidate, str | None]]:
    """Each candidate with the reason why it is not pruned; None for those that can be, all at the same time."""
    reasons = [_refusal(candidate, probe, shared) for candidate in proposed]
    good = [c.group for c, reason in zip(proposed, reasons, strict=True) if c.group is not None and reason is None]
    if _trial(probe, good) is None:
        return list(zip(proposed, reasons, strict=True))
    together: list[UnitGroup] = []
    for i, candidate in enumerate(proposed):
        if candidate.group is not None and reasons[i] is None:
            reasons[i] = _trial(probe, [candidate.group]) or _trial(probe, [*together, candidate.group])
            together += [candidate.group] if reasons[i] is None else []
    return list(zip(proposed, reasons, strict=True))


def _trial(probe: Probe, groups: Sequence[UnitGroup]) -> str | None:
    """What goes wrong without the first unit of each group, without the last, and without a random half."""
    if not groups:
        return None
    trials = (
        {group.name: torch.arange(group.size) != 0 for group in groups},
        {group.name: torch.arange(group.size) != group.size - 1 for group in groups},
        {group.name: random_mask(group.size, seed=i) for i, group in enumerate(groups)},
    )
    return next((reason for masks in trials if (reason := agrees(probe, groups, masks)) is not None), None)


def _refusal(candidate: Candidate, probe: Probe, shared: Mapping[str, str]) -> str | None:
    """Why a proposed group is not even tried together with others."""
    if candidate.group is None:
        return candidate.reason
    for member in candidate.group.members:
        if member.role == "consumer" and member.name in probe.idle:
            return f"{member.name} makes no difference to the output, in a trial with random weights"
        if member.name in shared:
            return f"{member.name} is {shared[member.name]} as well"
    if candidate.group.of("consumer"):
        return None
    return _trial(probe, [candidate.group]) or "no layer that can be pruned reads its units"


def _rank(group: UnitGroup, order: Mapping[str, int]) -> float:
    return min(order.get(member.layer, len(order)) for member in group.of("producer"))


def _shared(module: nn.Module) -> dict[str, str]:
    """Parameters and buffers that have two names, with the other name."""
    names: dict[int, list[str]] = {}
    tensors = [module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)]
    for name, tensor in itertools.chain(*tensors):
        names.setdefault(id(tensor), []).append(name)
    return {name: next(o for o in same if o != name) for same in names.values() if len(same) > 1 for name in same}


def _layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that hold parameters of their own."""
    return [(name, layer) for name, layer in module.named_modules() if list(layer.parameters(recurse=False))]


def _with_unseen(
    whole: dict[str, str], module: nn.Module, ordered: Sequence[tuple[float, UnitGroup]], outputs: set[str]
) -> dict[str, str]:
    """Those kept whole, and those that are in no group at all."""
    made = {member.layer for _, group in ordered for member in group.of("producer", "channel")}
    seen = made | outputs | whole.keys()
    rest = {
        name: "its units are not found, its weights may be used without it"
        if type(layer) in (nn.Linear, *CONVOLUTIONS)
        else f"{type(layer).__name__} is no layer whose units can be pruned"
        for name, layer in _layers(module)
        if name not in seen and not isinstance(layer, _NORMALISATION)
    }
    return whole | rest
