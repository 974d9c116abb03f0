"""Floating-point numbers as they are, bit by bit."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.protocol import Coder, Integers, Model, corrupt
from pyro_bdl.compression.coding.symbols import Adaptive, Uniform, number

FIRST, OTHERS = Adaptive(256, prior=8), Uniform(256)


@dataclass(frozen=True)
class Floats:
    """Integers whose bits are those of floats: one number if all are alike, which a bit tells; else byte by byte, all
    first bytes (sign and exponent, of which there are few) under adaptive counts, then all second ones, ...

    Args:
        width: bytes of a number, 2 or 4.

    >>> from pyro_bdl.compression.coding.meter import measure
    >>> bits = lambda numbers: round(measure(np.float32(numbers).view(np.int32), Floats()))
    >>> bits(np.ones(100)), bits(np.sqrt(np.arange(100)))  # of 3,200
    (33, 2587)
    """

    width: int = 4

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        flat = values.reshape(-1)
        alike = flat.size > 0 and not coder.decoding and bool((flat == flat[0]).all())
        some = flat[:1] if number(coder, int(alike), 2) else flat
        shifts = [8 * byte for byte in reversed(range(self.width))]
        planes = [(some >> shift & 255).astype(np.int32) for shift in shifts]
        for k, plane in enumerate(planes):
            model: Model = OTHERS if k else FIRST
            model.code(coder, plane)
        if coder.decoding:
            flat[...] = np.bitwise_or.reduce([p << shift for p, shift in zip(planes, shifts, strict=True)])


def put_floats(encoder: Encoder, values: Tensor, *, width: int = 4) -> None:
    """Append numbers, rounded to floats of 2 or 4 bytes.

    >>> encoder = Encoder()
    >>> put_floats(encoder, torch.tensor([0.5, -3.0]), width=2)
    >>> get_floats(Decoder(encoder.finish()), 2, width=2)
    tensor([ 0.5000, -3.0000])
    """
    numbers = values.detach().cpu().reshape(-1).float().numpy().astype(f"f{width}")
    encoder.put(numbers.view(f"i{width}").astype(np.int32), Floats(width))


def get_floats(decoder: Decoder, shape: int | tuple[int, ...], *, width: int = 4) -> Tensor:
    """The next numbers, float32 of this shape.

    Raises:
        CorruptFileError: NaN or infinity among them, or what `Decoder.get` refuses.
    """
    raw = decoder.get(shape, Floats(width)).astype(f"i{width}")
    values = torch.from_numpy(raw.view(f"f{width}").astype(np.float32))
    if not bool(torch.isfinite(values).all()):
        raise corrupt("finite numbers", "NaN or infinity")
    return values
