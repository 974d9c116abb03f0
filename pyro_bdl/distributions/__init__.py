"""Distributions that Pyro lacks, and the KL rules between priors and posteriors."""

from pyro_bdl.distributions import kl
from pyro_bdl.distributions.dropout_normal import DropoutNormal
from pyro_bdl.distributions.log_uniform import LogUniform
from pyro_bdl.distributions.normal_mixture import NormalMixture
from pyro_bdl.distributions.piecewise_exponential import PiecewiseExponential
from pyro_bdl.distributions.right_censored import RightCensored
from pyro_bdl.distributions.variance_normal import VarianceNormal

__all__ = [
    "DropoutNormal", "LogUniform", "NormalMixture", "PiecewiseExponential", "RightCensored", "VarianceNormal", "kl",
]  # fmt: skip
