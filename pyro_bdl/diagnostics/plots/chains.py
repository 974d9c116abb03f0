"""Whether chains mix, seen in function space."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_bdl.diagnostics.arrays import Floats, as_floats
from pyro_bdl.diagnostics.plots.style import COLOURS, DASHES, INK, PALE, colours, headline, label, legend_below, panels
from pyro_bdl.errors import InputError


def trace_and_rank(
    variables: Mapping[str, Any],
    *,
    bins: int = 20,
    title: str = "Do the chains agree? Traces and ranks in function space",
) -> Figure:
    """For each variable its trace by chain, and the histogram of each chain's ranks among all draws.

    Chains that have found the same distribution have uniform ranks (Vehtari et al. 2021, section 5): each histogram is
    flat but for noise, whose central 98% is shaded (binomial, for independent draws; correlated draws stray further).

    Args:
        variables: draws by name, each (chain, draw); outputs of the network at some inputs, say.
        bins: of the rank histogram.
        title: the headline.

    Raises:
        InputError: no variables, or draws of another shape.
    """
    if not variables:
        raise InputError("variables", expected="at least one variable", got="none")
    if not isinstance(bins, int) or bins < 2:
        raise InputError("bins", expected="an integer of at least 2", got=repr(bins))
    draws = {n: as_floats(f"variables[{n!r}]", v, shape="(chain, draw)", ndim=2) for n, v in variables.items()}
    figure, axes = panels(len(draws), 2, width=4.4, height=2.0 if len(draws) > 1 else 2.6)
    chains = max(len(v) for v in draws.values())
    for (trace, histogram), (name, values) in zip(axes, draws.items(), strict=True):
        _traces(trace, values)
        _ranks(histogram, values, bins)
        label(trace, y=name)
    label(axes[0, 0], y=axes[0, 0].get_ylabel(), title="Trace")
    label(axes[0, 1], title="Ranks among all draws")
    for histogram in axes[:, 1]:
        histogram.set_ylabel("share of draws", fontsize=9, color=INK)
    label(axes[-1, 0], y=axes[-1, 0].get_ylabel(), x="draw", title=axes[-1, 0].get_title(loc="left"))
    axes[-1, 1].set_xlabel("rank (0: smallest of all draws, 1: largest)", fontsize=9, color=INK)
    if chains > 1:
        legend_below(figure, axes[0, 1], columns=min(chains + 1, 6))
    headline(figure, title)
    return figure


def _traces(ax: Any, values: Floats) -> None:
    for chain, colour in zip(values, colours(len(values)), strict=True):
        ax.plot(np.arange(len(chain)), chain, color=colour, linewidth=0.6, alpha=0.8)
    ax.set_xlim(0, max(values.shape[1] - 1, 1))


def _ranks(ax: Any, values: Floats, bins: int) -> None:
    from scipy.stats import rankdata

    chains, draws = values.shape
    ranks = (rankdata(values, axis=None).reshape(values.shape) - 0.5) / values.size  # ties share their mean rank
    edges = np.linspace(0, 1, bins + 1)
    low, high = _central_share(draws, 1 / bins)
    ax.axhspan(low, high, color=PALE, alpha=0.6, linewidth=0, label="98% of uniform ranks")
    for i, (chain, colour) in enumerate(zip(ranks, colours(chains), strict=True)):
        share = np.histogram(chain, edges)[0] / draws
        dash = DASHES[i // len(COLOURS) % len(DASHES)]  # where colours are used again
        ax.stairs(share, edges, baseline=None, color=colour, linewidth=1.3, linestyle=dash, label=f"chain {i}")
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)


def _central_share(count: int, probability: float) -> tuple[float, float]:
    from scipy.stats import binom

    low, high = binom.interval(0.98, count, probability)
    return low / count, high / count
