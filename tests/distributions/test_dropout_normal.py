"""N(mu, alpha mu^2) and its KL with the log-uniform prior."""

import torch
from torch.distributions import kl_divergence

from pyro_bdl.distributions import DropoutNormal, LogUniform, VarianceNormal
from pyro_bdl.distributions.kl import dropout_kl


def test_moments_and_kl_are_those_of_the_normal() -> None:
    loc, log_alpha = torch.randn(3, 4).double(), torch.randn(3, 1).double()
    q = DropoutNormal(loc, log_alpha)
    torch.testing.assert_close(q.variance, log_alpha.exp() * loc**2)
    same = VarianceNormal(loc, q.variance)
    torch.testing.assert_close(kl_divergence(q, LogUniform((3, 4))), kl_divergence(same, LogUniform((3, 4))))
    torch.testing.assert_close(q.expand((2, 3, 4)).variance[1], q.variance)


def test_the_kl_holds_where_squares_underflow_and_leaves_the_mean_alone() -> None:
    loc = torch.tensor([1e-30, 0.0, 1.0], requires_grad=True)
    log_alpha = torch.tensor(-1.0, requires_grad=True)
    kl = kl_divergence(DropoutNormal(loc, log_alpha), LogUniform((3,)))
    torch.testing.assert_close(kl, dropout_kl(torch.full((3,), -1.0)))
    by_loc, by_alpha = torch.autograd.grad(kl.sum(), (loc, log_alpha), allow_unused=True)
    assert by_loc is None
    assert by_alpha < 0.0


def test_beside_the_polynomial_of_kingma_et_al() -> None:
    """Up to the constant that an improper prior lacks, both fits are the same for alpha <= 1, to 0.03 nats."""
    alpha = torch.linspace(0.01, 1.0, 100).double()
    polynomial = -(0.5 * alpha.log() + 1.16145124 * alpha - 1.50204118 * alpha**2 + 0.58629921 * alpha**3)
    offset = dropout_kl(alpha.log()) - polynomial
    assert float(offset.max() - offset.min()) <= 0.03
