"""The log-uniform prior on each weight: sparse variational dropout."""

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from pyro_bdl.distributions import LogUniform as LogUniformDensity
from pyro_bdl.priors.independent import Gaussian
from pyro_bdl.priors.weight import Prior, Weight, WeightProgram


class LogUniform(nn.Module):
    r"""Independent log-uniform weights, :math:`p(w) \propto 1 / |w|`: the prior of variational dropout.

    With `AutoMeanField` (a mean and a variance of its own for each weight, "additive noise") it is sparse variational
    dropout (Molchanov, Ashukha & Vetrov 2017, section 4.2): the KL, their eq. 14, depends on the dropout rate
    :math:`\alpha = \sigma^2 / \mu^2` alone, and weights whose rate is large (log alpha > 3 in the paper) can be cut.
    With `GaussianDropout` it is the variational dropout of Kingma, Salimans & Welling 2015.

    The density is improper, and so is the posterior (Hron, Matthews & Ghahramani 2018): a fit is penalised likelihood
    with a KL-shaped penalty. MCMC and prior draws are refused.

    Args:
        rest: the prior of biases and other vectors. Default N(0, 1).

    >>> LogUniform()
    LogUniform(rest=Gaussian(scale=1.0, fan_in=False))
    """

    def __init__(self, *, rest: Prior | None = None) -> None:
        super().__init__()
        self.rest: Prior = Gaussian() if rest is None else rest

    def bind(self, weights: Sequence[Weight]) -> WeightProgram:
        """The program: each matrix log-uniform under its own name, `rest` for the others."""
        sites: list[tuple[str, Any, Any]] = [
            (w.name, LogUniformDensity(tuple(w.value.shape)).to_event(w.value.dim()),
             {**w.start, "unit_dim": w.input_dim})  # unit_dim: for guides with one dropout rate a unit
            for w in weights if w.is_matrix
        ]  # fmt: skip
        rest = self.rest.bind([w for w in weights if not w.is_matrix])

        def program() -> dict[str, Tensor]:
            return {name: pyro.sample(name, law, infer=start) for name, law, start in sites} | rest()

        return program

    def __repr__(self) -> str:
        return f"LogUniform(rest={self.rest!r})"
