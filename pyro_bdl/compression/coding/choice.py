"""The shortest of several models."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pyro_bdl.compression.coding.meter import Meter
from pyro_bdl.compression.coding.protocol import Coder, Integers, Model
from pyro_bdl.compression.coding.symbols import number
from pyro_bdl.errors import InputError

MOST_REMEMBERED = 1 << 16


@dataclass(frozen=True)
class Best:
    """The shortest of several models, named in the stream.

    Args:
        models: among which.
        tried: the indices of those worth trying on these values; one at least must be able to code them.
    """

    models: tuple[Model, ...]
    tried: tuple[int, ...]

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        chosen = 0 if coder.decoding else self._choose(values)
        self.models[number(coder, chosen, len(self.models))].code(coder, values)

    def _choose(self, values: Integers) -> int:
        if values.size > MOST_REMEMBERED:
            return _shortest(self.models, self.tried, values)
        return _remembered(self.models, self.tried, values.shape, values.tobytes())


def _shortest(models: tuple[Model, ...], tried: tuple[int, ...], values: Integers) -> int:
    costs = {}
    for index in tried:
        meter = Meter()
        try:
            models[index].code(meter, values)
        except InputError:  # more than this model takes
            continue
        costs[index] = meter.bits
    if not costs:
        raise InputError("values", expected="what one of the models can code", got=f"{values.min()} to {values.max()}")
    return min(costs, key=lambda index: costs[index])


@lru_cache(maxsize=16)  # a choice within a choice is made again for each of the outer one's models
def _remembered(models: tuple[Model, ...], tried: tuple[int, ...], shape: tuple[int, ...], content: bytes) -> int:
    return _shortest(models, tried, np.frombuffer(content, dtype=np.int32).reshape(shape))
