"""A function of tensors as the list of tensor operations that it does, without the Python around them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_bdl.errors import UnsupportedModelError

TOLERANCE = 1e-3  # relative, of the largest element: far above float32's rounding, far below another program's result

Traced = Callable[..., tuple[Tensor, ...]]


def trace(function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], *, varied: int) -> Traced:
    """Run a function once, and give back what repeats its tensor operations on inputs of the same shapes.

    Everything that is not an operation on the inputs is as it was in that run: numbers, branches, other tensors. The
    result is compared with the function's own at other values of the inputs.

    Args:
        function: takes tensors and returns tensors; gradients inside of it are traced, too.
        inputs: tensors for that run.
        varied: how many of the inputs, the first, take other values for the comparison.

    Raises:
        UnsupportedModelError: the function reads a number out of a tensor, or its trace gives something else.

    >>> double = trace(lambda x: (2 * x,), [torch.ones(2)], varied=1)
    >>> double(torch.arange(2.0))
    (tensor([0., 2.]),)
    """
    try:
        module = make_fx(function)(*inputs)
    except RuntimeError as error:
        raise _refused(f"an operation that depends on the numbers ({str(error).splitlines()[0]})") from error
    graph = module.graph
    for node in graph.nodes:
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()
    module.recompile()
    traced = _without_gradients(module)
    others = [t + 0.01 * (t.abs() + 1) if k < varied else t for k, t in enumerate(inputs)]
    for found, expected in zip(traced(*others), function(*others), strict=True):
        if not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * float(expected.abs().max())):
            raise _refused("something else than in the run that was traced")
    return traced


def _without_gradients(module: fx.GraphModule) -> Traced:
    def traced(*inputs: Tensor) -> Any:
        with torch.no_grad():
            return module(*inputs)

    return traced


def _refused(got: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "the model", expected="the same operations on tensors in each run, for jit_compile=True", got=got,
        remedy="Leave jit_compile out",
    )  # fmt: skip
