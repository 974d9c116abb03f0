"""Figures of the mixture: bounds by step, and components along the path of EM and over the posteriors' draws."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyro_bdl as bdl
from models.gaussian_mixture.methods import Method
from models.gaussian_mixture.mixture import Mixture, Values
from pyro_bdl.diagnostics.plots import style

SHOWN = 25  # draws of a posterior in the figure
ROUND = torch.linspace(0, 2 * torch.pi, 100, dtype=torch.float64)
STAGES = (0, 1, 4, 12)  # steps of EM whose components are shown, besides the last


def bounds(fits: Sequence[bdl.EMFit], best: int, svi: Method, sgld: Method) -> Figure:
    """What each method says of itself, step by step."""
    figure, axes = style.panels(1, 3, width=3.5, height=3.1)
    left, middle, right = axes[0]
    for number, fit in enumerate(fits):
        chosen = number == best
        left.plot(
            fit.bounds, color=style.BLUE if chosen else style.GREY, linewidth=2 if chosen else 0.9,
            label="the best" if chosen else "other starts" if number == (best == 0) else None,
            zorder=3 if chosen else 2,
        )  # fmt: skip
    left.set_xscale("symlog", linthresh=1)
    left.set_xlim(0, max(len(fit.bounds) for fit in fits) - 1)
    style.label(left, x="step", y="log p(x, θ) (nats)", title=f"EM from {len(fits)} starts")
    style.legend(left, loc="lower right")
    middle.plot(svi.trace[0], color=style.GREEN, linewidth=0.7)
    style.label(middle, x="step", y="evidence lower bound (nats)", title="SVI: a noisy bound on log p(x)")
    for trace, colour in zip(sgld.trace, style.colours(len(sgld.trace)), strict=True):
        right.plot(trace, color=colour, linewidth=0.7)
    style.label(right, x="update", y="log p(x, u) (nats)", title="SGLD from the best of EM: its density")
    for ax, values in ((middle, svi.trace[0]), (right, [v for trace in sgld.trace for v in trace])):
        top = max(values)
        ax.set_ylim(top - (150 if ax is middle else 40), top + 4)
    style.headline(figure, "One mixture, three fits: what each climbs")
    return figure


def components(mixture: Mixture, x: Tensor, fit: bdl.EMFit, svi: Method, sgld: Method, axes_names: Any) -> Figure:
    """Ellipses of two standard deviations; components are coloured from left to right, however a fit numbers them."""
    figure, axes = style.panels(1, 3, width=3.5, height=3.5, sharex=True, sharey=True)
    for ax in axes[0]:
        ax.plot(x[:, 0], x[:, 1], "o", color=style.GREY, markersize=2.5, alpha=0.6, zorder=1)
        style.label(ax, x=axes_names[0], y=axes_names[1] if ax is axes[0, 0] else "")
        ax.set_aspect("equal")
    stages = [step for step in STAGES if step < len(fit.path) - 1] + [len(fit.path) - 1]
    for rank, step in enumerate(stages):
        strength = (rank + 1) / len(stages)
        _ellipses(
            axes[0, 0], mixture, fit.path[step], order=_from_the_left(fit.path[-1]["loc"]),
            alpha=strength**1.5, linewidth=0.6 + 1.2 * strength,
        )  # fmt: skip
    told = ", ".join(map(str, stages))
    axes[0, 0].set_title(f"EM after {told} steps", fontsize=9.5, color=style.INK, loc="left")
    for ax, method in zip(axes[0, 1:], (svi, sgld), strict=True):
        count, order = len(method.draws["loc"]), _from_the_left(method.draws["loc"].mean(0))
        for i in torch.linspace(0, count - 1, min(SHOWN, count)).long().tolist():
            draw = {name: values[i] for name, values in method.draws.items()}
            _ellipses(ax, mixture, draw, order=order, alpha=0.35, linewidth=0.7)
        ax.set_title(f"{method.name}: {min(SHOWN, count)} draws", fontsize=9.5, color=style.INK, loc="left")
    wide = 1.25 * float(x.abs().max())
    axes[0, 0].set_xlim(-wide, wide)
    axes[0, 0].set_ylim(-wide, wide)
    style.headline(figure, "The components, two standard deviations wide: a point, a narrow posterior, the posterior")
    return figure


def _from_the_left(locations: Tensor) -> Tensor:
    """The components (C, D) by their first coordinate."""
    return locations[:, 0].argsort()


def _ellipses(ax: Any, mixture: Mixture, values: Values, *, order: Tensor, alpha: float, linewidth: float) -> None:
    roots = mixture.root(values["squares"], values["above"])
    circle = torch.stack([ROUND.cos(), ROUND.sin()])
    for loc, root, colour in zip(values["loc"][order], roots[order], style.colours(mixture.components), strict=True):
        edge = loc[:, None] + 2 * root @ circle
        ax.plot(edge[0], edge[1], color=colour, alpha=alpha, linewidth=linewidth, zorder=2)
