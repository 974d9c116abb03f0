r"""Local reparameterisation: outputs of linear maps drawn from their own mean and variance.

With independent weights :math:`w_{oi} \sim N(\mu_{oi}, \sigma^2_{oi})` the output of one data point x is normal with

.. math:: m_o = \sum_i x_i \mu_{oi} + \mu_o^b, \qquad v_o = \sum_i x_i^2 \sigma^2_{oi} + \sigma^{2,b}_o

(Kingma, Salimans & Welling 2015, eq. 6), and :math:`m + \sqrt v\, \epsilon` is a draw of it. Pure torch, no Pyro. Each
function is one autograd node whose backward pass is written by hand: few temporaries, of which there is a megabyte
each for a layer of a few hundred units. Variances are kept above the smallest normal number, so that an output without
any randomness (a dead unit) has gradient zero, not NaN.

The gradients may be added straight into `.grad` (`accumulate`), for leaves that have one: then no temporary of the
weights' size is made at all.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class LocalLinear(torch.autograd.Function):
    r"""A draw of :math:`x W^T + b` for each row of x.

    Arguments: x (B, in), loc and variance (out, in), bias_loc and bias_variance (out,) or None, noise (B, out),
    accumulate. Returns (B, out).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        loc: Tensor,
        variance: Tensor,
        bias_loc: Tensor | None,
        bias_variance: Tensor | None,
        noise: Tensor,
        accumulate: bool,
    ) -> Tensor:
        """Draw the output."""
        square = x * x
        mean, scale = _affine(bias_loc, x, loc), _affine(bias_variance, square, variance)
        scale.clamp_min_(torch.finfo(scale.dtype).tiny).sqrt_()
        ctx.save_for_backward(x, square, loc, variance, noise, scale)
        ctx.accumulate = accumulate
        return mean.addcmul_(scale, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient through mean and variance."""
        x, square, loc, variance, noise, scale = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad_variance = (grad * noise).div_(scale).mul_(0.5)
        grad_x = None
        if needs[0]:
            grad_x = torch.mm(grad, loc).addcmul_(torch.mm(grad_variance, variance), x, value=2.0)
        if ctx.accumulate:
            loc.grad.addmm_(grad.t(), x)
            variance.grad.addmm_(grad_variance.t(), square)
            weights: tuple[Tensor | None, ...] = (None, None)
        else:
            weights = (
                torch.mm(grad.t(), x) if needs[1] else None,
                torch.mm(grad_variance.t(), square) if needs[2] else None,
            )
        return (
            grad_x,
            *weights,
            grad.sum(0) if needs[3] else None,
            grad_variance.sum(0) if needs[4] else None,
            None,
            None,
        )


class LocalConvolution(torch.autograd.Function):
    """A draw of a convolution, transposed or not: each output position from its own mean and variance.

    Arguments: x (B, in, ...), loc and variance of the filters, bias_loc and bias_variance (out,) or None, the noise
    (`None`: drawn here), then stride, padding, dilation, transposed, output_padding and groups as `torch.convolution`
    has them. The positions share the filter, so their exact joint law has correlations that these draws lack.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        loc: Tensor,
        variance: Tensor,
        bias_loc: Tensor | None,
        bias_variance: Tensor | None,
        noise: Tensor | None,
        geometry: tuple[Any, ...],
    ) -> Tensor:
        """Draw the output."""
        square = x * x
        mean = torch.convolution(x, loc, bias_loc, *geometry)
        scale = torch.convolution(square, variance, bias_variance, *geometry)
        scale.clamp_min_(torch.finfo(scale.dtype).tiny).sqrt_()
        noise = torch.randn_like(mean) if noise is None else noise
        ctx.save_for_backward(x, square, loc, variance, noise, scale)
        ctx.geometry, ctx.outputs = geometry, mean.shape[1]
        return mean.addcmul_(scale, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient through mean and variance."""
        x, square, loc, variance, noise, scale = ctx.saved_tensors
        needs_x, needs_loc, needs_variance, needs_bias, needs_bias_variance = ctx.needs_input_grad[:5]
        grad_variance = (grad * noise).div_(scale).mul_(0.5)

        def backward(g: Tensor, inputs: Tensor, filters: Tensor, mask: list[bool]) -> Any:
            return torch.ops.aten.convolution_backward(g, inputs, filters, [ctx.outputs], *ctx.geometry, mask)

        grad_x, grad_loc, grad_bias = backward(grad, x, loc, [needs_x, needs_loc, needs_bias])
        through, grad_filters, grad_bias_variance = backward(
            grad_variance, square, variance, [needs_x, needs_variance, needs_bias_variance]
        )
        if needs_x:
            grad_x = grad_x.addcmul_(through, x, value=2.0)
        return grad_x, grad_loc, grad_filters, grad_bias, grad_bias_variance, None, None


def _affine(bias: Tensor | None, x: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
