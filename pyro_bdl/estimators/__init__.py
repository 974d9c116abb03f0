"""Weights that are drawn where they are used."""

from pyro_bdl.estimators.deferred import DeferredDraw
from pyro_bdl.estimators.estimator import Estimator, Use
from pyro_bdl.estimators.flipout import Flipout, flipout
from pyro_bdl.estimators.local import LocalReparameterization, local_reparameterization

__all__ = [
    "DeferredDraw", "Estimator", "Flipout", "LocalReparameterization", "Use", "flipout", "local_reparameterization",
]  # fmt: skip
