"""The shapes and kinds of a network's inputs, by which a file's reader finds the network's units again."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.protocol import corrupt
from pyro_bdl.compression.coding.symbols import Magnitudes, Uniform
from pyro_bdl.compression.units.probing import positional
from pyro_bdl.errors import InputError

KINDS = ("float", "integer", "bool")
MOST_INPUTS = 16
MOST_DIMENSIONS = 8
MOST_NUMBERS, NUMBERS_A_PARAMETER = 1 << 21, 32
MOST_CALLS = 10_000
MOST_UNTRIED = 1 << 18


@dataclass(frozen=True)
class ExampleInputs:
    """What a network can be called with, but for the numbers.

    Attributes:
        shapes: of the positional arguments.
        kinds: "float" (the network's own dtype), "integer" (int64) or "bool", of each.

    >>> example = ExampleInputs.of(torch.zeros(3, 1, 28, 28))
    >>> example.shapes, example.of_one().shapes
    (((3, 1, 28, 28),), ((1, 1, 28, 28),))
    """

    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]

    @staticmethod
    def of(example_input: Any) -> "ExampleInputs":
        """Those of an example: a tensor, or a tuple of 1 to 16 with at least one number and at most 8 dimensions each.

        Raises:
            InputError: anything else.
        """
        inputs = positional(example_input)
        fit = all(isinstance(x, Tensor) and x.numel() and x.dim() <= MOST_DIMENSIONS for x in inputs)
        if not (fit and 1 <= len(inputs) <= MOST_INPUTS):
            raise InputError(
                "the example input",
                expected=f"a tensor, or a tuple of 1 to {MOST_INPUTS}, each with a number and {MOST_DIMENSIONS} "
                "dimensions at most",
                got=", ".join(f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__ for x in inputs),
            )
        return ExampleInputs(tuple(tuple(x.shape) for x in inputs), tuple(map(_kind, inputs)))

    def of_one(self) -> "ExampleInputs":
        """One example of these, if the first dimension of all of them counts examples, as far as can be seen."""
        batched = len({shape[:1] for shape in self.shapes}) == 1 and any(len(shape) > 1 for shape in self.shapes)
        return ExampleInputs(tuple((1, *shape[1:]) for shape in self.shapes), self.kinds) if batched else self

    def zeros(self, net: nn.Module, *, device: torch.device | str | None = None) -> tuple[Tensor, ...]:
        """Arguments of these shapes, in the network's dtype and on its device."""
        own = next(net.parameters())
        dtypes = {"float": own.dtype, "integer": torch.int64, "bool": torch.bool}
        pairs = zip(self.shapes, self.kinds, strict=True)
        return tuple(torch.zeros(s, dtype=dtypes[k], device=own.device if device is None else device) for s, k in pairs)

    def encode(self, encoder: Encoder) -> None:
        """Into a stream: one bit says whether there is one float input, as nearly always."""
        single = self.kinds == ("float",)
        encoder.put([int(not single)], Uniform(2))
        if not single:
            encoder.put([len(self.kinds) - 1], Uniform(MOST_INPUTS))
            encoder.put([KINDS.index(kind) for kind in self.kinds], Uniform(len(KINDS)))
        for shape in self.shapes:
            encoder.put([len(shape)], Uniform(MOST_DIMENSIONS + 1))
            encoder.put(shape, Magnitudes())

    @staticmethod
    def decode(decoder: Decoder) -> "ExampleInputs":
        """Out of a stream. Nothing of these shapes is allocated here.

        Raises:
            CorruptFileError: not what `encode` wrote.
        """
        kinds: tuple[str, ...] = ("float",)
        if int(decoder.get(1, Uniform(2))[0]):
            count = 1 + int(decoder.get(1, Uniform(MOST_INPUTS))[0])
            kinds = tuple(KINDS[int(k)] for k in decoder.get(count, Uniform(len(KINDS))))
        shapes = []
        for _ in kinds:
            dimensions = int(decoder.get(1, Uniform(MOST_DIMENSIONS + 1))[0])
            shapes.append(tuple(int(n) for n in decoder.get(dimensions, Magnitudes())))
            if 0 in shapes[-1]:
                raise corrupt("inputs with at least one number", f"shape {shapes[-1]}")
        return ExampleInputs(tuple(shapes), kinds)

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], str]]:
        return iter(zip(self.shapes, self.kinds, strict=True))


def require_affordable(net: nn.Module, inputs: ExampleInputs) -> None:
    r"""Refuse inputs on which the network would compute more than it takes to find its units.

    The network runs without memory (on torch's meta device) and all numbers that its operations put out are counted: at
    most :math:`2^{21} + 32 P` for P parameters, which one image is well below for the usual networks, in at most 10,000
    operations, which stops a loop over a long sequence. A
    reader asks this of the shapes in a file before it allocates anything, a writer before it writes them. Where the
    network does not run without memory, the inputs may have :math:`2^{18}` numbers.

    Raises:
        InputError: too many.
    """
    most = MOST_NUMBERS + NUMBERS_A_PARAMETER * sum(p.numel() for p in net.parameters())
    size = sum(math.prod(shape) for shape in inputs.shapes)
    if size > most:
        raise _too_large(inputs, most, size)
    counter = _Counter(inputs, most)
    try:
        stand_in = _without_memory(net)
        with counter, torch.no_grad():
            stand_in(*inputs.zeros(stand_in))
    except Exception as error:  # what a network's own code raises is not known
        if counter.beyond:
            raise _too_large(inputs, most, counter.numbers) from None
        if size > MOST_UNTRIED:
            raise _too_large(inputs, MOST_UNTRIED, size) from error


def _kind(x: Tensor) -> str:
    return "float" if x.is_floating_point() else "bool" if x.dtype == torch.bool else "integer"


def _without_memory(net: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode whose tensors have shapes only."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in net.parameters()}
    memo |= {id(b): b.detach().to("meta") for b in net.buffers()}
    return copy.deepcopy(net, memo).eval()


class _Counter(TorchDispatchMode):
    """Counts the numbers that operations put out, and stops at too many of them or too many operations."""

    def __init__(self, inputs: ExampleInputs, most: int) -> None:
        super().__init__()
        self.inputs, self.most, self.numbers, self.calls = inputs, most, 0, 0

    @property
    def beyond(self) -> bool:
        return self.numbers > self.most or self.calls > MOST_CALLS

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        self.numbers += sum(x.numel() for x in tree_leaves(result) if isinstance(x, Tensor))
        if self.beyond:
            raise _too_large(self.inputs, self.most, self.numbers)
        return result


def _too_large(inputs: ExampleInputs, most: int, got: int) -> InputError:
    return InputError(
        "the example input", expected=f"one on which this network computes at most {most} numbers",
        got=f"shape {', '.join(map(str, inputs.shapes))} and {got} numbers", remedy="A smaller example will do",
    )  # fmt: skip
