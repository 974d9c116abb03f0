"""When units are cut out of a network that is being fitted, and which."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.pruning import kept_at, unit_log_alpha
from pyro_bdl.compression.units.finding import Units
from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class Shrink:
    r"""When units are cut out of a network while it is fitted (`fit_svi(..., shrink=Shrink(...))`).

    A unit is off where its log alpha (`unit_log_alpha`) is above the threshold, as in `compress` and in Louizos,
    Ullrich & Welling 2017, section 4.1. What was cut never comes back. A group all of whose units would be off is left
    whole at that look: its noise may be that of units which read or make it, and go first. (Under the group horseshoe
    the weights of a pixel that is always black are free to be noise, and drown those of each unit that reads it.)

    Args:
        every: epochs from one look to the next. Default 5: a look costs about as much as a few steps.
        threshold: on log alpha, one for all groups of `find_units` or by name; groups that are not named stay whole.
            Default 3, that of `compress`: a unit whose noise has twenty times the power of its signal.
        after: epochs before the first look, which never comes before the KL has its full weight. Default 1.
        least: share of a group's remaining units that must be off before anything is cut. Default 0.05: less hardly
            makes a step faster.

    Raises:
        InputError: numbers out of range.

    >>> import pyro_bdl as bdl
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    >>> model = bdl.Regressor(bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys()), noise=0.1)
    >>> guide = bdl.guides.AutoMeanField(model)
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> adam = lambda p: torch.optim.Adam(p, lr=0.05)
    >>> options = dict(optimizer=adam, shrink=Shrink(every=10), progress=False, seed=0)
    >>> fit = bdl.fit_svi(model, guide, (x, x[:, 0]), epochs=100, **options)
    >>> len(fit.kept["0"]), int(fit.kept["0"].sum()) < 16  # hidden units: before, after
    (16, True)
    >>> net[0].weight.shape  # all is whole again; `compress` makes the small network
    torch.Size([16, 1])
    """

    every: int = 5
    threshold: float | Mapping[str, float] = 3.0
    after: int = 1
    least: float = 0.05

    def __post_init__(self) -> None:
        for name, count in (("every", self.every), ("after", self.after)):
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise InputError(f"Shrink.{name}", expected="an integer, at least 1", got=repr(count))
        levels = self.threshold.values() if isinstance(self.threshold, Mapping) else [self.threshold]
        for level in levels:
            if not isinstance(level, (int, float)) or math.isnan(level):
                raise InputError("Shrink.threshold", expected="a number, or numbers by group", got=repr(level))
        if not (isinstance(self.least, (int, float)) and 0.0 <= self.least <= 1.0):
            raise InputError("Shrink.least", expected="a share, in [0, 1]", got=repr(self.least))


def require_groups(options: Shrink, units: Units) -> None:
    """Raise unless there are units to cut and thresholds for no others."""
    groups, threshold = list(units.groups), options.threshold
    if not groups:
        raise InputError("the network", expected="units that can be cut out", got=f"none: {dict(units.whole)}")
    if isinstance(threshold, Mapping) and (unknown := [name for name in threshold if name not in groups]):
        raise InputError("Shrink.threshold", expected=f"groups among {groups}", got=f"{unknown}")


def still_on(
    options: Shrink,
    posterior: WeightPosterior,
    elements_left: Mapping[str, Tensor],
    *,
    units: Units,
    kept: Mapping[str, Tensor],
) -> dict[str, Tensor] | None:
    """The units to keep from now on, by group; None where too few more are off to cut.

    Args:
        options: thresholds and the least share.
        posterior: of the whole network's weights.
        elements_left: by parameter, 1 for what was not cut: the noise of what was is none of the others'.
        units, kept: the groups, and which of their units are left so far.
    """
    moments = ({n: v * elements_left[n] for n, v in each.items()} for each in (posterior.mean, posterior.variance))
    scores = unit_log_alpha(WeightPosterior(*moments), units)
    scores = {name: score.masked_fill(~kept[name], torch.inf) for name, score in scores.items()}
    level = options.threshold
    levels = dict(level) if isinstance(level, Mapping) else dict.fromkeys(scores, float(level))
    levels = {name: level for name, level in levels.items() if bool((scores[name] <= level).any())}
    found, _ = kept_at(scores, levels, units=units)
    found = units.with_channels({name: mask & kept[name] for name, mask in found.items()})
    if not all(bool(mask.any()) for mask in found.values()):
        return None
    lost = [(int(kept[name].sum()), int(mask.sum())) for name, mask in found.items()]
    pays = any(after < before and before - after >= options.least * before for before, after in lost)
    return found if pays else None
