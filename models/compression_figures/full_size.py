"""The weights of a compressed network where they stood in the original one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_bdl.compression.compressed import CompressedNetwork
from pyro_bdl.compression.units.unit_groups import cuts
from pyro_bdl.diagnostics.arrays import as_numpy
from pyro_bdl.errors import InputError


def full_size(compressed: CompressedNetwork) -> dict[str, Tensor]:
    """Each parameter in the original network's shape: the file's values, zeros where units were cut out.

    Returns:
        By the original's parameter names, float64.

    >>> import torch, pyro_bdl as bdl
    >>> from pyro_bdl.compress import compress
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> model = bdl.Classifier(bdl.BayesianModule(net))
    >>> guide = bdl.guides.AutoMeanField(model)
    >>> _ = guide(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long))
    >>> full = full_size(compress(net, guide, example_input=torch.zeros(1, 3)))
    >>> {name: tuple(value.shape) for name, value in full.items()}
    {'0.weight': (4, 3), '0.bias': (4,), '2.weight': (2, 4), '2.bias': (2,)}
    """
    gone = cuts(list(compressed.units.groups.values()), compressed.units.complete(compressed.kept))
    like = torch.empty(0, dtype=torch.float64)
    return {
        name: _placed(quantised.value(like), {dim: cut for (owner, dim), cut in gone.items() if owner == name})
        for name, quantised in compressed.parameters.items()
    }


def layers(what: str, weights: CompressedNetwork | Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The weight arrays of layers, by name: what has two axes or more; biases and the like are left out.

    Raises:
        InputError: no such array, one without elements, or one that is not finite.
    """
    values = full_size(weights) if isinstance(weights, CompressedNetwork) else weights
    found = {name: array for name, value in values.items() if (array := as_numpy(value)).ndim >= 2}
    if not found:
        raise InputError(what, expected="the weights of at least one layer", got=f"names {list(values)}")
    for name, array in found.items():
        if array.dtype.kind not in "biuf" or array.size == 0 or not np.isfinite(array).all():
            raise InputError(
                f"{what}[{name!r}]",
                expected="finite numbers, at least one",
                got=f"dtype {array.dtype}, shape {array.shape}"
                + (", NaN or infinity among them" if array.size and array.dtype.kind == "f" else ""),
            )
    return found


def _placed(value: Tensor, gone: Mapping[int, Tensor]) -> Tensor:
    """A tensor with rows of zeros at these positions of each dimension."""
    for dim, cut in gone.items():
        left = torch.ones(value.shape[dim] + len(cut), dtype=torch.bool)
        left[cut] = False
        shape = list(value.shape)
        shape[dim] = len(left)
        value = value.new_zeros(shape).index_copy_(dim, left.nonzero().flatten(), value)
    return value
