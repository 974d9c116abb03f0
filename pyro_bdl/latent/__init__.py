"""Model/guide pairs with a latent variable for each data point."""

from pyro_bdl.latent.inputs import Concatenated, Summed
from pyro_bdl.latent.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Gaussian, Likelihood, Poisson
from pyro_bdl.latent.semi_supervised import SemiSupervisedVAE
from pyro_bdl.latent.semi_supervised_pair import SemiSupervisedPair
from pyro_bdl.latent.vae import VariationalAutoencoder

__all__ = [
    "Bernoulli",
    "Categorical",
    "Concatenated",
    "ContinuousBernoulli",
    "Gaussian",
    "Likelihood",
    "Poisson",
    "SemiSupervisedPair",
    "SemiSupervisedVAE",
    "Summed",
    "VariationalAutoencoder",
]
