"""A mixture of normals over many weights: its density, and a bound on the KL to it."""

import math
from typing import Any, Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import constraints

CHUNK = 1 << 13  # weights at a time: their terms for some twenty components stay in the cache


class NormalMixture(TorchDistribution):
    r"""Independent :math:`w_i \sim \sum_k \pi_k N(\mu_k, \sigma_k^2)`, one mixture for all variables.

    Made for soft weight sharing: few components, many weights.

    Args:
        log_shares: log pi, of shape (K,), normalised.
        means: mu, (K,).
        log_variances: log sigma^2, (K,).
        batch_shape: the shape of the independent variables.
        kl: "bound": the KL rule of a normal posterior is `normal_mixture_kl_bound`; "draw": it has none, and
            `MeanFieldELBO` and `fit_svi` estimate it from a draw. Default "bound".

    >>> p = NormalMixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([-1.0, 1.0]), torch.zeros(2), (3,))
    >>> p.log_prob(torch.zeros(3))
    tensor([-1.4189, -1.4189, -1.4189])
    >>> p.sample().shape
    torch.Size([3])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)
    support = constraints.real
    has_rsample = False

    def __init__(
        self,
        log_shares: Tensor,
        means: Tensor,
        log_variances: Tensor,
        batch_shape: tuple[int, ...] = (),
        *,
        kl: Literal["bound", "draw"] = "bound",
        validate_args: bool | None = None,
    ) -> None:
        self.kl = kl
        self.log_shares, self.means, self.log_variances = log_shares, means, log_variances
        super().__init__(torch.Size(batch_shape), torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NormalMixture":
        """The same mixture for each of `batch_shape` variables."""
        return NormalMixture(
            self.log_shares, self.means, self.log_variances, tuple(batch_shape), kl=self.kl, validate_args=False
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of each variable.

        For many variables at once without the tensors of variables times components; then differentiable once only.
        """
        if value.numel() <= CHUNK:
            return self.joint_log_prob(value).logsumexp(0)
        known = torch.zeros_like(value)
        return _LogMixture.apply(value, known, self.log_shares, self.means, self.log_variances)

    def joint_log_prob(self, value: Tensor) -> Tensor:
        """log(pi_k N(value; mu_k, sigma_k^2)), the components along a new first dimension."""
        column = (-1,) + (1,) * value.dim()
        offset = self.log_shares - 0.5 * (self.log_variances + math.log(2.0 * math.pi))
        deviation = (value - self.means.view(column)) * (-0.5 * self.log_variances).exp().view(column)
        return offset.view(column) - 0.5 * deviation.square()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A draw, without gradients."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            chosen = torch.multinomial(self.log_shares.exp(), max(shape.numel(), 1), replacement=True)
            chosen = chosen[: shape.numel()].view(shape)
            noise = torch.randn(shape, dtype=self.means.dtype, device=self.means.device)
            return self.means[chosen] + (0.5 * self.log_variances).exp()[chosen] * noise


def normal_mixture_kl_bound(loc: Tensor, variance: Tensor, p: NormalMixture) -> Tensor:
    r"""An upper bound on KL(N(m, v), mixture), element by element, without random numbers.

    .. math:: -\log \sum_k \pi_k \exp(-KL(N(m, v) \,\|\, N(\mu_k, \sigma_k^2)))

    The variational bound of Hershey & Olsen 2007 (section 7) for a single normal, minimised over the responsibilities:
    by Jensen's inequality the negative evidence bound that it enters stays a bound. It is exact where one component
    answers for the whole spread of the posterior, and it costs one evaluation of the density; quadrature with n nodes
    costs n.
    """
    log_mixture = _LogMixture.apply(loc, variance, p.log_shares, p.means, p.log_variances)
    tiny = torch.finfo(variance.dtype).tiny
    return -0.5 * (1.0 + math.log(2.0 * math.pi) + variance.clamp_min(tiny).log()) - log_mixture


class _LogMixture(torch.autograd.Function):
    """log sum_k pi_k exp(E log N(w; mu_k, sigma_k^2)) for w ~ N(loc, variance), in pieces that fit the cache.

    With autograd each of some ten operations makes a tensor of weights times components. Here the responsibilities are
    computed once in each direction and never stored.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """One value for each weight."""
        loc, variance, log_shares, means, log_variances = tensors
        result = torch.empty_like(loc, memory_format=torch.contiguous_format)
        flat = result.view(-1)
        components = _columns(log_shares, means, log_variances)
        for part, m, v in _parts(loc, variance):
            flat[part] = _logits(m, v, components)[0].logsumexp(0)
        ctx.save_for_backward(*tensors, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Responsibilities times the derivatives of each component's term."""
        loc, variance, log_shares, means, log_variances, result = ctx.saved_tensors
        flat, grad_flat = result.view(-1), grad.reshape(-1)
        grad_loc, grad_variance = torch.empty_like(flat), torch.empty_like(flat)
        precision = (-log_variances).exp()
        counts, first, second = torch.zeros_like(means), torch.zeros_like(means), torch.zeros_like(means)
        components = _columns(log_shares, means, log_variances)
        for part, m, v in _parts(loc, variance):
            logits, distance, square = _logits(m, v, components)
            share = logits.sub_(flat[part]).exp_().mul_(grad_flat[part])
            torch.mv(share.t(), precision, out=grad_variance[part])
            counts += share.sum(1)
            second += torch.linalg.vecdot(share, square)
            distance.mul_(share)
            first += distance.sum(1)
            torch.mv(distance.t(), precision, out=grad_loc[part])
        return (
            grad_loc.neg_().view(loc.shape),
            grad_variance.mul_(-0.5).view(loc.shape),
            counts,
            precision * first,
            0.5 * (precision * second - counts),
        )


def _columns(log_shares: Tensor, means: Tensor, log_variances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    offset = log_shares - 0.5 * (log_variances + math.log(2.0 * math.pi))
    return offset[:, None], means[:, None], (-0.5 * (-log_variances).exp())[:, None]


def _parts(loc: Tensor, variance: Tensor) -> Any:
    m, v = loc.reshape(-1), variance.reshape(-1)
    for start in range(0, len(m), CHUNK):
        part = slice(start, start + CHUNK)
        yield part, m[part], v[part]


def _logits(m: Tensor, v: Tensor, components: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Each component's expected log density (K, n), the distances m - mu, and E(w - mu)^2."""
    offset, means, half_precision = components
    distance = m - means
    square = torch.addcmul(v, distance, distance)
    return torch.addcmul(offset, square, half_precision), distance, square
