"""The M-step of EM for any model: parameters in their supports, and a climb that never goes down."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.exact.plates import is_continuous_latent

Objective = Callable[[Mapping[str, Tensor]], Tensor]
CLIMBS = 20  # iterations of L-BFGS in an M-step: a step that is a good part of the way; the next E-step matters more


@dataclass(frozen=True, eq=False)
class Parameters:
    """What EM fits: the `pyro.param`s and the continuous latent sites of a model.

    Attributes:
        first: their first values.
        supports: where each may be.
        sites: the names of those that are sample sites.
    """

    first: Mapping[str, Tensor]
    supports: Mapping[str, Any]
    sites: frozenset[str]

    @classmethod
    def of(cls, model: Callable[..., Any], args: tuple[Any, ...]) -> "Parameters":
        """Those of a model, by a run.

        Raises:
            InputError: there are none.
        """
        with torch.no_grad(), poutine.block():
            trace: Any = poutine.trace(model).get_trace(*args)
        first, supports, sites = {}, {}, set()
        for name, site in trace.nodes.items():
            if site["type"] == "param":
                first[name], supports[name] = site["value"].detach().clone(), site["kwargs"]["constraint"]
            elif site["type"] == "sample" and is_continuous_latent(site):
                first[name], supports[name] = site["value"].detach().clone(), site["fn"].support
                sites.add(name)
        if not first:
            raise InputError("the model", expected="a pyro.param or a continuous latent site, to fit", got="neither")
        return cls(first, supports, frozenset(sites))

    def start(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first values, with those given instead.

        Raises:
            InputError: see `checked`.
        """
        return self.checked({**self.first, **given}, "start")

    def checked(self, values: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
        """Values that are all there, of the right shapes, finite and in their supports.

        Raises:
            InputError: they are not; `what` gave them.
        """
        if set(values) != set(self.first):
            raise InputError(what, expected=f"values for {sorted(self.first)}", got=f"for {sorted(values)}")
        for name, support in self.supports.items():
            value, example = values[name], self.first[name]
            if not isinstance(value, Tensor) or value.shape != example.shape or value.dtype != example.dtype:
                got = f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
                expected = f"a tensor of shape {tuple(example.shape)}, {example.dtype}"
                raise InputError(f'{what}, "{name}"', expected=expected, got=got)
            if not bool(torch.isfinite(value).all()) or not bool(support.check(value).all()):
                raise InputError(f'{what}, "{name}"', expected=f"finite numbers in {support}", got=str(value.tolist()))
        return {name: values[name].detach().clone() for name in self.first}

    def free(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values in unconstrained coordinates.

        Raises:
            InputError: numbers on the boundary of their support, which have no finite coordinates.
        """
        found = {name: biject_to(support).inv(values[name]).detach() for name, support in self.supports.items()}
        for name, coordinates in found.items():
            if not bool(torch.isfinite(coordinates).all()):
                expected = f"numbers within {self.supports[name]}, from where there is a way up"
                got = f"{values[name].tolist()}, on its boundary"
                raise InputError(f'start, "{name}"', expected=expected, got=got)
        return found

    def constrained(self, free: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values at unconstrained coordinates."""
        return {name: biject_to(support)(free[name]) for name, support in self.supports.items()}

    def hold(self, values: Mapping[str, Tensor]) -> bool:
        """Whether values are within their supports, where rounding may not have left them: off the boundary, too."""
        return all(
            bool(support.check(values[name]).all()) and bool(torch.isfinite(biject_to(support).inv(values[name])).all())
            for name, support in self.supports.items()
        )


def climb(objective: Objective, values: Mapping[str, Tensor], parameters: Parameters) -> dict[str, Tensor]:
    """Values at which the objective is higher; the same values if they are at its maximum, up to rounding.

    By L-BFGS in unconstrained coordinates. Where that leads nowhere, as where its line search leaps to infinity, by a
    step along the gradient: of length 1 in these coordinates, or half of that, and so on.

    Args:
        objective: of the values, a number.
        values: where to begin.
        parameters: the values' supports.

    Raises:
        InputError: values on the boundary of their support.
        NumericalError: an objective or gradient that is not finite where it begins.
    """
    before = float(objective(values).detach())
    if not math.isfinite(before):
        raise NumericalError(f"the expected complete log density is {before}")

    def height(free: Mapping[str, Tensor]) -> Tensor:
        return objective(parameters.constrained(free))

    for free in _candidates(height, parameters.free(values), before):
        with torch.no_grad():
            found = parameters.constrained(free)
            if parameters.hold(found) and float(objective(found)) > before:
                return found
    return dict(values)


def _candidates(height: Objective, start: Mapping[str, Tensor], before: float) -> Iterator[Mapping[str, Tensor]]:
    """Where it may be higher, the best guess first, until what a step would gain is rounding."""
    free = {name: value.clone().requires_grad_() for name, value in start.items()}
    _run_lbfgs(height, free)
    yield {name: value.detach() for name, value in free.items()}
    free = {name: value.clone().requires_grad_() for name, value in start.items()}
    slopes = torch.autograd.grad(height(free), list(free.values()), materialize_grads=True)
    steepness = math.hypot(*(float(slope.double().norm()) for slope in slopes))
    if not math.isfinite(steepness):
        raise NumericalError(f"the gradient of the expected complete log density is {steepness}")
    rounding, length = max(torch.finfo(value.dtype).eps for value in start.values()) * (1 + abs(before)), 1.0
    while length * steepness > rounding:
        yield {name: start[name] + length / steepness * slope for name, slope in zip(start, slopes, strict=True)}
        length /= 2


def _run_lbfgs(height: Objective, free: Mapping[str, Tensor]) -> None:
    """Some iterations, in place, which may end anywhere."""
    optimizer = torch.optim.LBFGS(list(free.values()), max_iter=CLIMBS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -height(free)
        value.backward()
        return value.detach()

    optimizer.step(loss)
