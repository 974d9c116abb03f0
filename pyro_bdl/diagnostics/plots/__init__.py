"""Figures of fits and posteriors, from plain arrays.

Each function returns a `matplotlib.figure.Figure` that belongs to no window and no global state; save it with
`figure.savefig("name.png")`, or leave it as the last line of a notebook cell (after `%matplotlib inline`).
"""

from pyro_bdl.diagnostics.plots.chains import trace_and_rank
from pyro_bdl.diagnostics.plots.classification import entropy_histograms, most_uncertain, reliability_diagram
from pyro_bdl.diagnostics.plots.functions import regression_band
from pyro_bdl.diagnostics.plots.training import loss_curve, node_scales
