"""Pruned networks in real files, with shared weights (a codebook) or 32-bit floats.

The container, the coder and the code for what is cut out are those of `pyro_bdl.compression`. Behind the units the
stream holds for each parameter either a codebook of 32-bit floats and the weights' codes, or a mask and the floats
themselves; then the buffers of floating point.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_bdl.compression.codec import Parts, decode_cut, encode_cut, floating_buffers
from pyro_bdl.compression.coding.codebook import Clustered, Codebook, get_clustered, recluster
from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.container import pack, read_container, write_container
from pyro_bdl.compression.coding.floats import get_floats, put_floats
from pyro_bdl.compression.coding.protocol import corrupt
from pyro_bdl.compression.coding.sparse import Mask
from pyro_bdl.compression.coding.symbols import Magnitudes, Uniform
from pyro_bdl.compression.coding.weights import Weights
from pyro_bdl.compression.compressed import architecture_of, count
from pyro_bdl.compression.units.dead_units import without_dead_units
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.compression.units.shrinking import shrink, shrink_tensors
from pyro_bdl.errors import InputError

SHARED = 8
MOST_CENTROIDS = 1 << 16


@dataclass(frozen=True, eq=False)
class StoredNetwork:
    """A pruned network as its file gives it back.

    Attributes:
        module: a plain dense `torch.nn.Module`, smaller.
        kept: masks of the units that are left, by group.
        units: the groups.
        codebooks: of the parameters that have one; the others are 32-bit floats.
        architecture: four bytes that tell the original network.
        weights: parameters of the original network.
        example_shape: of one input.
    """

    module: nn.Module
    kept: Mapping[str, Tensor]
    units: Units
    codebooks: Mapping[str, Clustered]
    architecture: bytes
    weights: int
    example_shape: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return pack([self._stream()[0]], kind=SHARED, architecture=self.architecture)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the file, all of it or nothing; its length in bytes."""
        return write_container(path, [self._stream()[0]], kind=SHARED, architecture=self.architecture)

    def bytes_by_part(self) -> dict[str, float]:
        """What takes how much room."""
        stream, parts = self._stream()
        size = len(pack([stream], kind=SHARED, architecture=self.architecture))
        return {name: bits / 8 for name, bits in parts.items()} | {"container": size - len(stream)}

    def _stream(self) -> tuple[bytes, dict[str, int]]:
        encoder, parts = Encoder(), Parts()
        encode_cut(encoder, parts, self.example_shape, self.units, self.kept)
        for name, parameter in self.module.named_parameters():
            book = self.codebooks.get(name)
            encoder.put([int(book is not None)], Uniform(2))
            if book is None:
                values = parameter.detach().cpu().float()
                encoder.put((values != 0).numpy(), Mask())
                put_floats(encoder, values[values != 0])
            else:
                below, above = book.book.below, book.book.above
                encoder.put([len(below), len(above)], Magnitudes())
                put_floats(encoder, torch.cat([below, above]))
                encoder.put(book.levels.cpu().numpy(), Weights())
            parts.end(name, encoder)
        for name, buffer in floating_buffers(self.module).items():
            put_floats(encoder, buffer)
            parts.end(name, encoder)
        return encoder.finish(), parts.bits


def store(
    original: nn.Module,
    pruned: nn.Module,
    example_input: Tensor,
    *,
    units: Units | None = None,
    codebooks: Mapping[str, Clustered] | None = None,
) -> StoredNetwork:
    """Cut out what pruned weights have left without effect, and what is left as its file has it.

    Args:
        original: of full size; tells the architecture.
        pruned: of full size, with zeros for what is pruned. Not changed.
        example_input: one or more inputs.
        units: what `find_units` returned for it, if that is at hand.
        codebooks: of parameters of full size, which stand for the network's values there.

    Raises:
        InputError: weights that are not finite.
    """
    books = dict(codebooks or {})
    whole = copy.deepcopy(pruned).eval()
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            parameter.copy_(books[name].value(parameter) if name in books else parameter.float())
            if not bool(torch.isfinite(parameter).all()):
                raise InputError(name, expected="finite weights", got="NaN or infinity")
    units = find_units(whole, example_input[:1]) if units is None else units
    kept = without_dead_units(whole, {n: p != 0 for n, p in whole.named_parameters()}, example_input, units=units)
    levels = shrink_tensors({name: book.levels for name, book in books.items()}, kept, units=units)
    small = {n: recluster({n: Clustered(levels[n], book.book)})[n] for n, book in books.items()}
    module = shrink(whole, kept, example_input[:1], units=units)
    return stored(original, module, kept, example_input, units=units, codebooks=small)


def stored(
    original: nn.Module,
    module: nn.Module,
    kept: Mapping[str, Tensor],
    example_input: Tensor,
    *,
    units: Units,
    codebooks: Mapping[str, Clustered] | None = None,
) -> StoredNetwork:
    """The same for a network from which the units were cut already."""
    return StoredNetwork(
        module=module.eval(), kept=dict(kept), units=units, codebooks=dict(codebooks or {}),
        architecture=architecture_of(original), weights=count(original), example_shape=tuple(example_input[:1].shape),
    )  # fmt: skip


def load(path: str | os.PathLike[str], net: nn.Module) -> nn.Module:
    """The small network of a file that `StoredNetwork.save` wrote.

    Args:
        path: the file.
        net: the original network, or one like it; not changed.

    Raises:
        CorruptFileError: a damaged, truncated or hostile file.
        OtherArchitectureError: a file that was written for another network.
        OSError: it cannot be opened.
    """
    return decode(bytes(read_container(path, kind=SHARED, architecture=architecture_of(net)).sections[0]), net)


def decode(data: bytes, net: nn.Module) -> nn.Module:
    """The small network of a stream. Errors as for `load`."""
    decoder = Decoder(data)
    small = decode_cut(decoder, net)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.copy_(_parameter(decoder, parameter))
        for buffer in floating_buffers(small).values():
            buffer.copy_(get_floats(decoder, buffer.numel()).reshape(buffer.shape))
    decoder.close()
    return small


def _parameter(decoder: Decoder, like: Tensor) -> Tensor:
    shape = tuple(like.shape)
    if not int(decoder.get(1, Uniform(2))[0]):
        mask = torch.from_numpy(decoder.get(shape, Mask()) != 0)
        values = torch.zeros(shape)
        values[mask] = get_floats(decoder, int(mask.sum()))
        return values.to(like)
    below, above = (int(n) for n in decoder.get(2, Magnitudes()))
    if below + above > MOST_CENTROIDS:
        raise corrupt(f"at most {MOST_CENTROIDS} centroids", f"{below + above}")
    centroids = get_floats(decoder, below + above)
    return get_clustered(decoder, shape, Codebook(centroids[:below], centroids[below:])).value(like)
