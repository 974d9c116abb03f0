"""Signal to noise of weights and units under a posterior, and what thresholds on it keep."""

import warnings
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.units.unit_groups import Member, UnitGroup, Units
from pyro_bdl.errors import InputError


def weight_log_alpha(posterior: WeightPosterior) -> dict[str, Tensor]:
    r"""The log of each weight's noise-to-signal ratio.

    .. math:: \log \alpha = \log \sigma^2 - \log \mu^2

    (Molchanov, Ashukha & Vetrov 2017, section 4.2). Above 3 a weight is nearly always noise: dropped with probability
    :math:`\alpha / (1 + \alpha) > 0.95` in the terms of binary dropout (there, section 5).

    Returns:
        By parameter name, biases too, float64 of the parameter's shape. Infinite for a mean of zero, minus infinite for
        a variance of zero with another mean; never NaN.

    >>> posterior = WeightPosterior({"weight": torch.tensor([[1.0, 0.1]])}, {"weight": torch.tensor([[0.01, 1.0]])})
    >>> weight_log_alpha(posterior)["weight"].round(decimals=2).tolist()
    [[-4.61, 4.61]]
    """
    return {
        name: _ratio(*(logs.reshape(mean.shape) for logs in _logs(mean, posterior.variance[name])))
        for name, mean in posterior.mean.items()
    }


def unit_log_alpha(posterior: WeightPosterior, units: Units) -> dict[str, Tensor]:
    r"""The log of each unit's noise-to-signal ratio.

    For the weights :math:`W_{tu}` of unit u in the tensor t,

    .. math:: r_{tu} = \log \sum_{w \in W_{tu}} \sigma_w^2 - \log \sum_{w \in W_{tu}} \mu_w^2, \qquad
              \log \alpha_u = \max\bigl(\min_{t\ \mathrm{makes}\ u} r_{tu},\ \min_{t\ \mathrm{reads}\ u} r_{tu}\bigr)

    A unit is off if all that make it are noise, or if all that read it take it for noise. With
    :math:`\sigma^2 = \alpha \mu^2` for all weights of a node this is the log alpha of the node's scale (Louizos,
    Ullrich & Welling 2017, section 4.1), up to the noise of the single weights. Biases, normalisation and depthwise
    filters do not count.

    Args:
        posterior: of the network's weights. Where one of the weights that make a unit is not in it, only the others
            that read the unit tell, and vice versa; a group of which neither are complete is never pruned.
        units: `find_units` of the network.

    Returns:
        By group, float64 of shape (units,); infinite as in `weight_log_alpha`, never NaN.

    Raises:
        InputError: a posterior whose shapes are those of another network.
    """
    return {name: _of_group(posterior, group, _log_alpha) for name, group in units.groups.items()}


def unit_information(posterior: WeightPosterior, units: Units) -> dict[str, Tensor]:
    r"""What the posterior knows of each unit's weights, in nats.

    .. math:: I_u = \min\Bigl(\max_{t\ \mathrm{makes}\ u} \sum_{w \in W_{tu}} \tfrac12 \log(1 + \mu_w^2 / \sigma_w^2),\
              \max_{t\ \mathrm{reads}\ u} \dots\Bigr)

    which is what a Gaussian channel carries at the weights' ratios of signal to noise (Shannon 1948, section 25). It
    ranks units where `unit_log_alpha` tells those that are noise: one ratio for all of a unit's weights is drowned by
    a few that are very noisy and do no harm, as under a horseshoe those of pixels that are always black, and says
    nothing of how many weights a unit has.

    Args and errors: as for `unit_log_alpha`; what is never pruned has infinite information.
    """
    return {name: -_of_group(posterior, group, _minus_information) for name, group in units.groups.items()}


def keep_below(
    log_alpha: Mapping[str, Tensor], thresholds: float | Mapping[str, float], *, units: Units | None = None
) -> dict[str, Tensor]:
    """Masks of what is kept: log alpha at most the threshold.

    Args:
        log_alpha: by group or by weight tensor.
        thresholds: one for all, or by name; what is not named is kept whole.
        units: where the names are groups, so that an input of a linear layer goes with its channel.

    Returns:
        By name a bool mask of the shape of `log_alpha`. Never all False: at least that of the lowest log alpha is kept.

    Raises:
        InputError: a threshold or log alpha that is NaN, or a name without log alpha.

    Warns:
        UserWarning: names what a threshold would have cut to nothing.

    >>> keep_below({"fc1": torch.tensor([-2.0, 5.0, 3.5])}, 3.0)
    {'fc1': tensor([ True, False, False])}
    """
    if not isinstance(thresholds, Mapping):
        thresholds = dict.fromkeys(log_alpha, float(thresholds))
    if unknown := [name for name in thresholds if name not in log_alpha]:
        raise InputError("the thresholds", expected=f"names among {list(log_alpha)}", got=f"{unknown}")
    for name, scores in log_alpha.items():
        if bool(scores.isnan().any()) or thresholds.get(name, 0.0) != thresholds.get(name, 0.0):
            raise InputError(f"the log alpha or threshold of {name}", expected="numbers", got="NaN")
    masks, rescued = kept_at(log_alpha, thresholds, units=units)
    if rescued:
        warnings.warn(
            "Thresholds would cut these to nothing, the one of the lowest log alpha is kept: "
            + ", ".join(dict.fromkeys(rescued)),
            UserWarning,
            stacklevel=2,
        )
    return masks


