"""Node scales of deferred weights, drawn for each data point on the units that they scale."""

import torch
from torch import Tensor

from pyro_bdl.estimators.deferred import DeferredDraw
from pyro_bdl.estimators.operations import Convolution, Linear, Unfit


def draw_each(draw: DeferredDraw, points: int, shape: tuple[int, ...]) -> Tensor:
    """One draw of a node scale or bias for each of `points` data points, of shape (points, *shape)."""
    loc, scale = draw.loc.reshape(shape), draw.variance.reshape(shape).sqrt()
    noise = torch.randn(points, *shape, dtype=loc.dtype, device=loc.device)
    value = torch.addcmul(loc, scale, noise)
    if not draw.log_normal:
        return value
    value = value.exp()
    return value if draw.scale is None else value * draw_each(draw.scale, points, (1,) * len(shape))


def node_scales(operation: Linear | Convolution) -> tuple[Tensor | None, Tensor | None] | Unfit:
    """The factors of the inputs and of the outputs, broadcast over (B, units, ...), from the weight's node scale.

    A scale with one number for each input unit acts on the inputs, one for each output unit on the outputs
    (Louizos, Ullrich & Welling 2017, section 4.1).
    """
    scale = operation.weight.scale if isinstance(operation.weight, DeferredDraw) else None
    if scale is None:
        return None, None
    shape = (1,) * (operation.weight.dim() - scale.dim()) + tuple(scale.shape)
    units = [dim for dim, size in enumerate(shape) if size != 1]
    spatial = (1,) * (operation.x.dim() - 2)
    points = operation.x.shape[0]
    if len(units) > 1:
        return Unfit("the scale differs within a node")
    if not units or units == [operation.input_dim]:
        if not units and scale.numel() == 1 and operation.weight.shape[operation.input_dim] != 1:
            return None, draw_each(scale, points, (1, *spatial))
        if isinstance(operation, Convolution) and operation.geometry[5] != 1:
            return Unfit("a scale of input channels in a grouped convolution")
        return draw_each(scale, points, (scale.numel(), *spatial)), None
    if units == [operation.output_dim]:
        if isinstance(operation, Convolution) and operation.geometry[3] and operation.geometry[5] != 1:
            return Unfit("a scale of output channels in a grouped transposed convolution")
        return None, draw_each(scale, points, (scale.numel(), *spatial))
    return Unfit("the scale belongs to no input or output units")
