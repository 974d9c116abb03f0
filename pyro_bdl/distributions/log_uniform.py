"""The scale-invariant log-uniform density on the real line."""

from typing import Any, NoReturn

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_bdl.errors import ImproperPriorError


class LogUniform(TorchDistribution):
    r"""The improper density :math:`p(z) \propto 1 / |z|` on the non-zero reals: uniform in :math:`\log |z|`.

    The prior of sparse variational dropout (Kingma, Salimans & Welling 2015; Molchanov et al. 2017) and, on the scale
    of a group of weights, the normal-Jeffreys prior (Louizos, Ullrich & Welling 2017, eq. 6).

    It has infinite mass, so nothing can be drawn from it. A variational fit is nevertheless well defined as the
    minimum of a penalised loss, with the penalty KL(q, p) up to a constant (see `pyro_bdl.distributions.kl`); it is
    *not* an approximation to a posterior, since with the usual likelihoods the posterior is improper too (Hron,
    Matthews & Ghahramani 2018, "Variational Bayesian dropout: pitfalls and fixes"). For the same reason MCMC refuses
    it.

    Args:
        batch_shape: the shape of the independent variables.

    Raises:
        ImproperPriorError: when it is asked for a draw.

    >>> LogUniform().log_prob(torch.tensor([1.0, -2.0]))
    tensor([-0.0000, -0.6931])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own protocol)
    support = constraints.real
    has_rsample = False
    improper = True

    def __init__(self, batch_shape: tuple[int, ...] = (), *, validate_args: bool | None = None) -> None:
        super().__init__(torch.Size(batch_shape), torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogUniform":
        """The same density for each of `batch_shape` variables."""
        return LogUniform(tuple(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density up to the constant that an improper density lacks: -log|z|, infinite at z = 0."""
        return -value.abs().log()

    def sample(self, sample_shape: Any = ()) -> NoReturn:
        """Refuse: there is nothing to draw from."""
        raise ImproperPriorError(
            "a draw from LogUniform",
            expected="a prior with finite mass",
            got="the improper density 1/|z|",
            remedy="Its posterior is improper too (Hron, Matthews & Ghahramani 2018), so there is no prior predictive "
            "and no MCMC. Fit it by SVI (AutoMeanField sets its own initial values), or take a proper prior on the "
            "scale, such as HalfCauchy, LogNormal or a Gaussian prior of the weights",
        )
