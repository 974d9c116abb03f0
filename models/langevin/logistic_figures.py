"""Figures of the path from Metropolis-Hastings to SGLD: chains beside their marginals, errors beside speeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from models.langevin.logistic_chain import Chain
from models.tables import Row
from pyro_bdl.diagnostics.plots import style

BINS = 30


def traces(chains: Sequence[Chain]) -> Figure:
    """For each chain the trace of one weight, and its marginal on that of the first, the reference.

    The weight is the one with the largest deviation, which takes longest.
    """
    reference, others = chains[0], chains[1:]
    weight = int(reference.draws.std(0).argmax())
    exact = reference.draws[:, weight].numpy()
    every = np.concatenate([chain.draws[:, weight].numpy() for chain in chains])
    low, high = np.quantile(every, [0.0005, 0.9995])
    edges = np.linspace(low, high, BINS + 1)
    figure, axes = style.panels(
        len(others), 2, width=4.2, height=1.15, sharey=True, sharex="col", gridspec_kw={"width_ratios": [2.6, 1]}
    )
    for (left, right), chain in zip(axes, others, strict=True):
        draws = chain.draws[:, weight].numpy()
        updates = np.linspace(0, chain.updates, len(draws))
        left.plot(updates, draws, color=style.BLUE, linewidth=0.5)
        options: dict[str, Any] = {"bins": edges, "density": True, "orientation": "horizontal"}
        right.hist(exact, color=style.PALE, **options)
        right.hist(draws, histtype="step", color=style.BLUE, linewidth=1.2, **options)
        style.label(left, y="weight", title=f"{chain.name}: {chain.changes}")
        left.set_ylim(low, high)
        left.set_xlim(0, chain.updates)
    style.label(axes[-1, 0], x="update after the warm-up", y="weight", title=axes[-1, 0].get_title(loc="left"))
    style.label(axes[-1, 1], x="density")
    style.label(axes[0, 1], title=f"grey: {reference.name}")
    style.headline(figure, f"From Metropolis-Hastings to SGLD: the widest of {reference.draws.shape[1]} weights")
    return figure


def comparison(rows: Sequence[Row]) -> Figure:
    """Errors of means (rms over the weights) and deviations (geometric mean) against the first row, and speeds."""
    others = list(rows[1:])
    names = [row["kernel"] for row in others]
    places = np.arange(len(others))[::-1]
    figure, axes = style.panels(1, 3, width=2.9, height=3.2, sharey=True)
    means, deviations, speeds = axes[0]
    means.plot([row["mean error (sd), rms"] for row in others], places, "o", color=style.BLUE, label="all weights")
    means.plot([row["largest"] for row in others], places, "D", color=style.ORANGE, markersize=5, label="worst weight")
    means.set_xlim(left=0)
    style.label(means, x=f"posterior deviations of {rows[0]['kernel']}", title="Errors of the means (rms, worst)")
    deviations.plot([row["sd ratio"] for row in others], places, "o", color=style.BLUE)
    deviations.axvline(1, color=style.GREY, linewidth=0.9, linestyle="--", label=rows[0]["kernel"])
    style.label(deviations, x=f"over those of {rows[0]['kernel']}", title="Posterior deviations")
    speeds.semilogx([row["ESS/s"] for row in others], places, "D", color=style.ORANGE, markersize=5)
    speeds.axvline(rows[0]["ESS/s"], color=style.GREY, linewidth=0.9, linestyle="--")
    speeds.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    speeds.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    speeds.xaxis.set_minor_formatter(NullFormatter())
    style.label(speeds, x="effective draws a processor second", title="Speed")
    handles = [*means.get_legend_handles_labels()[0], *deviations.get_legend_handles_labels()[0]]
    style.legend_below(figure, means, columns=3, handles=handles)
    means.set_yticks(places, [f"{name}\n{row['new']}" for name, row in zip(names, others, strict=True)])
    style.headline(figure, "What each step of the way costs and brings")
    return figure
