"""Files that are damaged, and streams that are hostile behind a digest of their own."""

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pyro_bdl.compression.coding.container import write_container
from pyro_bdl.compression.compressed import architecture_of, load_compressed
from pyro_bdl.errors import CorruptFileError


def damaged_copies(content: bytes) -> Iterator[bytes]:
    """A file with each of its bits flipped, cut off at each length, and with a byte too many."""
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        yield bytes(flipped)
    for size in range(len(content)):
        yield content[:size]
    yield content + b"\0"


def hostile(stream: bytes, rng: np.random.Generator) -> bytes:
    body = bytearray(stream)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(body)))
        match rng.integers(4):
            case 0:
                body[at] ^= 1 << int(rng.integers(8))
            case 1:
                body[at : at + int(rng.integers(1, 20))] = rng.bytes(int(rng.integers(1, 20)))
            case 2:
                body = body[: at + 1]
            case 3:
                body[at : at + 6] = bytes([int(rng.choice([0, 255]))]) * 6
    return bytes(body)


def fuzz(
    victim: tuple[nn.Module, Any, bytes],
    path: Path,
    times: int,
    *,
    kind: int,
    clock: Callable[[], float] = time.process_time,
) -> int:
    """Streams behind a digest of their own: our error, or a network of finite numbers. How many were refused."""
    (net, _, stream), rng, refused = victim, np.random.default_rng(), 0
    before = copy.deepcopy(net.state_dict())
    for _ in range(times):
        write_container(path, [hostile(stream, rng)], kind=kind, architecture=architecture_of(net))
        begun = clock()
        try:
            found = load_compressed(path, net)
            assert all(bool(t.isfinite().all()) for t in found.state_dict().values())
        except CorruptFileError:
            refused += 1
        assert clock() - begun < 5
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    return refused
