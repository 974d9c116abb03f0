"""Priors of a network's weights: Pyro programs over named weights."""

from pyro_bdl.priors.by_name import ByName
from pyro_bdl.priors.horseshoe import GroupHorseshoe, RegularizedHorseshoe
from pyro_bdl.priors.independent import Gaussian, Laplace, ScaleMixture, StudentT
from pyro_bdl.priors.log_uniform import LogUniform
from pyro_bdl.priors.mixture import SoftWeightSharing
from pyro_bdl.priors.node import GroupNormalJeffreys
from pyro_bdl.priors.weight import Prior, Weight

__all__ = [
    "ByName", "Gaussian", "GroupHorseshoe", "GroupNormalJeffreys", "Laplace", "LogUniform", "Prior",
    "RegularizedHorseshoe", "ScaleMixture", "SoftWeightSharing", "StudentT", "Weight",
]  # fmt: skip
