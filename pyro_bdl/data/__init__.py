"""Data sets by name: embedded, from a local folder, or by a checked download; and what feeds them to a fit."""

from pyro_bdl.data.binarization import DynamicallyBinarized, binarized
from pyro_bdl.data.dataset import Dataset, Standardized, Standardizer, standardize
from pyro_bdl.data.gaussian_risk import GaussianRisk
from pyro_bdl.data.labelled import BesideLabelled, balanced
from pyro_bdl.data.loading import load
from pyro_bdl.data.registry import names
from pyro_bdl.data.survival import Subjects, SurvivalData, load_survival, seen_before
from pyro_bdl.minibatches import Batch

__all__ = [
    "Batch", "BesideLabelled", "Dataset", "DynamicallyBinarized", "GaussianRisk", "Standardized", "Standardizer",
    "Subjects", "SurvivalData", "balanced", "binarized", "load", "load_survival", "names", "seen_before", "standardize",
]  # fmt: skip
