"""A small network to bytes and back: which units are kept, and its weights as integers.

The stream holds, in this order: the shapes of the network's inputs, by which the units are found again, and one byte
that tells whether these are the same; a mask for each group of units; for each parameter the exponent of a step and
integers, the multiples of it that the weights are; the buffers of floating point that belong to the network's state, as
32-bit floats. Everything else is the caller's network.

Where weights share values (the kind of the file says so) their codebook follows the masks, and a bit before each
parameter tells whether its integers are places in it; then no exponent precedes them.

Where weights are a draw of the posterior (another kind) a bit before each parameter tells whether it is drawn; then the
scales of its coding prior stand in the place of exponent and integers, and the random code of all that are drawn
follows in a section of its own.
"""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pyro_bdl.compression.coding.codebook import Clustered, get_book, get_clustered, put_book, shared_book
from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.floats import get_floats, put_floats
from pyro_bdl.compression.coding.protocol import corrupt
from pyro_bdl.compression.coding.sparse import Mask
from pyro_bdl.compression.coding.symbols import Uniform
from pyro_bdl.compression.coding.weights import Weights
from pyro_bdl.compression.example_inputs import ExampleInputs, require_affordable
from pyro_bdl.compression.random_code.code import RandomCode
from pyro_bdl.compression.random_code.coding_prior import CodingPrior
from pyro_bdl.compression.random_code.network_draw import Drawn, drawn
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.compression.units.shrinking import shrink
from pyro_bdl.errors import BDLError, InputError

EXPONENT_OFFSET = 128
QUANTISED, DRAWN, SHARED = 1, 2, 3  # kinds of a file


@dataclass(frozen=True)
class Quantised:
    """One parameter as multiples of a power of two.

    Attributes:
        levels: int64, of the parameter's shape.
        exponent: of the step, -128 to 127.

    Raises:
        InputError: another exponent.

    >>> Quantised(torch.tensor([3, 0, -1]), -2).value(torch.zeros(3))
    tensor([ 0.7500,  0.0000, -0.2500])
    """

    levels: Tensor
    exponent: int

    def __post_init__(self) -> None:
        if not -EXPONENT_OFFSET <= self.exponent < EXPONENT_OFFSET:
            expected = f"-{EXPONENT_OFFSET} to {EXPONENT_OFFSET - 1}"
            raise InputError("the exponent of a step", expected=expected, got=f"{self.exponent}")

    def value(self, like: Tensor) -> Tensor:
        """The parameter, of the dtype and on the device of another."""
        return (self.levels.double() * 2.0**self.exponent).to(like)


Parameter = Quantised | Clustered | Drawn


def kind_of(parameters: Mapping[str, Parameter]) -> int:
    """The kind of the file of these parameters."""
    if any(isinstance(parameter, Drawn) for parameter in parameters.values()):
        return DRAWN
    return QUANTISED if shared_book(parameters.values()) is None else SHARED


def encode(
    inputs: ExampleInputs | tuple[int, ...],
    units: Units,
    kept: Mapping[str, Tensor],
    parameters: Mapping[str, Parameter],
    buffers: Mapping[str, Tensor],
) -> tuple[bytes, dict[str, int]]:
    """The stream, and how many bits of it each part takes; their sum is its length.

    Args:
        inputs: of the network; a shape stands for one float input.
        units, kept: what is cut out of the network.
        parameters: of what is left, by name; those with a codebook have the same.
        buffers: of what is left, see `floating_buffers`.
    """
    encoder, parts = Encoder(), Parts()
    encode_cut(encoder, parts, inputs, units, kept)
    book, kind = shared_book(parameters.values()), kind_of(parameters)
    if book is not None:
        put_book(encoder, book)
        parts.end("codebook", encoder)
    for name, parameter in parameters.items():
        if kind != QUANTISED:
            encoder.put([int(not isinstance(parameter, Quantised))], Uniform(2))
        if isinstance(parameter, Drawn):
            parameter.prior.put(encoder)
            parts.end(f"{name} scales", encoder)
            continue
        if isinstance(parameter, Quantised):
            zero = not bool(parameter.levels.any())
            encoder.put([0 if zero else parameter.exponent + EXPONENT_OFFSET], Uniform(2 * EXPONENT_OFFSET))
        encoder.put(parameter.levels.cpu().numpy(), Weights())
        parts.end(name, encoder)
    for name, buffer in buffers.items():
        put_floats(encoder, buffer)
        parts.end(name, encoder)
    return encoder.finish(), parts.bits


