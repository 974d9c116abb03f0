"""What each competitor returns, and the two choices on validation data that they share."""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from models.competitors.stored import StoredNetwork
from models.competitors.training import Dense, Pair, Training, error, train
from pyro_bdl.compression.thresholds import choose_thresholds
from pyro_bdl.compression.units.cutting import zero
from pyro_bdl.compression.units.finding import Units
from pyro_bdl.compression.units.shrinking import shrink


@dataclass(frozen=True)
class Outcome:
    """A pruned network.

    Attributes:
        method: its name in the tables.
        dense: the trained network of full size.
        pruned: the small module before quantisation.
        stored: as the file gives it back; the same where the method does not quantise.
        errors: on validation data: `dense`, `pruned`, `coded`.
        chosen: what was chosen on validation data.
    """

    method: str
    dense: nn.Module
    pruned: nn.Module
    stored: StoredNetwork
    errors: Mapping[str, float]
    chosen: Mapping[str, Any] = field(default_factory=dict)


class Attempt(Protocol):
    """What came of one strength."""

    @property
    def error(self) -> float:
        """On validation data."""


A = TypeVar("A", bound=Attempt)


def strongest(strengths: Iterable[float], attempt: Callable[[float], A], limit: float, *, what: str) -> A:
    """The last attempt that is good enough, going up until the first one that is not.

    Args:
        strengths: ascending, at least one.
        attempt: prunes with this strength.
        limit: the validation error allowed.
        what: the strength's name, for the warning.

    Warns:
        UserWarning: even the least strength adds too much error; its attempt is the answer all the same.
    """
    best: A | None = None
    for strength in strengths:
        found = attempt(strength)
        if best is not None and found.error > limit:
            return best
        best = found
        if found.error > limit:
            told = f"validation error {100 * found.error:.2f}%, {100 * limit:.2f}% allowed"
            warnings.warn(f"Even the least {what}, {strength}, prunes too much: {told}", UserWarning, stacklevel=3)
            return best
    assert best is not None
    return best


@dataclass(frozen=True)
class UnitPruned:
    """A network from which whole units were cut, fine-tuned.

    Attributes:
        module: the small network.
        kept: masks of the units that are left.
        error: on validation data.
        strength: of the penalty or prior that pruned it.
    """

    module: nn.Module
    kept: Mapping[str, Tensor]
    error: float
    strength: float


def prune_units(
    net: nn.Module,
    scores: Mapping[str, Tensor],
    units: Units,
    dense: Dense,
    data: tuple[Pair, Pair],
    how: Training,
    *,
    strength: float,
    seed: int,
    progress: bool,
) -> UnitPruned:
    """Cut the units of the highest scores as far as the validation error allows, then fine-tune what is left.

    Args:
        net: of full size. Not changed.
        scores: by group, higher for units that do less.
        units: its groups.
        dense: tells the error allowed.
        data: training and validation data.
        how: the fine-tuning.
        strength: see `UnitPruned`.
        seed, progress: see `train`.
    """
    training, validation = data
    groups = list(units.groups.values())
    net = copy.deepcopy(net).eval()

    def masked_error(kept: Mapping[str, Tensor]) -> float:
        return error(zero(copy.deepcopy(net), groups, units.complete(kept)), validation)

    tolerance = max(0.0, dense.limit - error(net, validation))
    kept = units.complete(choose_thresholds(scores, masked_error, tolerance=tolerance, units=units).kept)
    small = shrink(net, kept, training[0][:1], units=units).train()
    train(small.parameters(), small, training, how, seed=seed, bar=f"fine-tuning, {strength:g}", progress=progress)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.copy_(parameter.float())
    return UnitPruned(small.eval(), kept, error(small, validation), strength)
