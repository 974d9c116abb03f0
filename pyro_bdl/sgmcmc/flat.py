"""All parameters of a chain in one flat tensor, and the independent normal priors on it in closed form."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.errors import UnsupportedModelError


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
        self.size = sum(shape.numel() for shape in self.shapes.values())
        kinds = {(value.dtype, value.device) for value in values.values()}
        if len(kinds) > 1:
            raise UnsupportedModelError(
                "the latent sites",
                expected="one dtype and device",
                got=", ".join(sorted(f"{d} on {v}" for d, v in kinds)),
            )

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """One new flat tensor with all values in it."""
        return torch.cat([values[name].reshape(-1) for name in self.shapes])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The named tensors as parts of a flat one, which they share."""
        return {name: flat[self.slices[name]].view(shape) for name, shape in self.shapes.items()}


class GaussianPriors:
    """The sites whose prior is an independent normal law with fixed numbers: log density and gradient in closed form.

    For a network of Gaussian weights this is a single pass over the flat parameters: grad log N(theta; m, s^2) =
    (m - theta) / s^2, which is one multiplication where all sites have the same s and m = 0.
    """

    def __init__(self, layout: Layout, like: Tensor) -> None:
        self._layout = layout
        self._precision = torch.zeros_like(like)
        self._loc = torch.zeros_like(like)
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._log_norms: dict[str, float] = {}
        self._summarise()

    def accepts(self, name: str, fn: Any) -> bool:
        """Whether the site's prior is of the kind; if so, its numbers are what is used from now on."""
        seen = self._seen.get(name)
        if seen is not None and fn is seen[0] and seen[1]._version == seen[2] and seen[3]._version == seen[4]:
            return True
        normal = fn
        while type(normal).__name__ == "Independent":
            normal = normal.base_dist
        if type(normal).__name__ != "Normal" or not isinstance(normal, torch.distributions.Normal):
            self.drop(name)
            return False
        loc, scale = normal.loc, normal.scale
        if loc.requires_grad or scale.requires_grad:
            self.drop(name)
            return False
        if seen is None or not (_same(seen[1], seen[2], loc) and _same(seen[3], seen[4], scale)):
            self._set(name, loc, scale)
        self._seen[name] = (fn, loc, loc._version, scale, scale._version)
        return True

    def drop(self, name: str) -> None:
        """Leave the site's prior to autograd."""
        if self._seen.pop(name, None) is not None:
            where = self._layout.slices[name]
            self._precision[where], self._loc[where] = 0.0, 0.0
            del self._log_norms[name]
            self._summarise()

    def gradient_(self, position: Tensor, out: Tensor) -> float:
        """Put the gradient of these priors' log density into `out` (zero for other sites); return the log density."""
        if not self._seen:
            out.zero_()
            return 0.0
        if self._uniform is not None:
            torch.mul(position, -self._uniform, out=out)
        else:
            torch.mul(position, self._negative_precision, out=out)
        if not self._centred:
            out.addcmul_(self._loc, self._precision)
            return self._constant + 0.5 * float(torch.dot(out, position) - torch.dot(out, self._loc))
        return self._constant + 0.5 * float(torch.dot(out, position))

    def _set(self, name: str, loc: Tensor, scale: Tensor) -> None:
        where, shape = self._layout.slices[name], self._layout.shapes[name]
        scale = scale.expand(shape)
        self._precision[where] = scale.reshape(-1) ** -2
        self._loc[where] = loc.expand(shape).reshape(-1)
        log_scale = float(scale.log().sum(dtype=torch.float64))
        self._log_norms[name] = -log_scale - 0.5 * math.log(2 * math.pi) * shape.numel()
        self._seen[name] = ()
        self._summarise()

    def _summarise(self) -> None:
        self._negative_precision = -self._precision
        self._centred = not bool(self._loc.any())
        self._constant = math.fsum(self._log_norms.values())
        first = float(self._precision[0]) if len(self._precision) else 0.0
        self._uniform = first if bool((self._precision == first).all()) else None


def _same(old: Tensor, version: int, new: Tensor) -> bool:
    """Whether two parameters of a distribution have the same numbers, with as little work as is certain."""
    if new is old or (new.data_ptr() == old.data_ptr() and new.stride() == old.stride() and new.shape == old.shape):
        return new._version == version
    if new.shape != old.shape:
        return False
    if not any(new.stride()) and not any(old.stride()):  # a number, expanded
        return bool(new.as_strided((), ()) == old.as_strided((), ()))
    return torch.equal(new, old)
