r"""Generalised dropout (Srinivas & Babu 2016, arXiv 1611.06791): the keep probability of each unit is learned.

Each unit u is multiplied by a gate, for each data point anew, and the keep probabilities have a beta hyper-prior:

.. math:: z_u \sim \mathrm{Bernoulli}(\theta_u), \qquad \theta_u \sim \mathrm{Beta}(a, b)

Weights and keep probabilities maximise the posterior density, that is they minimise

.. math:: -E_z \log p(y \mid x, W, z)
          - \frac{1}{N} \sum_u \bigl[ (a - 1) \log \theta_u + (b - 1) \log (1 - \theta_u) \bigr]

per data point. The gradient with respect to a gate is handed on to its probability as if z were theta (the
straight-through estimator, Bengio, Leonard & Courville 2013). With a = 1 and b > 1 the prior's mode is at 0: what the
data do not want switches itself off. For prediction the gates are replaced by their means, in the weights that read the
units. A unit's noise-to-signal ratio is :math:`(1 - \theta) / \theta`; units are cut by it as far as the validation
error allows, and what is left is fine-tuned without gates. The largest b within the allowed validation error is taken.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.competitors.group_lasso import require_units
from models.competitors.outcome import Outcome, UnitPruned, prune_units, strongest
from models.competitors.stored import stored
from models.competitors.training import Pair, Training, fit_dense, train
from pyro_bdl.compression.units.finding import Units
from pyro_bdl.compression.units.selected_linear import SelectedLinear
from pyro_bdl.compression.units.unit_groups import UnitGroup
from pyro_bdl.errors import InputError, UnsupportedModelError

GATED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class GeneralisedDropout:
    """Settings.

    Attributes:
        dense: training of the full network.
        gated: training with gates.
        fine_tuning: of the units that are left, without gates.
        strengths: b of the prior, ascending, each tried from the dense network until one adds too much validation
            error. As the prior's weight falls with 1/N, large sets take a large b.
        a: of the prior.
        start: keep probability at first.
        gate_scale: the gates' logits are this times what is learned, so that they move faster than the weights.
        tolerance: validation error that may be added. None: one standard error of it.
    """

    dense: Training
    gated: Training
    fine_tuning: Training
    strengths: tuple[float, ...]
    a: float = 1.0
    start: float = 0.9
    gate_scale: float = 10.0
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not self.strengths or list(self.strengths) != sorted(self.strengths) or self.strengths[0] <= 0:
            raise InputError("strengths", expected="ascending numbers above 0", got=f"{self.strengths}")
        if not (self.a > 0 and 0 < self.start < 1 and self.gate_scale > 0):
            got = f"a = {self.a}, start = {self.start}, gate_scale = {self.gate_scale}"
            raise InputError("the gates", expected="a > 0, start in (0, 1), gate_scale > 0", got=got)


SETTINGS = {
    "digits": GeneralisedDropout(
        dense=Training(epochs=100, learning_rate=2e-3, batch_size=64),
        gated=Training(epochs=120, learning_rate=2e-3, batch_size=64),
        fine_tuning=Training(epochs=60, learning_rate=1e-3, batch_size=64),
        strengths=(2.0, 8.0, 32.0, 128.0),
    ),
    "mnist": GeneralisedDropout(
        dense=Training(epochs=60, learning_rate=1e-3, batch_size=128),
        gated=Training(epochs=100, learning_rate=1e-3, batch_size=128),
        fine_tuning=Training(epochs=20, learning_rate=5e-4, batch_size=128),
        strengths=(4.0, 16.0, 32.0, 64.0, 128.0, 256.0),
    ),
}


def generalised_dropout(
    net: nn.Module,
    training: Pair,
    validation: Pair,
    settings: GeneralisedDropout,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Outcome:
    """Prune a network's units by learned dropout; arguments, errors and warnings as for `deep_compression`.

    The method does not quantise: its file holds 32-bit floats. Units that a layer other than a linear one or a plain
    convolution reads get no gate and are kept.

    Raises:
        UnsupportedModelError: a network without units that can be gated and cut out.

    >>> from models.networks import fully_connected
    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> data = x, (x[:, 0] > 0).long()                                          # three of the inputs say nothing
    >>> quick = Training(epochs=30, learning_rate=0.01, batch_size=50)
    >>> settings = GeneralisedDropout(dense=quick, gated=quick, fine_tuning=quick, strengths=(4.0,))
    >>> found = generalised_dropout(fully_connected([4, 16, 2]), data, data, settings, progress=False)
    >>> found.errors["coded"] < 0.1, sum(p.numel() for p in found.pruned.parameters()) < 60
    (True, True)
    """
    dense = fit_dense(
        net, training, validation, settings.dense, tolerance=settings.tolerance, seed=seed, progress=progress
    )
    units = require_units(dense.net, training[0][:1])

    def attempt(strength: float) -> UnitPruned:
        gated = copy.deepcopy(dense.net).train()
        gates = Gates(gated, units, start=settings.start, scale=settings.gate_scale)
        with gates.applied(gated):
            train(
                [*gated.parameters(), *gates.learned.values()], gated, training, settings.gated,
                penalty=lambda: gates.penalty(settings.a, strength) / len(training[0]),
                seed=seed + 1, bar=f"b = {strength:g}", progress=progress,
            )  # fmt: skip
        return prune_units(
            gates.folded(gated), gates.scores(), units, dense, (training, validation), settings.fine_tuning,
            strength=strength, seed=seed + 2, progress=progress,
        )  # fmt: skip

    best = strongest(settings.strengths, attempt, dense.limit, what="prior b")
    found = stored(net, best.module, best.kept, training[0], units=units)
    errors = {"dense": dense.error, "pruned": best.error, "coded": best.error}
    return Outcome("GD", dense.net, best.module, found, errors, {"b": best.strength})


class Gates:
    """A gate for each unit, multiplied in where the unit is read.

    Args:
        net: the network.
        units: its groups; those that can be gated get gates.
        start: keep probability at first.
        scale: logit of a keep probability per unit of what is learned.

    Attributes:
        learned: by group, (units,).
    """

    def __init__(self, net: nn.Module, units: Units, *, start: float, scale: float) -> None:
        self.groups = {name: group for name, group in units.groups.items() if can_be_gated(net, group)}
        if not self.groups:
            raise UnsupportedModelError("the network", expected="units that can be gated", got=f"{list(units.groups)}")
        self.scale = scale
        first = torch.logit(torch.tensor(start)).item() / scale
        like = next(net.parameters()).detach()
        self.learned = {n: like.new_full((g.size,), first).requires_grad_() for n, g in self.groups.items()}

    def logits(self) -> dict[str, Tensor]:
        """Of the keep probabilities."""
        return {name: self.scale * value for name, value in self.learned.items()}

    def penalty(self, a: float, b: float) -> Tensor:
        """The hyper-prior's negative log density up to a constant, in nats, of all gates together."""
        logits = torch.cat(list(self.logits().values()))
        return -((a - 1) * F.logsigmoid(logits) + (b - 1) * F.logsigmoid(-logits)).sum()

    def scores(self) -> dict[str, Tensor]:
        """The log of a unit's noise-to-signal ratio, log((1 - theta) / theta)."""
        return {name: -logits.detach().double() for name, logits in self.logits().items()}

    @contextmanager
    def applied(self, net: nn.Module) -> Iterator[None]:
        """Within it, every forward pass draws gates, for each data point anew."""
        drawn: dict[str, Tensor] = {}

        def begin(_: nn.Module, args: tuple[Any, ...]) -> None:
            for name, logits in self.logits().items():
                keep = logits.sigmoid()
                z = torch.bernoulli(keep.detach().expand(len(args[0]), -1))
                drawn[name] = z + (keep - keep.detach())

        def gate(layer: nn.Module, positions: list[tuple[str, Tensor, Tensor]]) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                x = args[0]
                channels = -1 if isinstance(layer, nn.Linear) else 1
                size = x.shape[channels]
                factor = x.new_ones(len(x), size)
                for name, index, unit in positions:
                    own = x.new_ones(len(x), size).index_copy(1, index, drawn[name][:, unit])
                    factor = factor * own
                shape = [len(x)] + [1] * (x.dim() - 1)
                shape[channels] = size
                return (x * factor.reshape(shape), *args[1:])

            return layer.register_forward_pre_hook(hook)

        handles = [net.register_forward_pre_hook(begin)]
        for name, positions in self._readers(net).items():
            handles.append(gate(net.get_submodule(name), positions))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def folded(self, net: nn.Module) -> nn.Module:
        """A copy without gates, the means of the gates in the weights that read the units."""
        result = copy.deepcopy(net).eval()
        keep = {name: logits.sigmoid() for name, logits in self.logits().items()}
        for layer, positions in self._readers(net).items():
            weight = result.get_submodule(layer).get_parameter("weight")
            shape = [1, weight.shape[1]] + [1] * (weight.dim() - 2)
            for name, index, unit in positions:
                factor = weight.new_ones(weight.shape[1]).index_copy(0, index, keep[name][unit])
                weight.mul_(factor.reshape(shape))
        return result

    def _readers(self, net: nn.Module) -> Mapping[str, list[tuple[str, Tensor, Tensor]]]:
        """By layer, which positions of its input belong to which units of which group."""
        device = next(net.parameters()).device
        found: dict[str, list[tuple[str, Tensor, Tensor]]] = {}
        for name, group in self.groups.items():
            for member in group.of("consumer"):
                at = member.index.to(device), member.unit.to(device)
                found.setdefault(member.layer, []).append((name, *at))
        return found


def can_be_gated(net: nn.Module, group: UnitGroup) -> bool:
    """Whether all that reads the units are linear layers and plain convolutions."""
    layers = [(member, net.get_submodule(member.layer)) for member in group.of("consumer")]
    return bool(layers) and all(
        type(layer) in GATED
        and not isinstance(layer, SelectedLinear)
        and getattr(layer, "groups", 1) == 1
        and member.dim == 1
        and member.name.endswith("weight")
        for member, layer in layers
    )
