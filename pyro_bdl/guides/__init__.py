"""Guides for any Pyro model."""

from pyro_bdl.guides.initial import init_to_network
from pyro_bdl.guides.mean_field import AutoMeanField

__all__ = ["AutoMeanField", "init_to_network"]
