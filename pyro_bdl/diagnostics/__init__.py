"""Looking at a posterior: ArviZ, pointwise log-likelihood, predictions, metrics, figures.

The metrics are in `calibration`, `ood`, `regression` and `survival`, the figures in `plots`.
"""

from pyro_bdl.diagnostics import calibration, ood, regression, survival
from pyro_bdl.diagnostics.arviz import from_chains, from_pyro, from_pyro_svi
from pyro_bdl.diagnostics.container import from_arrays
from pyro_bdl.diagnostics.draws import guide_draws, mcmc_draws
from pyro_bdl.diagnostics.energies import FreeEnergy, chain_free_energy, free_energy
from pyro_bdl.diagnostics.log_marginal import LogMarginal, log_marginal
from pyro_bdl.diagnostics.pointwise import pointwise_log_likelihood
from pyro_bdl.diagnostics.prediction import predict, predict_locally
from pyro_bdl.latent_kl import latent_kl
