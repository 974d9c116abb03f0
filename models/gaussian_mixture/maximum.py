r"""The M-step of the mixture in closed form: the most probable parameters given responsibilities.

With r_nk the responsibilities, N_k their sums and kappa = 1 / (nu s^2) it maximises, for each component,

.. math::
    \sum_j c_j \log u_{jj} - \tfrac12 \operatorname{tr}(M U U^T), \qquad
    M = \kappa \Big(\sum_n r_{nk} (x_n - \mu)(x_n - \mu)^T + \beta \mu \mu^T\Big) + I, \qquad c_j = N_k + df_j - 1

where df_j are the degrees of freedom of the squared diagonal u_jj^2. Column j of U stands alone in this. With M_j the
upper left part of M that meets it, it is along M_j^{-1} e_j, and its length follows from one number.
"""

import torch
from torch import Tensor

from models.gaussian_mixture.mixture import Mixture, Values
from pyro_bdl.errors import NumericalError


def maximum(mixture: Mixture, x: Tensor, responsibilities: Tensor) -> Values:
    """Values of all sites of the mixture.

    Args:
        mixture: the model.
        x: data, (N, D).
        responsibilities: (N, K).

    Raises:
        NumericalError: a component that has collapsed onto a point or a line, where its covariance is singular and
            the likelihood without priors has no maximum.
    """
    priors = float(mixture.priors)
    kappa = 1 / (mixture.degrees * mixture.scale**2)
    counts = responsibilities.sum(0)
    weights = counts + priors * (mixture.alpha - 1)
    loc = (responsibilities.T @ x) / (counts + priors * mixture.beta)[:, None]
    away = x - loc[:, None]
    scatter = torch.einsum("nk,kni,knj->kij", responsibilities, away, away)
    scatter = scatter + priors * mixture.beta * loc[:, :, None] * loc[:, None, :]
    matrix = kappa * scatter + priors * torch.eye(mixture.dimension, dtype=x.dtype)
    _refuse_collapse(matrix, counts, kappa)
    powers = counts[:, None] + priors * (mixture.chi_squared - 1)
    upper = torch.stack([_column(matrix, powers[:, j], j) for j in range(mixture.dimension)], -1)
    rows, columns = torch.triu_indices(mixture.dimension, mixture.dimension, 1)
    return {
        "weights": weights / weights.sum(),
        "squares": upper.diagonal(dim1=-2, dim2=-1).square(),
        "above": upper[:, rows, columns],
        "loc": loc,
    }


def _column(matrix: Tensor, power: Tensor, j: int) -> Tensor:
    """Column j of U for each component, (K, D): t v with v = M_j^-1 e_j and t = sqrt(c / v_j)."""
    part = matrix[:, : j + 1, : j + 1]
    unit = torch.zeros(len(matrix), j + 1, dtype=matrix.dtype)
    unit[:, j] = 1.0
    along = torch.linalg.solve(part, unit)
    column = (power / along[:, j]).sqrt()[:, None] * along
    return torch.nn.functional.pad(column, (0, matrix.shape[-1] - j - 1))


def _refuse_collapse(matrix: Tensor, counts: Tensor, kappa: float) -> None:
    """A covariance, in units of the data's variance, whose least eigenvalue is rounding beside 1."""
    least = torch.linalg.eigvalsh(matrix).amin(-1) / kappa
    for k, (count, sum_of_squares) in enumerate(zip(counts.tolist(), least.tolist(), strict=True)):
        if not sum_of_squares > 1e-10 * max(count, 1.0):
            raise NumericalError(
                f"component {k} has collapsed: {count:.3g} data points, in some direction {sum_of_squares:.1e} about "
                "their mean; without priors the likelihood has no maximum there. Take priors, fewer components, or "
                "another start"
            )
