"""The flipout estimator."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_bdl.estimators.deferred import DeferredDraw
from pyro_bdl.estimators.estimator import Estimator, Fallback
from pyro_bdl.estimators.local import add_bias
from pyro_bdl.estimators.node_scales import node_scales
from pyro_bdl.estimators.operations import Convolution, Linear, Unfit


class Flipout(Estimator):
    """One perturbation of the weights, with random signs for each data point; see `flipout`."""

    def linear(self, operation: Linear) -> Tensor | Unfit:
        """x M^T + ((x * s) D^T) * r."""
        return _draw(operation, F.linear)

    def convolution(self, operation: Convolution) -> Tensor | Unfit:
        """The same with channels for units."""
        return _draw(operation, lambda x, weight: torch.convolution(x, weight, None, *operation.geometry))


def _draw(operation: Any, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor | Unfit:
    weight, bias = operation.weight, operation.bias
    if isinstance(bias, DeferredDraw) and (bias.log_normal or bias.scale is not None):
        return Unfit("a log-normal or scaled bias")
    if not isinstance(weight, DeferredDraw):
        return add_bias(multiply(operation.x, weight), bias)
    if weight.log_normal:
        return Unfit("a log-normal weight")
    factors = node_scales(operation)
    if isinstance(factors, Unfit):
        return factors
    before, after = factors
    x = operation.x if before is None else operation.x * before
    perturbation = weight.variance.sqrt() * torch.randn_like(weight.loc)
    noise = multiply(x * _signs(x), perturbation)
    out = multiply(x, weight.loc) + noise * _signs(noise)
    return add_bias(out if after is None else out * after, bias)


def _signs(x: Tensor) -> Tensor:
    """Independent signs of shape (B, units, 1, ...)."""
    shape = (*x.shape[:2], *(1,) * (x.dim() - 2))
    return torch.randint(0, 2, shape, device=x.device).to(x.dtype).mul_(2).sub_(1)


def flipout(
    guide: Callable[..., Any],
    *,
    model: Callable[..., Any] | None = None,
    fallback: Fallback = "draw",
    shared: Iterable[str] = (),
) -> Flipout:
    r"""A guide whose Gaussian weights are perturbed differently for each data point of the batch.

    .. math:: y_n = \bar W x_n + \bigl(\Delta (x_n \circ s_n)\bigr) \circ r_n, \qquad
              \Delta_{oi} \sim N(0, \sigma^2_{oi}), \quad s_n, r_n \in \{-1, 1\}

    (Wen et al. 2018, eq. 3). One perturbation a batch, decorrelated by signs: each data point alone has exactly the
    law of ordinary draws, also in convolutions, whose positions share the signs. Two data points are uncorrelated but
    not independent. Random biases and node scales are drawn for each data point.

    Args and errors as for `local_reparameterization`; weights used more than once get one ordinary draw.

    >>> import pyro, pyro.distributions as dist
    >>> def guide(x):
    ...     return pyro.sample("w", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    >>> pyro.poutine.trace(flipout(guide, shared=["w"])).get_trace(torch.ones(4, 2)).nodes["w"]["value"].shape
    torch.Size([3, 2])
    """
    return Flipout(guide, model=model, fallback=fallback, shared=shared)
