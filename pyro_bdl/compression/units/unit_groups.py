"""What is pruned together: groups of units, and where in a network's tensors each unit lives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_bdl.errors import InputError

Role = Literal["producer", "bias", "channel", "consumer", "size"]


@dataclass(frozen=True, eq=False)
class Member:
    """Where a tensor (or a layer's size) holds the units of a group.

    Attributes:
        name: the parameter or buffer, e.g. `conv1.weight`; for the role `size` the layer's attribute, e.g.
            `conv1.out_channels`.
        dim: the dimension along which the units lie.
        index, unit: position `index[k]` along `dim` belongs to unit `unit[k]`. A unit may have several positions (a
            channel flattened into a linear layer) or none.
        role: `producer`, rows of a weight that make the unit; `bias`, of such a layer; `channel`, a number per unit
            between producers and consumers (normalisation, PReLU, depthwise filters); `consumer`, columns of a weight
            that read the unit; `size`, a number of the layer that counts these units.
    """

    name: str
    dim: int
    index: Tensor
    unit: Tensor
    role: Role

    @property
    def layer(self) -> str:
        """The layer's name."""
        return self.name.rpartition(".")[0]

    def cut(self, kept: Tensor) -> Tensor:
        """The positions of the units that are not kept."""
        return self.index[~kept.cpu()[self.unit]]


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """Units that the same tensors make and read, e.g. the channels of a residual stream.

    Attributes:
        name: of the first layer that makes them; `input` for the network's inputs and `LAYER.input` for the inputs of a
            linear layer that are pruned one by one, which have consumers only.
        size: how many units.
        members: where they live.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    def of(self, *roles: Role) -> list[Member]:
        """The members with one of these roles."""
        return [member for member in self.members if member.role in roles]

    @property
    def is_selection(self) -> bool:
        """Whether nothing makes the units: to prune them means that a linear layer selects among its inputs."""
        return not self.of("producer")


@dataclass(frozen=True, eq=False)
class Units:
    """The prunable units of a network, see `pyro_bdl.compression.units.finding.find_units`.

    Attributes:
        groups: by name, in the order in which the network computes them.
        whole: layers whose units cannot be pruned, with the reason.
    """

    groups: Mapping[str, UnitGroup]
    whole: Mapping[str, str]

    def complete(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A mask for each group: all kept where none is given; an input of a linear layer goes with its channel.

        Raises:
            InputError: an unknown group; a mask of the wrong shape or type, or one that keeps nothing.
        """
        masks = self._checked(kept)
        for name, mask in self.with_channels(masks).items():
            if not bool(mask.any()):
                raise InputError(f"the units kept of {name}", expected="at least one", got="none")
            masks[name] = mask
        return masks

    def with_channels(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """These masks, in which an input of a linear layer whose channel is not kept is not kept either."""
        gone = cuts([group for group in self.groups.values() if not group.is_selection], masks)
        result = dict(masks)
        for name, group in self.groups.items():
            if group.is_selection:
                alive = torch.zeros(group.size, dtype=torch.bool)
                for member in group.members:
                    alive[member.unit[~torch.isin(member.index, gone.get((member.name, member.dim), _NONE))]] = True
                result[name] = masks[name].cpu() & alive
        return result

    def architecture(self, kept: Mapping[str, Tensor] | None = None) -> str:
        """The numbers of units kept, in the order of computation, joined by dashes: `278-98-13`, `8-13-88-13`."""
        masks = self.complete(kept or {})
        return "-".join(str(int(mask.sum())) for mask in masks.values())

    def _checked(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if unknown := [name for name in kept if name not in self.groups]:
            raise InputError("the units kept", expected=f"groups among {list(self.groups)}", got=f"{unknown}")
        masks = {name: torch.ones(group.size, dtype=torch.bool) for name, group in self.groups.items()}
        for name, mask in kept.items():
            size = self.groups[name].size
            if mask.dtype != torch.bool or mask.shape != (size,):
                raise InputError(
                    f"the units kept of {name}",
                    expected=f"a bool mask of shape ({size},)",
                    got=f"{mask.dtype} of shape {tuple(mask.shape)}",
                )
            masks[name] = mask.detach().cpu().clone()
        return masks


_NONE = torch.zeros(0, dtype=torch.long)


def cuts(groups: list[UnitGroup], masks: Mapping[str, Tensor]) -> dict[tuple[str, int], Tensor]:
    """By tensor name and dimension: the positions, sorted, that go with the units that are not kept."""
    found: dict[tuple[str, int], list[Tensor]] = {}
    for group in groups:
        for member in group.members:
            found.setdefault((member.name, member.dim), []).append(member.cut(masks[group.name]))
    return {key: torch.cat(positions).unique() for key, positions in found.items()}
