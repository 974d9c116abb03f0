"""What a network's output says about the data: ordinary Pyro models with their data plate."""

from pyro_bdl.observation.classifier import Classifier
from pyro_bdl.observation.regressor import Regressor

__all__ = ["Classifier", "Regressor"]
