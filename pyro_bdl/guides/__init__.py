"""Guides for any Pyro model."""

from pyro_bdl.guides.gaussian_dropout import GaussianDropout
from pyro_bdl.guides.initial import init_to_network
from pyro_bdl.guides.mean_field import AutoMeanField

__all__ = ["AutoMeanField", "GaussianDropout", "init_to_network"]
