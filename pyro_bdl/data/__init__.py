"""Data sets by name: embedded, from a local folder, or by a checked download."""

from pyro_bdl.data.dataset import Dataset, Standardized, Standardizer, standardize
from pyro_bdl.data.gaussian_risk import GaussianRisk
from pyro_bdl.data.loading import load
from pyro_bdl.data.registry import names
from pyro_bdl.data.survival import Subjects, SurvivalData, load_survival, seen_before

__all__ = [
    "Dataset", "GaussianRisk", "Standardized", "Standardizer", "Subjects", "SurvivalData", "load", "load_survival",
    "names", "seen_before", "standardize",
]  # fmt: skip
