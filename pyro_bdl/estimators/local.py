"""The local reparameterisation estimator."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.estimators.deferred import DeferredDraw
from pyro_bdl.estimators.estimator import Estimator, Fallback
from pyro_bdl.estimators.moments import LocalConvolution, LocalLinear
from pyro_bdl.estimators.node_scales import draw_each, node_scales
from pyro_bdl.estimators.operations import Convolution, Linear, Unfit


class LocalReparameterization(Estimator):
    """Outputs drawn from their own mean and variance; see `local_reparameterization`."""

    def linear(self, operation: Linear) -> Tensor | Unfit:
        """m + sqrt(v) noise for each row (Kingma, Salimans & Welling 2015, eq. 6)."""
        return _draw(operation, _linear)

    def convolution(self, operation: Convolution) -> Tensor | Unfit:
        """m + sqrt(v) noise for each output position (Molchanov et al. 2017, section 4.4)."""
        return _draw(operation, _convolution)


def _draw(operation: Any, rule: Callable[..., Tensor]) -> Tensor | Unfit:
    weight, bias = operation.weight, operation.bias
    if not isinstance(weight, DeferredDraw):
        return _deferred_bias(operation)
    if weight.log_normal:
        return Unfit("a log-normal weight")
    if isinstance(bias, DeferredDraw) and (bias.log_normal or bias.scale is not None):
        return Unfit("a log-normal or scaled bias")
    factors = node_scales(operation)
    if isinstance(factors, Unfit):
        return factors
    before, after = factors
    x = operation.x if before is None else operation.x * before
    if after is None:
        return rule(operation, x, bias)
    return add_bias(rule(operation, x, None) * after, bias)


def _linear(operation: Linear, x: Tensor, bias: Tensor | None) -> Tensor:
    weight: Any = operation.weight
    noise = torch.randn(x.shape[0], weight.loc.shape[0], dtype=x.dtype, device=x.device)
    return LocalLinear.apply(x, weight.loc, weight.variance, *_bias_moments(bias), noise, weight.accumulate)


def _convolution(operation: Convolution, x: Tensor, bias: Tensor | None) -> Tensor:
    weight: Any = operation.weight
    return LocalConvolution.apply(x, weight.loc, weight.variance, *_bias_moments(bias), None, operation.geometry)


def _bias_moments(bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (bias.loc, bias.variance) if isinstance(bias, DeferredDraw) else (bias, None)


def _deferred_bias(operation: Any) -> Tensor | Unfit:
    """Only the bias is random: its own draw for each data point."""
    if operation.bias.log_normal or operation.bias.scale is not None:
        return Unfit("a log-normal or scaled bias")
    if isinstance(operation, Linear):
        out = torch.mm(operation.x, operation.weight.t())
    else:
        out = torch.convolution(operation.x, operation.weight, None, *operation.geometry)
    return add_bias(out, operation.bias)


def add_bias(out: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias, a deferred one drawn for each data point, to outputs (B, units, ...)."""
    if bias is None:
        return out
    shape = (bias.numel(),) + (1,) * (out.dim() - 2)
    if isinstance(bias, DeferredDraw):
        return out + draw_each(bias, out.shape[0], shape)
    return out + bias.reshape(shape)


def local_reparameterization(
    guide: Callable[..., Any],
    *,
    model: Callable[..., Any] | None = None,
    fallback: Fallback = "draw",
    shared: Iterable[str] = (),
) -> LocalReparameterization:
    r"""A guide whose Gaussian weights are not drawn: the outputs of the layers are, for each data point.

    For a linear map of a data point x with factorised Gaussian weights,

    .. math:: y_o = \sum_i x_i \mu_{oi} + \sqrt{\textstyle\sum_i x_i^2 \sigma^2_{oi}}\; \epsilon_o

    has the law of :math:`(W x)_o` (Kingma, Salimans & Welling 2015, eq. 6). Gradients have lower variance, since each
    data point has its own noise. Handled: `F.linear`, `conv1d` to `conv3d`, `conv_transpose1d` to `3d`, `matmul`, `mm`,
    `@`, `addmm`, weights transposed, biases random or not, node scales (normal or log-normal) on inputs or outputs. Any
    other function gets one ordinary draw of the weight, shared by all uses in that pass.

    Where it is exact, and where not:

    - A weight used more than once in a pass (tied, recurrent, siamese) gets one ordinary draw: its uses depend on one
      another. A dry run of the model at the first call finds such weights. So do inputs with several positions a data
      point (rank three and more), which share the weight.
    - Layers that couple data points (batch normalisation in training mode) and likelihoods that are no sum over data
      points void the argument that per-point draws are enough: use the plain estimator there.
    - In convolutions each output position is drawn on its own although positions share the filter, as in the
      literature. This lowers the variance but is not unbiased for what lies above, once the weights' noise matters:
      on a small network of two convolutions under global average pooling the loss came out a third to two thirds too
      low with deviations of 0.1 to 0.3 of the weights' size, while gradients had 3 to 4 times less variance than
      flipout's (`tests/benchmarks/bench_convolution_bias.py`). `flipout` and plain draws are unbiased; predict with
      plain draws.
    - The rows of a matrix are taken for data points. Positions flattened into rows, (B * T, features), would each get
      a draw of their own: name the weights that they meet in `shared`.
    - Bounds that are no expectation of the log-likelihood (`RenyiELBO`, importance weights) need one draw of all
      weights: use the plain estimator.
    - With the weight on the left of `@`, the columns on its right are taken for data points.

    Args:
        guide: any Pyro guide. Sites within plates are drawn as usual.
        model: the model, for the dry run. Default: the one that an autoguide knows.
        fallback: what happens when a weight needs an ordinary draw: "draw" it, "warn" too, or "raise". Default "draw",
            which is right, only with more variance; `coverage()` lists it.
        shared: sites known to be used more than once in a pass.

    Raises:
        UnsupportedModelError: a second use of a weight that no dry run foresaw; a fallback with fallback="raise".

    >>> import pyro, pyro.distributions as dist
    >>> def guide(x):
    ...     return pyro.sample("w", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    >>> def model(x):
    ...     w = pyro.sample("w", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    ...     return torch.nn.functional.linear(x, w)
    >>> local = local_reparameterization(guide, model=model)
    >>> x = torch.ones(4, 2)
    >>> trace = pyro.poutine.trace(local).get_trace(x)
    >>> y = pyro.poutine.replay(model, trace)(x)
    >>> bool((y[0] != y[1]).all())  # each row has its own noise
    True
    >>> print(*local.coverage())
    w: local by linear
    """
    return LocalReparameterization(guide, model=model, fallback=fallback, shared=shared)
