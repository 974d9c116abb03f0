"""Variational inference: the ELBO, the fit loop and its checkpoints; and expectation maximisation."""

from pyro_bdl.inference.elbo import MeanFieldELBO
from pyro_bdl.inference.em import EMFit, fit_em
from pyro_bdl.inference.fit import Fit, Progress, fit_svi
from pyro_bdl.inference.importance_weighted import ImportanceWeightedELBO
from pyro_bdl.inference.objectives import objective
from pyro_bdl.inference.shrink import Shrink

__all__ = [
    "EMFit",
    "Fit",
    "ImportanceWeightedELBO",
    "MeanFieldELBO",
    "Progress",
    "Shrink",
    "fit_em",
    "fit_svi",
    "objective",
]
