"""Data sets by name: embedded, from a local folder, or by a checked download."""

from pyro_bdl.data.dataset import Dataset, Standardized, Standardizer, standardize
from pyro_bdl.data.loading import load
from pyro_bdl.data.registry import names

__all__ = ["Dataset", "Standardized", "Standardizer", "load", "names", "standardize"]
