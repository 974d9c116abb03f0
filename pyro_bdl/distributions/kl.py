"""KL(q, p) between posteriors and priors, registered with `torch.distributions.kl.register_kl`.

Importing this module registers the rules; `torch.distributions.kl_divergence(q, p)` then finds them, also within
`to_event`. A pair without a rule is estimated by `MeanFieldELBO` from one draw.
"""

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions.kl import register_kl

from pyro_bdl.distributions.dropout_normal import DropoutNormal
from pyro_bdl.distributions.half_cauchy import log_normal_half_cauchy_kl
from pyro_bdl.distributions.log_uniform import LogUniform
from pyro_bdl.distributions.normal_mixture import NormalMixture, normal_mixture_kl_bound
from pyro_bdl.distributions.variance_normal import VarianceNormal

# The fit of Molchanov, Ashukha & Vetrov 2017, eq. 14.
K1, K2, K3 = 0.63576, 1.87320, 1.48695


def log_alpha(loc: Tensor, variance: Tensor) -> Tensor:
    r"""The log dropout rate :math:`\log \alpha = \log(\sigma^2 / \mu^2)`, finite also at mean zero.

    Where :math:`|\mu|` or the variance is below the smallest normal number of the dtype, that number stands for it.

    >>> log_alpha(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    tensor([  0.0000, 174.6731])
    """
    tiny = torch.finfo(loc.dtype).tiny
    return variance.clamp_min(tiny).log() - 2.0 * loc.abs().clamp_min(tiny).log()


def dropout_kl(log_alpha: Tensor) -> Tensor:
    r"""KL(N(mu, alpha mu^2), log-uniform) up to a constant, so that it goes to 0 as alpha goes to infinity.

    .. math:: -k_1 \sigma(k_2 + k_3 \log\alpha) + \tfrac12 \log(1 + 1/\alpha) + k_1

    Molchanov, Ashukha & Vetrov 2017, eq. 14; within 0.01 nats of the integral for log alpha in [-8, 8].
    """
    return K1 * torch.sigmoid(-K2 - K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)


@register_kl(VarianceNormal, dist.Normal)
def _variance_normal_normal(q: VarianceNormal, p: dist.Normal) -> Tensor:
    precision = p.scale.square().reciprocal()
    ratio = q.variance * precision
    tiny = torch.finfo(ratio.dtype).tiny  # below it the logarithm's gradient would overflow
    return 0.5 * ((q.loc - p.loc).square() * precision + ratio - ratio.clamp_min(tiny).log() - 1.0)


@register_kl(VarianceNormal, VarianceNormal)
def _variance_normal_variance_normal(q: VarianceNormal, p: VarianceNormal) -> Tensor:
    return _variance_normal_normal(q, p)


@register_kl(dist.Normal, LogUniform)
def _normal_log_uniform(q: dist.Normal, p: LogUniform) -> Tensor:
    return dropout_kl(log_alpha(q.loc, q.variance))


@register_kl(DropoutNormal, LogUniform)
def _dropout_normal_log_uniform(q: DropoutNormal, p: LogUniform) -> Tensor:
    return dropout_kl(q.log_alpha)


@register_kl(dist.Normal, NormalMixture)
def _normal_normal_mixture(q: dist.Normal, p: NormalMixture) -> Tensor:
    if p.kl == "draw":
        raise NotImplementedError  # as for a pair without a rule
    return normal_mixture_kl_bound(q.loc, q.variance, p)


@register_kl(dist.LogNormal, dist.HalfCauchy)
def _log_normal_half_cauchy(q: dist.LogNormal, p: dist.HalfCauchy) -> Tensor:
    return log_normal_half_cauchy_kl(q.loc, q.scale, p.scale)


@register_kl(dist.LogNormal, LogUniform)
def _log_normal_log_uniform(q: dist.LogNormal, p: LogUniform) -> Tensor:
    # Uniform in log z: the KL is the negative entropy of log z, exactly, up to the constant of an improper density.
    return -_log_entropy(q)


@register_kl(dist.LogNormal, dist.Gamma)
def _log_normal_gamma(q: dist.LogNormal, p: dist.Gamma) -> Tensor:
    a, b = p.concentration, p.rate
    expected = a * b.log() - torch.lgamma(a) + a * q.loc - b * (q.loc + 0.5 * q.scale.square()).exp()
    return -_log_entropy(q) - expected


@register_kl(dist.LogNormal, dist.InverseGamma)
def _log_normal_inverse_gamma(q: dist.LogNormal, p: dist.InverseGamma) -> Tensor:
    a, b = p.concentration, p.rate
    expected = a * b.log() - torch.lgamma(a) - a * q.loc - b * (0.5 * q.scale.square() - q.loc).exp()
    return -_log_entropy(q) - expected


def _log_entropy(q: dist.LogNormal) -> Tensor:
    """The entropy of log z: changing variables to it drops the Jacobian from q and p alike."""
    return 0.5 * (1.0 + math.log(2.0 * math.pi)) + q.scale.log()
