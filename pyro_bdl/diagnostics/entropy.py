"""The differential entropy of a law from its draws."""

import math

import torch
from torch import Tensor

from pyro_bdl.errors import InputError


def gaussian_entropy(draws: Tensor) -> float:
    r"""The entropy of the normal law with the draws' covariance, without bias for normal and independent draws.

    .. math:: \hat S = \frac d2 \log(2 \pi e) + \frac12 \log\det \hat\Sigma
        + \frac12 \sum_{i=1}^d \Bigl( \log\frac{n-1}2 - \psi\bigl(\frac{n-i}2\bigr) \Bigr)

    with the n - 1 estimate of the covariance, of whose log determinant the last sum takes out the bias (that of a
    Wishart matrix; Ahmed & Gokhale 1989). Of all laws with a covariance the normal one has the largest entropy, so that
    for other laws this is too large. The standard error is about sqrt(d / (2 n)).

    Args:
        draws: (n, d), with n > d + 1.

    Raises:
        InputError: not enough draws for their dimension.

    >>> x = torch.randn(4000, 3, dtype=torch.float64)
    >>> abs(gaussian_entropy(x) - 1.5 * math.log(2 * math.pi * math.e)) < 0.12
    True
    """
    n, d = _shape(draws)
    if n <= d + 1:
        raise InputError(
            "draws", expected=f"more than {d + 1}, for a covariance of {d} parameters", got=str(n),
            remedy="Take more, or look at fewer parameters",
        )  # fmt: skip
    x = draws.double()
    log_det = float(torch.linalg.slogdet(torch.cov(x.T).reshape(d, d))[1])
    i = torch.arange(1, d + 1, dtype=torch.float64)
    bias = float((math.log((n - 1) / 2) - torch.digamma((n - i) / 2)).sum())
    return 0.5 * (d * math.log(2 * math.pi * math.e) + log_det + bias)


def neighbour_entropy(draws: Tensor, *, neighbour: int = 3) -> float:
    r"""The entropy by the distance of each draw to its k-th neighbour (Kozachenko & Leonenko 1987).

    .. math:: \hat S = \psi(n) - \psi(k) + \log V_d + \frac dn \sum_i \log \epsilon_i

    with :math:`\epsilon_i` the distance and :math:`V_d` the volume of the unit ball. The draws are whitened before, and
    log |det| of that is added. It follows any shape, but its bias falls only as n^(-2/d): in ten dimensions
    a million draws are not many, so take it for a few (Gao, Oh & Viswanath 2018). Neighbours along a slow chain are
    nearer than independent draws would be, so thin it.

    Args:
        draws: (n, d), independent, with n > d + 1.
        neighbour: k. Default 3: more gives a smaller spread and a larger bias.

    Raises:
        InputError: not enough draws, or a k that is no positive integer below n.

    >>> x = torch.rand(4000, 2, dtype=torch.float64)
    >>> abs(neighbour_entropy(x)) < 0.2
    True
    """
    from scipy.spatial import cKDTree  # not before it is needed

    n, d = _shape(draws)
    if isinstance(neighbour, bool) or not isinstance(neighbour, int) or not 1 <= neighbour < n:
        raise InputError("neighbour", expected=f"an integer in [1, {n})", got=repr(neighbour))
    if n <= d + 1:
        raise InputError("draws", expected=f"more than {d + 1}", got=str(n))
    x = draws.double()
    factor, failed = torch.linalg.cholesky_ex(torch.cov(x.T).reshape(d, d))
    if int(failed):
        return -math.inf
    white = torch.linalg.solve_triangular(factor, x.T, upper=False).T.numpy()
    distances = torch.from_numpy(cKDTree(white).query(white, k=[neighbour + 1])[0])
    log_ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)
    psi = torch.digamma(torch.tensor([n, neighbour], dtype=torch.float64))
    log_det = float(factor.diagonal().log().sum())
    return float(psi[0] - psi[1]) + log_ball + d * float(distances.log().mean()) + log_det


def _shape(draws: Tensor) -> tuple[int, int]:
    if draws.dim() != 2 or not draws.shape[1]:
        raise InputError("draws", expected="shape (draws, parameters)", got=f"shape {tuple(draws.shape)}")
    return draws.shape[0], draws.shape[1]
