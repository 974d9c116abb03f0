"""The M-step of EM for any model: parameters in their supports, and a climb that never goes down."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.exact.plates import is_continuous_latent

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


def climb(
    objective: Callable[[Mapping[str, Tensor]], Tensor], values: Mapping[str, Tensor], parameters: Parameters
) -> dict[str, Tensor]:
    """Values at which the objective is at least as high, by L-BFGS in unconstrained coordinates.

    Args:
        objective: of the values, a number.
        values: where to begin.
        parameters: the values' supports.

    Raises:
        NumericalError: an objective or gradient that is not finite where it begins.
    """
    bijections = {name: biject_to(support) for name, support in parameters.supports.items()}
    free = {name: bijections[name].inv(value).detach().clone().requires_grad_() for name, value in values.items()}
    optimizer = torch.optim.LBFGS(list(free.values()), max_iter=CLIMBS, line_search_fn="strong_wolfe")

    def constrained() -> dict[str, Tensor]:
        return {name: bijections[name](value) for name, value in free.items()}

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -objective(constrained())
        value.backward()
        return value.detach()

    before = objective(values)
    if not bool(torch.isfinite(before)):
        raise NumericalError(f"the expected complete log density is {float(before)}")
    optimizer.step(loss)
    with torch.no_grad():
        found = {name: value.clone() for name, value in constrained().items()}
        inside = all(
            bool(found[name].isfinite().all()) and bool(support.check(found[name]).all())
            for name, support in parameters.supports.items()
        )
        higher = inside and bool(objective(found) >= before)
    return found if higher else dict(values)