def decode(
    data: bytes | memoryview, net: nn.Module, *, kind: int = QUANTISED, code: bytes | memoryview = b""
) -> nn.Module:
    """The small network of a file, in evaluation mode.

    Args:
        data: the stream.
        net: the architecture from which the network was cut.
        kind: of the file, `QUANTISED`, `DRAWN` or `SHARED`.
        code: the random code of a draw.

    Raises:
        CorruptFileError: the stream, or the code, is not one of such a network.
    """
    decoder = Decoder(bytes(data))
    priors: dict[str, CodingPrior] = {}
    small = decode_cut(decoder, net).eval()
    book = get_book(decoder) if kind == SHARED else None
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            shape = tuple(parameter.shape)
            if kind == DRAWN and int(decoder.get(1, Uniform(2))[0]):
                priors[name] = CodingPrior.get(decoder, parameter)
                continue
            if book is not None and int(decoder.get(1, Uniform(2))[0]):
                _fill(parameter, get_clustered(decoder, shape, book).value(parameter))
                continue
            exponent = int(decoder.get(1, Uniform(2 * EXPONENT_OFFSET))[0]) - EXPONENT_OFFSET
            levels = torch.from_numpy(decoder.get(shape, Weights()).astype(np.int64))
            _fill(parameter, Quantised(levels, exponent).value(parameter))
        for buffer in floating_buffers(small).values():
            _fill(buffer, get_floats(decoder, tuple(buffer.shape)))
        decoder.close()
        if kind == DRAWN:
            for name, found in _read_draw(code, priors, small).items():
                _fill(small.get_parameter(name), found.value(small.get_parameter(name)))
    return small


def _read_draw(data: bytes | memoryview, priors: Mapping[str, CodingPrior], small: nn.Module) -> dict[str, Drawn]:
    if not priors:
        raise corrupt("parameters that are drawn", "none")
    try:
        return drawn(RandomCode.from_bytes(bytes(data)), priors, dict(small.named_parameters()))
    except InputError as error:
        raise corrupt("a random code of this network's weights", f"{error}") from error


def floating_buffers(net: nn.Module) -> dict[str, Tensor]:
    """The buffers that a file has to hold: running statistics and the like, but not what is no part of the state."""
    state = net.state_dict().keys()
    return {name: b for name, b in net.named_buffers() if b.is_floating_point() and name in state}


def encode_cut(
    encoder: Encoder,
    parts: "Parts",
    inputs: ExampleInputs | tuple[int, ...],
    units: Units,
    kept: Mapping[str, Tensor],
) -> None:
    """What is cut out of the network, as `encode` begins."""
    inputs = inputs if isinstance(inputs, ExampleInputs) else ExampleInputs((tuple(inputs),), ("float",))
    inputs.encode(encoder)
    encoder.put([check_of(units)], Uniform(256))
    parts.end("shape", encoder)
    for name in units.groups:
        encoder.put(kept[name].cpu().numpy().astype(np.int32), Mask())
        parts.end(f"{name} units", encoder)


def decode_cut(decoder: Decoder, net: nn.Module) -> nn.Module:
    """A copy of the network without what `encode_cut` says, its weights still to be filled in.

    Raises:
        CorruptFileError: the stream does not begin with units of this network.
    """
    inputs = ExampleInputs.decode(decoder)
    try:
        require_affordable(net, inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever wrote the file was told of the layers that are kept whole
            units = find_units(net, inputs.zeros(net))
    except Exception as error:  # what a network's own code raises is not known
        raise corrupt("the shapes of this network's inputs", f"{inputs.shapes}") from error
    if int(decoder.get(1, Uniform(256))[0]) != check_of(units):
        raise corrupt("units that are found in this network", "others")
    kept = {name: torch.from_numpy(decoder.get(group.size, Mask()) != 0) for name, group in units.groups.items()}
    try:
        return shrink(net, kept, inputs.zeros(net), units=units)
    except BDLError as error:
        raise corrupt("masks of units of this network", f"{error}") from error


def check_of(units: Units) -> int:
    """A byte that differs, but for one time in 256, between networks or programs that find other units."""
    told = [
        (g.name, g.size, sorted((m.name, m.dim, m.role, m.index.tolist(), m.unit.tolist()) for m in g.members))
        for g in units.groups.values()
    ]
    return hashlib.blake2b(repr(told).encode(), digest_size=1).digest()[0]


class Parts:
    """Bits by part, from how far the stream has got."""

    def __init__(self) -> None:
        self.bits: dict[str, int] = {}
        self._before = 0

    def end(self, name: str, encoder: Encoder) -> None:
        """What was put since the last part is this one."""
        length = 8 * len(encoder.finish())
        self.bits[name] = length - self._before
        self._before = length


def _fill(tensor: Tensor, values: Tensor) -> None:
    tensor.copy_(values)
    if not bool(torch.isfinite(tensor).all()):
        raise corrupt("finite numbers", "NaN or infinity")
