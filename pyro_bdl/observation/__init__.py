"""What a network's output says about the data: ordinary Pyro models with their data plate."""

from pyro_bdl.observation.binary_classifier import BinaryClassifier
from pyro_bdl.observation.classifier import Classifier
from pyro_bdl.observation.deepify import deepify
from pyro_bdl.observation.intervals import Intervals
from pyro_bdl.observation.observation_model import ObservationModel
from pyro_bdl.observation.partial_likelihood import PartialLikelihood
from pyro_bdl.observation.poisson_regressor import PoissonRegressor
from pyro_bdl.observation.regressor import Regressor
from pyro_bdl.observation.survival_regressor import SurvivalRegressor

__all__ = [
    "BinaryClassifier", "Classifier", "Intervals", "ObservationModel", "PartialLikelihood", "PoissonRegressor",
    "Regressor", "SurvivalRegressor", "deepify",
]  # fmt: skip
