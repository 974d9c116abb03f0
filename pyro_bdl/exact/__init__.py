"""Discrete sites of Pyro programs summed out, exactly: by factors, or as another program."""

from pyro_bdl.exact.factors import Factors, factors_of
from pyro_bdl.exact.summed_out import sum_out

__all__ = ["Factors", "factors_of", "sum_out"]
