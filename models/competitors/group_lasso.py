r"""Structured sparsity by the group lasso (Wen, Wu, Wang, Chen & Li 2016): whole units shrink to nothing.

.. math:: L(W) + \lambda \sum_u \bigl( \lVert W_{u \cdot} \rVert_2 + \lVert W_{\cdot u} \rVert_2 \bigr)

with the weights that make unit u (filters, rows) and those that read it (channels, columns), for all units that can be
cut out of the network (eq. 3). Trained by subgradients from the dense network; then the units of the least weights are
cut as far as the validation error allows, and what is left is fine-tuned without the penalty. The strongest lambda
within the allowed validation error is taken.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.competitors.outcome import Outcome, UnitPruned, prune_units, strongest
from models.competitors.stored import stored
from models.competitors.training import Pair, Training, fit_dense, train
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.pruning import unit_log_alpha
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.errors import InputError, UnsupportedModelError

TINY = 1e-12


@dataclass(frozen=True)
class GroupLasso:
    """Settings.

    Attributes:
        dense: training of the full network.
        penalised: training with the penalty.
        fine_tuning: of the units that are left, without it.
        strengths: lambda in nats per data point and unit of weight, ascending, each tried from the dense network until
            one adds too much validation error.
        tolerance: validation error that may be added. None: one standard error of it.
    """

    dense: Training
    penalised: Training
    fine_tuning: Training
    strengths: tuple[float, ...] = (3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not self.strengths or list(self.strengths) != sorted(self.strengths) or self.strengths[0] < 0:
            raise InputError("strengths", expected="ascending numbers, 0 or more", got=f"{self.strengths}")


SETTINGS = {
    "digits": GroupLasso(
        dense=Training(epochs=100, learning_rate=2e-3, batch_size=64),
        penalised=Training(epochs=150, learning_rate=2e-3, batch_size=64),
        fine_tuning=Training(epochs=60, learning_rate=1e-3, batch_size=64),
    ),
    "mnist": GroupLasso(
        dense=Training(epochs=60, learning_rate=1e-3, batch_size=128),
        penalised=Training(epochs=60, learning_rate=1e-3, batch_size=128),
        fine_tuning=Training(epochs=20, learning_rate=5e-4, batch_size=128),
        strengths=(1e-4, 3e-4, 6e-4, 1.2e-3, 2.4e-3, 5e-3),
    ),
}


def group_lasso(
    net: nn.Module,
    training: Pair,
    validation: Pair,
    settings: GroupLasso,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Outcome:
    """Prune a network's units by the group lasso; arguments, errors and warnings as for `deep_compression`.

    The method does not quantise: its file holds 32-bit floats.

    Raises:
        UnsupportedModelError: a network without units that can be cut out.

    >>> from models.networks import fully_connected
    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> data = x, (x[:, 0] > 0).long()                                          # three of the inputs say nothing
    >>> quick = Training(epochs=30, learning_rate=0.01, batch_size=50)
    >>> settings = GroupLasso(dense=quick, penalised=quick, fine_tuning=quick, strengths=(0.01,))
    >>> found = group_lasso(fully_connected([4, 16, 2]), data, data, settings, progress=False)
    >>> found.errors["coded"] < 0.1, sum(p.numel() for p in found.pruned.parameters()) < 60
    (True, True)
    """
    dense = fit_dense(
        net, training, validation, settings.dense, tolerance=settings.tolerance, seed=seed, progress=progress
    )
    units = require_units(dense.net, training[0][:1])

    def attempt(strength: float) -> UnitPruned:
        shrunk = copy.deepcopy(dense.net).train()
        train(
            shrunk.parameters(), shrunk, training, settings.penalised,
            penalty=lambda: strength * group_norms(shrunk, units),
            seed=seed + 1, bar=f"lambda = {strength:g}", progress=progress,
        )  # fmt: skip
        return prune_units(
            shrunk, unit_scores(shrunk, units), units, dense, (training, validation), settings.fine_tuning,
            strength=strength, seed=seed + 2, progress=progress,
        )  # fmt: skip

    best = strongest(settings.strengths, attempt, dense.limit, what="penalty lambda")
    found = stored(net, best.module, best.kept, training[0], units=units)
    errors = {"dense": dense.error, "pruned": best.error, "coded": best.error}
    return Outcome("GL", dense.net, best.module, found, errors, {"lambda": best.strength})


def require_units(net: nn.Module, example_input: Tensor) -> Units:
    """The units that can be cut out; an error if there are none."""
    units = find_units(net, example_input)
    if not units.groups:
        raise UnsupportedModelError(
            "the network", expected="units that can be cut out", got=f"none: {dict(units.whole)}"
        )
    return units


def group_norms(net: nn.Module, units: Units) -> Tensor:
    """The sum over units of the norms of the weights that make them and of those that read them, tensor by tensor.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[3.0], [4.0]])), net[2].weight.copy_(torch.tensor([[2.0, 0.0]]))
    >>> round(group_norms(net, find_units(net, torch.zeros(1, 1))).item(), 4)   # made: 3 + 4, read: 2 + 0
    9.0
    """
    total = torch.zeros(())
    for group in units.groups.values():
        for member in group.of("producer", "consumer"):
            weight = net.get_parameter(member.name)
            squares = weight.square().movedim(member.dim, 0).flatten(1).sum(1)
            index, unit = member.index.to(weight.device), member.unit.to(weight.device)
            sums = squares.new_zeros(group.size).index_add(0, unit, squares[index])
            total = total.to(weight) + (sums + TINY).sqrt().sum()
    return total


def unit_scores(net: nn.Module, units: Units) -> dict[str, Tensor]:
    """By group the negative log of a unit's mean squared weight, made or read, whichever is less."""
    mean = {name: parameter.detach() for name, parameter in net.named_parameters()}
    return unit_log_alpha(WeightPosterior(mean, {name: torch.ones_like(m) for name, m in mean.items()}), units)
