"""32-bit floats as they are, bit by bit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_bdl.compression.coding.coder import Coder, Decoder, Encoder, Integers, Model
from pyro_bdl.compression.coding.symbols import Adaptive, Uniform, number

PLANES: tuple[Model, ...] = (Adaptive(256, prior=8), Uniform(256), Uniform(256), Uniform(256))


@dataclass(frozen=True)
class Floats:
    """Integers whose bits are those of 32-bit floats: one number if all are alike, which a bit tells; else byte by
    byte, all first bytes (sign and exponent, of which there are few) under adaptive counts, then all second ones, ...

    >>> from pyro_bdl.compression.coding.coder import measure
    >>> bits = lambda numbers: round(measure(np.float32(numbers).view(np.int32), Floats()))
    >>> bits(np.ones(100)), bits(np.sqrt(np.arange(100)))  # of 3,200
    (33, 2587)
    """

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        flat = values.reshape(-1)
        alike = flat.size > 0 and not coder.decoding and bool((flat == flat[0]).all())
        some = flat[:1] if number(coder, int(alike), 2) else flat
        planes = [(some >> shift & 255).astype(np.int32) for shift in (24, 16, 8, 0)]
        for model, plane in zip(PLANES, planes, strict=True):
            model.code(coder, plane)
        if coder.decoding:
            flat[...] = planes[0] << 24 | planes[1] << 16 | planes[2] << 8 | planes[3]


def put_floats(encoder: Encoder, values: ArrayLike) -> None:
    """Numbers of any shape, as 32-bit floats."""
    encoder.put(np.asarray(values, dtype=np.float32).reshape(-1).view(np.int32), Floats())


def get_floats(decoder: Decoder, shape: int | tuple[int, ...]) -> NDArray[Any]:
    """What `put_floats` put, of this shape. They may be NaN or infinite: it is for the caller to refuse that."""
    return decoder.get(shape, Floats()).view(np.float32)
