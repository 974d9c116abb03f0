"""Stochastic-gradient MCMC for Pyro programs."""

from pyro_bdl.sgmcmc.chains import Chains, sample_chains
from pyro_bdl.sgmcmc.gradients import SVRG, ControlVariate, Minibatch
from pyro_bdl.sgmcmc.kernels import SGHMC, SGLD, SGNHT, PreconditionedSGLD
from pyro_bdl.sgmcmc.langevin import Langevin
from pyro_bdl.sgmcmc.schedules import Constant, Cyclical, PolynomialDecay, step_size_weighted_mean
from pyro_bdl.sgmcmc.sites import require_proper_priors
from pyro_bdl.sgmcmc.step_size import find_step_size

__all__ = [
    "SGHMC",
    "SGLD",
    "SGNHT",
    "SVRG",
    "Chains",
    "Constant",
    "ControlVariate",
    "Cyclical",
    "Langevin",
    "Minibatch",
    "PolynomialDecay",
    "PreconditionedSGLD",
    "find_step_size",
    "require_proper_priors",
    "sample_chains",
    "step_size_weighted_mean",
]