def kept_at(
    log_alpha: Mapping[str, Tensor], thresholds: Mapping[str, float], *, units: Units | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """The masks of `keep_below`, unchecked, and the names of what the thresholds would have cut to nothing."""
    masks = {name: scores <= thresholds.get(name, torch.inf) for name, scores in log_alpha.items()}
    rescued = [name for name, mask in masks.items() if mask.numel() and not bool(mask.any())]
    for name in rescued:
        masks[name] = _one_of(log_alpha[name], torch.ones_like(masks[name]))
    if units is None:
        return masks, rescued
    whole = {name: torch.ones(group.size, dtype=torch.bool) for name, group in units.groups.items()}
    possible = units.with_channels(whole | {n: m for n, m in masks.items() if not units.groups[n].is_selection})
    for name, mask in masks.items():
        masks[name] = mask.cpu() & possible[name]
        if not bool(masks[name].any()):
            rescued.append(name)
            masks[name] = _one_of(log_alpha[name].cpu(), possible[name])
    return masks, rescued


def _one_of(scores: Tensor, possible: Tensor) -> Tensor:
    """A mask of the lowest score among the possible."""
    positions = possible.flatten().nonzero().flatten()
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[positions[scores.flatten()[positions].argmin()]] = True
    return mask.reshape(scores.shape)


Score = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Of each unit, the higher the less it is needed, by the logs of mean^2 and variance in rows, and each row's unit."""


def _of_group(posterior: WeightPosterior, group: UnitGroup, score: Score) -> Tensor:
    made = _of_all(posterior, group.of("producer"), group.size, score)
    read = _of_all(posterior, group.of("consumer"), group.size, score)
    return torch.maximum(made, read)


def _of_all(posterior: WeightPosterior, members: list[Member], size: int, score: Score) -> Tensor:
    """The lowest score that a unit has among these tensors; minus infinite where one is not known."""
    if not members or any(member.name not in posterior.mean for member in members):
        return torch.full((size,), -torch.inf, dtype=torch.float64)
    return torch.stack([_of_member(posterior, member, size, score) for member in members]).amin(0)


def _of_member(posterior: WeightPosterior, member: Member, size: int, score: Score) -> Tensor:
    mean, variance = posterior.mean[member.name], posterior.variance[member.name]
    if member.dim >= mean.dim() or (len(member.index) and int(member.index.max()) >= mean.shape[member.dim]):
        raise InputError(
            f"the posterior of {member.name}",
            expected=f"more than {int(member.index.max())} positions along dimension {member.dim}",
            got=f"shape {tuple(mean.shape)}",
            remedy="Find the units of the network whose posterior this is",
        )
    signal, noise = (
        logs.reshape(mean.shape).movedim(member.dim, 0).flatten(1).cpu()[member.index] for logs in _logs(mean, variance)
    )
    return score(signal, noise, member.unit, size)


def _log_alpha(signal: Tensor, noise: Tensor, unit: Tensor, size: int) -> Tensor:
    return _ratio(_log_sum(signal, unit, size), _log_sum(noise, unit, size))


def _minus_information(signal: Tensor, noise: Tensor, unit: Tensor, size: int) -> Tensor:
    nats = 0.5 * F.softplus(torch.where(signal == -torch.inf, -torch.inf, signal - noise)).sum(1)
    return -torch.zeros(size, dtype=nats.dtype).index_add(0, unit, nats)


def _logs(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """log mean^2 and log variance in float64, in which neither overflows."""
    return 2 * mean.detach().double().abs().log(), variance.detach().double().log()


def _ratio(signal: Tensor, noise: Tensor) -> Tensor:
    """noise - signal, where no signal at all is infinite noise."""
    return torch.where(signal == -torch.inf, torch.inf, noise - signal)


def _log_sum(logs: Tensor, unit: Tensor, size: int) -> Tensor:
    """log sum exp of the rows of each unit; minus infinite for a unit without rows."""
    rows = logs.logsumexp(1)
    top = torch.full((size,), -torch.inf, dtype=rows.dtype).scatter_reduce(0, unit, rows, "amax")
    safe = top.where(top > -torch.inf, 0.0)
    total = torch.zeros(size, dtype=rows.dtype).index_add(0, unit, (rows - safe[unit]).exp())
    return total.log() + safe
