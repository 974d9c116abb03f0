"""The two ways to code what is left of a network: integers chosen on validation data, or a draw of the posterior."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bdl.compression.codec import Parameter, Quantised, floating_buffers
from pyro_bdl.compression.coding.codebook import Clustered, recluster
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.pruned import Pruned, with_values
from pyro_bdl.compression.quantisation.choosing import bits_of, choose_integers, finely_rounded, values_of
from pyro_bdl.compression.quantisation.retrained_integers import retrained
from pyro_bdl.compression.quantisation.sharing import Mixture, choose_shared, sharing_of
from pyro_bdl.compression.random_code.code import RandomCode
from pyro_bdl.compression.random_code.network_draw import Priors, code_draw, length_in_bits, priors_of
from pyro_bdl.compression.random_code.random_draw import RandomDraw
from pyro_bdl.compression.retraining import Retraining
from pyro_bdl.compression.unit_choice import unit_masks
from pyro_bdl.compression.units.dead_units import without_dead_units
from pyro_bdl.compression.units.finding import Units
from pyro_bdl.compression.units.shrinking import shrink, shrink_tensors
from pyro_bdl.compression.validation import Error


@dataclass(frozen=True, eq=False)
class Task:
    """A network that is to be compressed.

    Attributes:
        mean: the network at the posterior mean.
        posterior: of its weights.
        units: that can be cut.
        example: inputs.
        unit_thresholds: those given.
        evaluate: the validation error, if there are data.
        unpruned, tolerance: that of `mean`, and how much more is allowed.
        retraining: of what is left, if it adapts to its code.
        progress: show bars.
    """

    mean: nn.Module
    posterior: WeightPosterior
    units: Units
    example: tuple[Tensor, ...]
    unit_thresholds: float | Mapping[str, float] | None
    evaluate: Error | None
    unpruned: float
    tolerance: float | None
    retraining: Retraining | None = None
    progress: bool = False

    @property
    def limit(self) -> float:
        """The error allowed."""
        return math.nan if self.tolerance is None else self.unpruned + self.tolerance

    def candidates(self) -> Iterator[tuple[Mapping[str, Tensor], Pruned]]:
        """Masks of the units that stay, and the networks they leave."""
        for masks in unit_masks(
            self.mean, self.posterior, self.units, self.unit_thresholds, self.evaluate,
            unpruned=self.unpruned, tolerance=self.tolerance or 0.0,
        ):  # fmt: skip
            yield masks, Pruned.of(self.mean, self.posterior, self.units, masks)


@dataclass(frozen=True, eq=False)
class Coded:
    """What is left of a network, and how it is written.

    Attributes:
        kept: masks of its units.
        module: the network as the file gives it back.
        parameters: its parameters by name.
        code: of those that are drawn.
    """

    kept: Mapping[str, Tensor]
    module: nn.Module
    parameters: Mapping[str, Parameter]
    code: RandomCode | None = None


def as_integers(task: Task, *, spread: float | None, trade: float | None, codebook: int | Mixture | None) -> Coded:
    """The units and the integers, or places in a codebook, of the fewest bits within the limit; then, retrained."""

    def tried() -> Iterator[tuple[bool, float, Mapping[str, Tensor], Pruned, dict[str, Parameter]]]:
        for masks, pruned in task.candidates():
            error_of = None if task.evaluate is None else pruned.error_of(task.evaluate, above=task.limit)
            options: dict[str, Any] = {"evaluate": error_of, "limit": task.limit, "spread": spread, "trade": trade}
            found: dict[str, Parameter] = (
                {**choose_integers(pruned.posterior, pruned.gone, **options)}
                if codebook is None
                else choose_shared(sharing_of(codebook, pruned.posterior), pruned.posterior, pruned.gone, **options)
            )
            bad = error_of is not None and error_of(values_of(found, pruned.posterior.mean)) > task.limit
            yield bad, bits_of(found), masks, pruned, found

    _, _, kept, pruned, found = min(tried(), key=lambda candidate: candidate[:2])
    if task.retraining is not None:
        plain = {name: q for name, q in found.items() if isinstance(q, Quantised)}
        found = {**found, **retrained(pruned.module, plain, task.retraining, progress=task.progress)}
    integers = pruned.whole(found)
    quantised = with_values(task.mean, values_of(integers, task.posterior.mean))
    nonzero = {name: q.levels != 0 for name, q in integers.items()}
    kept = without_dead_units(quantised, nonzero, task.example, units=task.units, kept=kept)
    small = _as_stored(shrink(quantised, kept, task.example, units=task.units))
    levels = shrink_tensors({name: q.levels for name, q in integers.items()}, kept, units=task.units)
    parameters = {name: replace(integers[name], levels=levels[name]) for name, _ in small.named_parameters()}
    parameters |= recluster({name: p for name, p in parameters.items() if isinstance(p, Clustered)})
    return Coded(kept, small, parameters)


def as_draw(task: Task, draw: RandomDraw) -> Coded:
    """A draw of the posterior of what the shortest of the candidates leaves whose mean is within the limit."""

    def tried() -> Iterator[tuple[bool, float, Mapping[str, Tensor], Pruned, Priors]]:
        for masks, pruned in task.candidates():
            bad = task.evaluate is not None and task.evaluate(pruned.module, task.limit) > task.limit
            priors = priors_of(pruned.posterior, draw)
            yield bad, length_in_bits(pruned.posterior, priors, draw), masks, pruned, priors

    _, _, masks, pruned, priors = min(tried(), key=lambda candidate: candidate[:2])
    left = pruned.posterior
    found, code = code_draw(
        pruned.module, left, draw, retraining=task.retraining, priors=priors, progress=task.progress
    )
    parameters: dict[str, Parameter] = {
        name: found[name] if name in found else finely_rounded(left, name, pruned.gone[name])
        for name, _ in pruned.module.named_parameters()
    }
    small = _as_stored(with_values(pruned.module, values_of(parameters, left.mean)))
    return Coded(task.units.complete(masks), small, parameters, code)


@torch.no_grad()
def _as_stored(net: nn.Module) -> nn.Module:
    """With its buffers as the file has them."""
    for buffer in floating_buffers(net).values():
        buffer.copy_(buffer.float())
    return net
