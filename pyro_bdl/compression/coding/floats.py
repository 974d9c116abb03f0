"""Floating-point numbers in a stream: all first bytes (sign and exponent, which are alike), then all others in turn."""

import numpy as np
import torch
from torch import Tensor

from pyro_bdl.compression.coding.coder import Decoder, Encoder, corrupt
from pyro_bdl.compression.coding.symbols import Adaptive, Uniform

FIRST, OTHERS = Adaptive(256, prior=8), Uniform(256)


def put_floats(encoder: Encoder, values: Tensor, *, width: int = 4) -> None:
    """Append numbers, rounded to floats of 2 or 4 bytes.

    >>> from pyro_bdl.compression.coding.coder import Decoder, Encoder
    >>> encoder = Encoder()
    >>> put_floats(encoder, torch.tensor([0.5, -3.0]), width=2)
    >>> get_floats(Decoder(encoder.finish()), 2, width=2)
    tensor([ 0.5000, -3.0000])
    """
    numbers = values.detach().cpu().reshape(-1).float().numpy().astype(f">f{width}")
    raw = np.ascontiguousarray(numbers).view(np.uint8)
    for plane in range(width):
        encoder.put(raw[plane::width].astype(np.int32), OTHERS if plane else FIRST)


def get_floats(decoder: Decoder, size: int, *, width: int = 4) -> Tensor:
    """The next numbers, float32 of shape (size,).

    Raises:
        CorruptFileError: NaN or infinity among them, or what `Decoder.get` refuses.
    """
    planes = [decoder.get(size, OTHERS if plane else FIRST).astype(np.uint8) for plane in range(width)]
    raw = np.ascontiguousarray(np.stack(planes, axis=1)).reshape(-1)
    values = torch.from_numpy(raw.view(f">f{width}").astype(np.float32))
    if not bool(torch.isfinite(values).all()):
        raise corrupt("finite numbers", "NaN or infinity")
    return values
