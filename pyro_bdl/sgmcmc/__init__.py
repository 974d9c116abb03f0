"""Stochastic-gradient MCMC for Pyro programs."""

from pyro_bdl.sgmcmc.kernels import SGLD
from pyro_bdl.sgmcmc.schedules import Constant, PolynomialDecay, step_size_weighted_mean
from pyro_bdl.sgmcmc.sites import require_proper_priors

__all__ = ["SGLD", "Constant", "PolynomialDecay", "require_proper_priors", "step_size_weighted_mean"]
