"""A compressed network: the small module, what it costs, and its file."""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pyro_bdl.compression import codec
from pyro_bdl.compression.codec import DRAWN, QUANTISED, SHARED, Parameter
from pyro_bdl.compression.coding.container import fingerprint, pack, read_container, write_container
from pyro_bdl.compression.coding.protocol import corrupt
from pyro_bdl.compression.example_inputs import ExampleInputs
from pyro_bdl.compression.quantisation.widths import Widths
from pyro_bdl.compression.random_code.code import RandomCode
from pyro_bdl.compression.units.finding import Units
from pyro_bdl.errors import InputError

FLOAT_BITS = 32


@dataclass(frozen=True)
class Report:
    """What a compressed network costs, as the field's tables count it.

    Attributes:
        architecture: units kept, in the order of computation, e.g. `278-98-13`.
        weights, dense, nonzero: parameters of the original network, of the small one, and those of it that are not 0.
        bits: width of each parameter in fixed point, by name.
        float_bits: the format of each as small floats, `e4m3`: one bit of sign, four of exponent, three of significand.
        unit_bits: widths of each layer's output units in fixed point, where each has a step of its own.
        pruning: original bits over those of the small dense network, 32 bits a weight.
        pruning_sparse: the same over those of the weights that are not 0 in the file.
        fast, fast_in_floats, fast_by_unit: original bits over those of the small dense network at `bits`, `float_bits`,
            `unit_bits`.
        maximum: original bytes over those of the file.
        file_bytes: of the whole file.
        bytes_by_part: of each part of it; their sum is that of the file.
        errors: validation error, where it was asked for, of the `posterior mean` and of each of
            `CompressedNetwork.variants`.
        errors_one_bit_below: by parameter, the error of `fast` when that parameter has one bit less than its width.
        matrices: the parameters that are a layer's weights, unlike biases and normalisation.
    """

    architecture: str
    weights: int
    dense: int
    nonzero: int
    bits: Mapping[str, int]
    float_bits: Mapping[str, str]
    unit_bits: Mapping[str, tuple[int, ...]]
    pruning: float
    pruning_sparse: float
    fast: float
    fast_in_floats: float
    fast_by_unit: float
    maximum: float
    file_bytes: int
    bytes_by_part: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    errors_one_bit_below: Mapping[str, float] = field(default_factory=dict)
    matrices: tuple[str, ...] = ()

    @property
    def layer_bits(self) -> str:
        """The widths of the layers' weights, in the order of computation: `8-11-14`."""
        return "-".join(str(self.bits[name]) for name in self.matrices)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, strings and dictionaries."""
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(self).items()}

    def __rich__(self) -> Table:
        table = Table("", "", show_header=False, title="Compressed network")
        table.add_row("architecture", self.architecture)
        share = 100 * self.nonzero / self.weights
        table.add_row("weights", f"{self.weights:,} to {self.dense:,}, of them {self.nonzero:,} not 0 ({share:.2f}%)")
        table.add_row("bits", self.layer_bits)
        table.add_row("as small floats", "-".join(self.float_bits[name] for name in self.matrices))
        spans = [[b for b in bits if b] or [0] for bits in self.unit_bits.values()]
        table.add_row("by output unit", ", ".join(f"{min(bits)} to {max(bits)}" for bits in spans))
        table.add_row("pruning", f"{self.pruning:.1f}x dense, {self.pruning_sparse:.1f}x sparse")
        fast = f"{self.fast:.1f}x, {self.fast_in_floats:.1f}x in floats, {self.fast_by_unit:.1f}x by unit"
        table.add_row("fast prediction", fast)
        table.add_row("maximum", f"{self.maximum:.1f}x, {self.file_bytes:,} bytes")
        for name, size in self.bytes_by_part.items():
            table.add_row(f"  {name}", f"{size:,.0f} bytes")
        for name, error in self.errors.items():
            table.add_row(f"error, {name}", f"{100 * error:.2f}%")
        for name, error in self.errors_one_bit_below.items():
            table.add_row(f"  {name} at {self.bits[name] - 1} bits", f"{100 * error:.2f}%")
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100, force_terminal=False, force_jupyter=False)  # plain text
        console.print(self)
        return console.file.getvalue()  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class CompressedNetwork:
    """What `compress` gives.

    Attributes:
        variants: the networks that the rates of the tables are about, plain dense modules in evaluation mode: `pruned`
            (32 bits a weight), `fast`, `fast in floats` and `fast by unit` (rounded to these widths), `coded` (what the
            file gives back).
        kept: masks of the units that are left, by group.
        units: the groups.
        parameters: the module's parameters as integers, on a grid or with a codebook, or as drawn.
        code: of those that are drawn.
        widths: the formats of each parameter at the precision of the posterior.
        errors, errors_one_bit_below: validation errors, see `Report`.
        architecture: four bytes that tell the original network.
        weights: parameters of the original network.
        inputs: of the network, by which a reader finds the units.
    """

    variants: Mapping[str, nn.Module]
    kept: Mapping[str, Tensor]
    units: Units
    parameters: Mapping[str, Parameter]
    code: RandomCode | None
    widths: Widths
    errors: Mapping[str, float]
    errors_one_bit_below: Mapping[str, float]
    architecture: bytes
    weights: int
    inputs: ExampleInputs

    @property
    def module(self) -> nn.Module:
        """A plain dense `torch.nn.Module`, smaller, in evaluation mode; what the file gives back."""
        return self.variants["coded"]

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Of the network's first input."""
        return self.inputs.shapes[0]

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return pack(self._sections[0], kind=self._kind, architecture=self.architecture)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the file, all of it or nothing; its length in bytes.

        Raises:
            OSError: no room, no permission; an old file is as it was.
        """
        return write_container(path, self._sections[0], kind=self._kind, architecture=self.architecture)

    def report(self) -> Report:
        """What it costs: a table for `rich` and `print`, and `as_dict()`."""
        sections, parts = self._sections
        size = len(self.to_bytes())
        parameters = dict(self.module.named_parameters())
        dense = sum(p.numel() for p in parameters.values())
        nonzero = sum(int((q.levels != 0).sum()) for q in self.parameters.values())
        original, fixed, floats = FLOAT_BITS * self.weights, self.widths.fixed, self.widths.floats
        unit_bits = {name: tuple(f.bits for f in formats) for name, formats in self.widths.units.items()}

        def rate(bits: Callable[[str], float]) -> float:
            return original / max(sum(bits(name) for name in parameters), 1)

        def by_unit(name: str) -> float:
            p = parameters[name]
            return sum(unit_bits[name]) * p[0].numel() if name in unit_bits else fixed[name].bits * p.numel()

        return Report(
            architecture=self.units.architecture(self.kept),
            weights=self.weights,
            dense=dense,
            nonzero=nonzero,
            bits={name: width.bits for name, width in fixed.items()},
            float_bits={name: str(width) for name, width in floats.items()},
            unit_bits=unit_bits,
            pruning=self.weights / dense,
            pruning_sparse=self.weights / max(nonzero, 1),
            fast=rate(lambda name: fixed[name].bits * parameters[name].numel()),
            fast_in_floats=rate(lambda name: floats[name].bits * parameters[name].numel()),
            fast_by_unit=rate(by_unit),
            maximum=original / 8 / size,
            file_bytes=size,
            bytes_by_part={name: bits / 8 for name, bits in parts.items()}
            | {"container": size - sum(map(len, sections))},
            errors=dict(self.errors),
            errors_one_bit_below=dict(self.errors_one_bit_below),
            matrices=tuple(name for name, p in self.module.named_parameters() if p.dim() > 1),
        )

    @property
    def _kind(self) -> int:
        return codec.kind_of(self.parameters)

    @cached_property
    def _sections(self) -> tuple[list[bytes], dict[str, int]]:
        buffers = codec.floating_buffers(self.module)
        stream, bits = codec.encode(self.inputs, self.units, self.kept, self.parameters, buffers)
        if self.code is None:
            return [stream], bits
        code = self.code.to_bytes()
        return [stream, code], {**bits, "random code": 8 * len(code)}


def load_compressed(path: str | os.PathLike[str], net: nn.Module) -> nn.Module:
    """The small network of a file that `CompressedNetwork.save` wrote.

    Args:
        path: the file.
        net: the original network, or one like it: the values of its parameters and running statistics do not matter.
            It is not changed.

    Returns:
        A plain dense module in evaluation mode, of the dtype and on the device of `net`. In the dtype of the network
        that was compressed its parameters are those of `CompressedNetwork.module`, bit for bit.

    Raises:
        CorruptFileError: a damaged, truncated or hostile file.
        OtherArchitectureError: a file that was written for another network.
        OSError: it cannot be opened.
    """
    require_network(net)
    container = read_container(path, kind=(QUANTISED, DRAWN, SHARED), architecture=architecture_of(net))
    stream, *codes = container.sections
    if len(codes) != (container.kind == DRAWN):
        raise corrupt(f"{1 + (container.kind == DRAWN)} sections", f"{1 + len(codes)}")
    return codec.decode(stream, net, kind=container.kind, code=b"".join(codes))


def architecture_of(net: nn.Module) -> bytes:
    """Four bytes that tell networks apart, by the names and shapes of what they hold."""
    return fingerprint({name: tuple(t.shape) for name, t in net.state_dict().items() if isinstance(t, torch.Tensor)})


def count(net: nn.Module) -> int:
    """How many parameters a network has."""
    return sum(p.numel() for p in net.parameters())


def require_network(net: nn.Module) -> None:
    """Raise unless this is a network with parameters."""
    if not isinstance(net, nn.Module):
        raise InputError("net", expected="a torch.nn.Module", got=type(net).__name__)
    if next(net.parameters(), None) is None:
        raise InputError("net", expected="a network with parameters", got="none")
