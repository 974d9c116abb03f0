"""Bayesian deep learning on Pyro.

A network plus a prior is a Pyro program (`BayesianModule`); fit it by SVI (`fit_svi`, or Pyro's own `SVI`) or sample it
by stochastic-gradient MCMC (`SGLD` in Pyro's own `MCMC`), look at the posterior in ArviZ (`from_pyro`,
`from_pyro_svi`), and turn it into a small network on disk (`compress`).
"""

from pyro_bdl import data, diagnostics, distributions, errors, graph, guides, latent, priors
from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.compress import compress
from pyro_bdl.compression.compressed import CompressedNetwork, load_compressed
from pyro_bdl.compression.random_code.kl_budget import KLBudget
from pyro_bdl.compression.random_code.random_draw import RandomDraw
from pyro_bdl.compression.retraining import Retraining
from pyro_bdl.diagnostics import (
    from_chains,
    from_pyro,
    from_pyro_svi,
    guide_draws,
    log_marginal,
    predict,
    predict_locally,
)
from pyro_bdl.estimators import flipout, local_reparameterization
from pyro_bdl.exact import sum_out
from pyro_bdl.inference import (
    EMFit,
    Fit,
    ImportanceWeightedELBO,
    MeanFieldELBO,
    Shrink,
    fit_em,
    fit_svi,
    objective,
)
from pyro_bdl.latent import SemiSupervisedPair, SemiSupervisedVAE, VariationalAutoencoder
from pyro_bdl.observation import (
    BinaryClassifier,
    Classifier,
    Intervals,
    ObservationModel,
    PartialLikelihood,
    PoissonRegressor,
    Regressor,
    SurvivalRegressor,
    deepify,
)
from pyro_bdl.sgmcmc import (
    SGHMC,
    SGLD,
    SGNHT,
    SVRG,
    Chains,
    Constant,
    ControlVariate,
    Cyclical,
    Langevin,
    Minibatch,
    PolynomialDecay,
    PreconditionedSGLD,
    find_step_size,
    sample_chains,
    step_size_weighted_mean,
)

__version__ = "0.1.0"

__all__ = [
    "SGHMC",
    "SGLD",
    "SGNHT",
    "SVRG",
    "BayesianModule",
    "BinaryClassifier",
    "Chains",
    "Classifier",
    "CompressedNetwork",
    "Constant",
    "ControlVariate",
    "Cyclical",
    "EMFit",
    "Fit",
    "ImportanceWeightedELBO",
    "Intervals",
    "KLBudget",
    "Langevin",
    "MeanFieldELBO",
    "Minibatch",
    "ObservationModel",
    "PartialLikelihood",
    "PoissonRegressor",
    "PolynomialDecay",
    "PreconditionedSGLD",
    "RandomDraw",
    "Regressor",
    "Retraining",
    "SemiSupervisedPair",
    "SemiSupervisedVAE",
    "Shrink",
    "SurvivalRegressor",
    "VariationalAutoencoder",
    "compress",
    "data",
    "deepify",
    "diagnostics",
    "distributions",
    "errors",
    "find_step_size",
    "fit_em",
    "fit_svi",
    "flipout",
    "from_chains",
    "from_pyro",
    "from_pyro_svi",
    "graph",
    "guide_draws",
    "guides",
    "latent",
    "load_compressed",
    "local_reparameterization",
    "log_marginal",
    "objective",
    "predict",
    "predict_locally",
    "priors",
    "sample_chains",
    "step_size_weighted_mean",
    "sum_out",
]
