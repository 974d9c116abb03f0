"""The functions that multiply inputs by weights, all said in one way.

`F.linear`, `matmul` and its spellings, and the convolutions become a `Linear` or a `Convolution`: inputs, a weight and
a bias, of which one at least is deferred. Estimators have one rule for each of the two, not one for each spelling.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_bdl.estimators.deferred import DeferredDraw


@dataclass(slots=True)
class Linear:
    """x W^T + b for each row of x (B, in), with the weight (out, in); `finish` brings the result to its own shape."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    finish: Callable[[Tensor], Tensor] | None = None

    input_dim, output_dim = 1, 0


@dataclass(slots=True)
class Convolution:
    """A convolution of x (B, in, ...) with these filters; `geometry` is what `torch.convolution` takes after them."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    geometry: tuple[Any, ...]
    finish: Callable[[Tensor], Tensor] | None = None

    @property
    def input_dim(self) -> int:
        """The filters' dimension that counts input channels."""
        return 0 if self.geometry[3] else 1

    @property
    def output_dim(self) -> int:
        """The filters' dimension that counts output channels."""
        return 1 if self.geometry[3] else 0


@dataclass(slots=True)
class Unfit:
    """Why a function cannot be drawn at its output."""

    reason: str


Operation = Linear | Convolution | Unfit


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Operation:
    """`F.linear`."""
    if isinstance(input, DeferredDraw):
        return Unfit("a random tensor is the input")
    if input.dim() == 1:
        return Linear(input[None], weight, bias, lambda out: out[0])
    if input.dim() > 2:
        # Positions of one data point share the weight, so they cannot be drawn independently.
        return Unfit("the weight meets several positions of each data point")
    return Linear(input, weight, bias)


def matmul(input: Tensor, other: Tensor) -> Operation:
    """`matmul`, `mm` and `@`, with the weight on the right (rows are data points) or on the left (columns are)."""
    if isinstance(input, DeferredDraw) and isinstance(other, DeferredDraw):
        return Unfit("the product of two random matrices")
    if input.dim() > 2 or other.dim() > 2:
        return Unfit("the weight meets several positions of each data point")
    if isinstance(other, DeferredDraw):
        if other.dim() == 1:  # a vector of weights: one output
            x, squeeze = (input, lambda out: out[:, 0]) if input.dim() == 2 else (input[None], lambda out: out[0, 0])
            return Linear(x, other[None], None, squeeze)
        return linear(input, other.t())
    if input.dim() == 1:
        return matmul(other.t() if other.dim() == 2 else other, input)
    if other.dim() == 1:
        return Linear(other[None], input, None, lambda out: out[0])
    return Linear(other.t(), input, None, Tensor.t)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Operation:
    """`addmm`: input + mat1 @ mat2, without factors."""
    if beta != 1 or alpha != 1 or not isinstance(mat2, DeferredDraw):
        return Unfit("addmm with factors, or with the weight on the left")
    product = matmul(mat1, mat2)
    if isinstance(product, Linear):
        if input.shape != product.weight.shape[:1]:
            return Unfit("addmm of a matrix")
        product.bias = input
    return product


def _convolution(dims: int, *, transposed: bool = False) -> Callable[..., Operation]:
    def many(value: Any) -> list[int]:
        values = [value] if isinstance(value, int) else list(value)
        return values * dims if len(values) == 1 else values

    def operation(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, rest: tuple[Any, ...]) -> Operation:
        dilation, output_padding, groups = rest
        if isinstance(x, DeferredDraw):
            return Unfit("a random tensor is the input")
        finish = None
        if x.dim() == dims + 1:
            x, finish = x[None], lambda out: out[0]
        if isinstance(padding, str):
            x, padding = _pad(x, padding, weight.shape[2:], many(dilation))
        geometry = (many(stride), many(padding), many(dilation), transposed, many(output_padding), groups)
        return Convolution(x, weight, bias, geometry, finish)

    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None = None,
        stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Operation:  # fmt: skip
        return operation(input, weight, bias, stride, padding, (dilation, 0, groups))

    def transpose(
        input: Tensor, weight: Tensor, bias: Tensor | None = None,
        stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
    ) -> Operation:  # fmt: skip
        return operation(input, weight, bias, stride, padding, (dilation, output_padding, groups))

    return transpose if transposed else forward


def _pad(x: Tensor, padding: str, kernel: tuple[int, ...], dilation: list[int]) -> tuple[Tensor, int]:
    """Padding by name, put on the input: "same" may need one more at the end than at the beginning."""
    if padding == "valid":
        return x, 0
    widths: list[int] = []
    for size, spread in zip(reversed(kernel), reversed(dilation), strict=True):
        total = spread * (size - 1)
        widths += [total // 2, total - total // 2]
    return F.pad(x, widths), 0


OPERATIONS: dict[Any, Callable[..., Operation]] = {
    F.linear: linear,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.mv, Tensor.mv), matmul),
    Tensor.__rmatmul__: lambda self, other: matmul(other, self),
    **dict.fromkeys((torch.addmm, Tensor.addmm), addmm),
    F.conv1d: _convolution(1),
    F.conv2d: _convolution(2),
    F.conv3d: _convolution(3),
    F.conv_transpose1d: _convolution(1, transposed=True),
    F.conv_transpose2d: _convolution(2, transposed=True),
    F.conv_transpose3d: _convolution(3, transposed=True),
}
