"""Bayesian deep learning on Pyro."""

from pyro_bdl import data, diagnostics, distributions, errors, guides, observation, priors
from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.diagnostics import from_pyro, from_pyro_svi
from pyro_bdl.estimators import flipout, local_reparameterization
from pyro_bdl.observation import Classifier, Regressor
from pyro_bdl.inference import Fit, MeanFieldELBO, fit_svi
