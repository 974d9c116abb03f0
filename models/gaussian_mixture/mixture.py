r"""The mixture of Gaussians with its conjugate priors (Bishop 2006, section 10.2), as a Pyro model.

.. math::
    \pi \sim Dirichlet(\alpha), \quad \Lambda_k \sim Wishart(\nu, I / (\nu s^2)), \quad
    \mu_k \sim N(0, (\beta \Lambda_k)^{-1}), \quad z_n \sim \pi, \quad x_n \sim N(\mu_{z_n}, \Lambda_{z_n}^{-1})

The Wishart matrix is drawn by Bartlett's decomposition, so that all its sites are plain numbers: an upper triangle U
with independent squared diagonals from chi-squared laws and standard normal numbers above, Lambda = U U^T / (nu s^2).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Mixture:
    """The model, for standardised data of `dimension` columns; called with data (N, dimension), float64.

    Attributes:
        components: K.
        dimension: D.
        alpha: of the Dirichlet law of the weights; 2 keeps them off 0.
        beta: prior weight of the means, in data points.
        scale: s, about the standard deviation of a component before data: half that of all data.
        priors: without them (`False`) fits are by maximum likelihood.
    """

    components: int
    dimension: int = 2
    alpha: float = 2.0
    beta: float = 0.05
    scale: float = 0.5
    priors: bool = True

    @property
    def degrees(self) -> float:
        """nu: the fewest at which the prior mean of the covariance is finite, D + 2."""
        return self.dimension + 2.0

    @property
    def chi_squared(self) -> Tensor:
        """The degrees of freedom of the squared diagonal of U, (D,)."""
        return self.degrees - self.dimension + 1.0 + torch.arange(self.dimension, dtype=torch.float64)

    def __call__(self, x: Tensor) -> None:
        """The Pyro program."""
        values = self._parameters()
        root = self.root(values["squares"], values["above"])
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(values["weights"]))
            pyro.sample("x", dist.MultivariateNormal(values["loc"][z], scale_tril=root[z]), obs=x)

    def summed(self, x: Tensor) -> None:
        """The same program with z summed out by hand, for many chains at once: `sum_out` does not go through vmap."""
        values = self._parameters()
        pyro.factor("x", self.densities({name: value[None] for name, value in values.items()}, x).sum())

    def _parameters(self) -> Values:
        one = torch.ones((), dtype=torch.float64)
        above = self.dimension * (self.dimension - 1) // 2
        with poutine.mask(mask=self.priors):
            weights = pyro.sample("weights", dist.Dirichlet(self.alpha * one.expand(self.components)))
            with pyro.plate("components", self.components):
                squares = pyro.sample("squares", dist.Chi2(self.chi_squared).to_event(1))
                entries = pyro.sample("above", dist.Normal(0 * one, one).expand([above]).to_event(1))
                spread = self.root(squares, entries) / self.beta**0.5
                loc = pyro.sample("loc", dist.MultivariateNormal(torch.zeros_like(squares), scale_tril=spread))
        return {"weights": weights, "squares": squares, "above": entries, "loc": loc}

    def triangle(self, squares: Tensor, above: Tensor) -> Tensor:
        """U, (..., D, D)."""
        rows, columns = torch.triu_indices(self.dimension, self.dimension, 1)
        places = torch.zeros(len(rows), self.dimension, self.dimension, dtype=above.dtype)
        places[torch.arange(len(rows)), rows, columns] = 1.0
        return torch.einsum("...p,pij->...ij", above, places) + squares.sqrt().diag_embed()

    def root(self, squares: Tensor, above: Tensor) -> Tensor:
        """The lower triangle R with R R^T the covariance, s sqrt(nu) U^-T, (..., D, D)."""
        eye = torch.eye(self.dimension, dtype=above.dtype)
        lower = self.triangle(squares, above).mT
        return self.scale * self.degrees**0.5 * torch.linalg.solve_triangular(lower, eye, upper=False)

    def start(self, x: Tensor, generator: torch.Generator) -> Values:
        """Equal weights, means at different data points, covariances s^2 I."""
        chosen = torch.randperm(len(x), generator=generator)[: self.components]
        shape = self.components, self.dimension
        return {
            "weights": x.new_full((self.components,), 1 / self.components),
            "squares": x.new_full(shape, self.degrees),
            "above": x.new_zeros(self.components, self.dimension * (self.dimension - 1) // 2),
            "loc": x[chosen].clone(),
        }

    def densities(self, draws: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """log p(x_n | theta) of each draw, (draws, N); each site has the draws in front."""
        root = self.root(draws["squares"], draws["above"])
        normal = dist.MultivariateNormal(draws["loc"][:, None], scale_tril=root[:, None], validate_args=False)
        return (normal.log_prob(x[:, None]) + draws["weights"].log()[:, None]).logsumexp(-1)
