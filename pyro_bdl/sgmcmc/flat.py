"""All parameters of a chain in one flat tensor, and the independent normal priors on it in closed form.

Flat tensors have shape (parameters,), or (chains, parameters) for many chains at once.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.errors import UnsupportedModelError

Number = float | Tensor
"""A number of one chain, or a tensor of them, shape (chains,)."""


def number(value: Tensor) -> Number:
    """A tensor of one element without dimensions as a Python number; one of many chains as it is.

    >>> number(torch.tensor(2.0)), number(torch.tensor([2.0]))
    (2.0, tensor([2.]))
    """
    return float(value) if value.dim() == 0 else value


def mean(value: Number) -> float:
    """Over the chains.

    >>> mean(2.0), mean(torch.tensor([1.0, 2.0]))
    (2.0, 1.5)
    """
    return float(value.mean()) if isinstance(value, Tensor) else value


class Layout:
    """Where each named tensor lies in a flat one.

    >>> layout = Layout({"w": torch.zeros(2, 3), "b": torch.zeros(2)})
    >>> layout.views(torch.arange(8.0))["b"]
    tensor([6., 7.])

    Raises:
        UnsupportedModelError: tensors of different dtype or device.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.shapes = {name: value.shape for name, value in values.items()}
        ends = itertools.accumulate(shape.numel() for shape in self.shapes.values())
        self.slices = {
            name: slice(end - shape.numel(), end) for (name, shape), end in zip(self.shapes.items(), ends, strict=True)
        }
        self._lengths = [shape.numel() for shape in self.shapes.values()]
        kinds = {(value.dtype, value.device) for value in values.values()}
        if len(kinds) > 1:
            raise UnsupportedModelError(
                "the latent sites",
                expected="one dtype and device",
                got=", ".join(sorted(f"{d} on {v}" for d, v in kinds)),
            )

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """One new flat tensor with all values of one chain in it."""
        return torch.cat([values[name].reshape(-1) for name in self.shapes])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The named tensors, each with a dimension for the chains if there is one, as parts of the flat one."""
        parts, chains = flat.split_with_sizes(self._lengths, dim=-1), flat.shape[:-1]
        return {
            name: part if len(shape) == 1 else part.view(chains + shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class GaussianPriors:
    """The sites whose prior is an independent normal law with fixed numbers: log density and gradient in closed form.

    grad log N(theta; m, s^2) = (m - theta) / s^2. Where m = 0 and neighbouring sites have the same number s, as the
    weights of a network often have, these sites are one run of the flat parameters: one pass for all.

    Attributes:
        settled: which sites these are, and their numbers, is not asked again of a program that runs.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout, self.settled = layout, False
        self._normals: dict[str, _Normal] = {}
        self._runs: list[tuple[slice, float]] | None = None
        self._log_norm = 0.0

    def accepts(self, name: str, fn: Any) -> bool:
        """Whether the site's prior is of the kind; if so, its numbers are what is used from now on."""
        known = self._normals.get(name)
        if self.settled:
            return known is not None
        if known is not None and known.is_current(fn):
            return True
        normal = fn
        while type(normal).__name__ == "Independent":
            normal = normal.base_dist
        plain = type(normal).__name__ == "Normal" and isinstance(normal, torch.distributions.Normal)
        if not plain or normal.loc.requires_grad or normal.scale.requires_grad:
            self.drop(name)
            return False
        if known is None or not known.same(fn, normal.loc, normal.scale):
            self._normals[name] = _Normal(fn, normal.loc, normal.scale, self._layout.shapes[name])
            self._runs = None
        return True

    def drop(self, name: str) -> None:
        """Leave the site's prior to autograd."""
        if not self.settled and self._normals.pop(name, None) is not None:
            self._runs = None

    def add_gradient(self, position: Tensor, out: Tensor) -> Number:
        """Add these priors' gradient at the flat parameters to `out`, of the same shape; return their log density."""
        if self._runs is None:
            self._group()
            assert self._runs is not None
        log_density: Number = self._log_norm
        for where, precision in self._runs:
            whole = where.stop - where.start == position.shape[-1]
            theta, part = (position, out) if whole else (position[..., where], out[..., where])
            part.add_(theta, alpha=-precision)
            log_density = log_density - 0.5 * precision * _dot(theta, theta)
        for name, normal in self._normals.items():
            if normal.number is None:
                where = self._layout.slices[name]
                residual = normal.loc - position[..., where]
                gradient = normal.precision * residual
                out[..., where].add_(gradient)
                log_density = log_density - 0.5 * _dot(residual, gradient)
        return log_density

    def log_densities(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The log density of each of these sites at its value."""
        return {
            name: normal.log_norm - 0.5 * (normal.precision * (values[name].reshape(-1) - normal.loc) ** 2).sum()
            for name, normal in self._normals.items()
        }

    def _group(self) -> None:
        """Find the runs, and sum the norms."""
        self._runs = []
        for name, where in self._layout.slices.items():
            number = self._normals[name].number if name in self._normals else None
            if number is None:
                continue
            if self._runs and self._runs[-1][0].stop == where.start and self._runs[-1][1] == number:
                self._runs[-1] = (slice(self._runs[-1][0].start, where.stop), number)
            else:
                self._runs.append((where, number))
        self._log_norm = math.fsum(normal.log_norm for normal in self._normals.values())


class _Normal:
    """N(loc, scale^2) of a site, as the program last gave it, for the site's part of the flat parameters.

    Attributes:
        number: 1 / scale^2 if that is one number and loc is zero, else `None`.
        loc: of shape (size,).
        precision: 1 / scale^2, of shape (size,).
        log_norm: the log density at loc.
    """

    def __init__(self, fn: Any, loc: Tensor, scale: Tensor, shape: torch.Size) -> None:
        self._remember(fn, loc, scale)
        self.loc = loc.detach().expand(shape).reshape(-1)
        self.precision = scale.detach().expand(shape).reshape(-1) ** -2
        first = float(self.precision[0]) if len(self.precision) else 0.0
        self.number = None if self.loc.any() or (self.precision != first).any() else first
        log_scale = scale.detach().expand(shape).log().sum(dtype=torch.float64)
        self.log_norm = -float(log_scale) - 0.5 * math.log(2 * math.pi) * shape.numel()

    def is_current(self, fn: Any) -> bool:
        """Whether `fn` is the distribution last seen, and unchanged."""
        return fn is self._fn and self._loc._version == self._versions[0] and self._scale._version == self._versions[1]

    def same(self, fn: Any, loc: Tensor, scale: Tensor) -> bool:
        """Whether another distribution has the same numbers; then it is the one last seen."""
        if not (_same(self._loc, self._versions[0], loc) and _same(self._scale, self._versions[1], scale)):
            return False
        self._remember(fn, loc, scale)
        return True

    def _remember(self, fn: Any, loc: Tensor, scale: Tensor) -> None:
        self._fn, self._loc, self._scale = fn, loc, scale
        self._versions = (loc._version, scale._version)


def _dot(one: Tensor, other: Tensor) -> Number:
    return float(torch.dot(one, other)) if one.dim() == 1 else torch.linalg.vecdot(one, other)


def _same(old: Tensor, version: int, new: Tensor) -> bool:
    """Whether two parameters of a distribution have the same numbers, with as little work as is certain."""
    if new is old or (new.data_ptr() == old.data_ptr() and new.stride() == old.stride() and new.shape == old.shape):
        return new._version == version
    if new.shape != old.shape:
        return False
    if not any(new.stride()) and not any(old.stride()):  # a number, expanded
        return bool(new.as_strided((), ()) == old.as_strided((), ()))
    return torch.equal(new, old)
