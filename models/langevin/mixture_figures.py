"""Figures of the mixture: posteriors side by side, noise by iteration, visits of the modes."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from models.langevin.mixture_chains import Chains
from models.langevin.mixture_noise import Noise
from models.langevin.mixture_target import BOX, Exact, histogram
from pyro_bdl.diagnostics.plots import style

SHOWN = ((-1.5, 2.5), (-3.0, 3.0))  # the paper's limits
MASSES = (0.99, 0.9, 0.75, 0.5, 0.25)  # inside of the contours


def posteriors(exact: Exact, found: Mapping[str, Chains]) -> Figure:
    """The exact posterior's contours, and under them the histogram of each schedule's first chain."""
    figure, axes = style.panels(1, 1 + len(found), width=3.3, height=3.7, sharex=True, sharey=True)
    for ax in axes[0]:
        _contours(ax, exact)
        ax.set_xlim(*SHOWN[0])
        ax.set_ylim(*SHOWN[1])
        ax.grid(visible=False)
    axes[0, 0].contourf(*exact.axes, exact.density.T, levels=20, cmap="Blues")
    style.label(axes[0, 0], x="θ₁", y="θ₂", title="exact, on a grid")
    for ax, (name, chains) in zip(axes[0, 1:], found.items(), strict=True):
        share = histogram(chains.chain(0), chains.weights).T.numpy()
        ax.imshow(share, origin="lower", extent=(*BOX[0], *BOX[1]), aspect="auto", cmap="Blues", vmin=0)
        distance = exact.distance(chains.chain(0), chains.weights)
        style.label(ax, x="θ₁", title=f"{name} steps, one chain\ntotal variation {distance:.2f}")
        ax.set_xlim(*SHOWN[0])
        ax.set_ylim(*SHOWN[1])
    style.headline(figure, "Two modes by SGLD, one data point an update (lines: exact, 25 to 99% of the mass)")
    return figure


def _contours(ax: Any, exact: Exact) -> None:
    ax.contour(*exact.axes, exact.density.T, levels=_levels(exact.density), colors=style.INK, linewidths=0.7)


def _levels(density: Tensor) -> list[float]:
    """The densities above which lie the shares `MASSES` of the mass, ascending."""
    ordered = density.flatten().sort(descending=True).values
    shares = ordered.cumsum(0) / ordered.sum()
    return [float(ordered[int((shares < mass).sum())]) for mass in MASSES]


def noises(noise: Noise) -> Figure:
    """The variances of injected and gradient noise by iteration, and the rejections that are left out."""
    figure, axes = style.panels(1, 2, width=4.2, height=3.4)
    left, right = axes[0]
    left.loglog(noise.updates, noise.steps, color=style.INK, label="injected, e")
    for values, index, colour, dash in zip(noise.gradient, "₁₂", style.COLOURS, style.DASHES, strict=False):
        left.loglog(noise.updates, values, color=colour, linestyle=dash, label=f"gradient, θ{index}")
    style.label(left, x="update", y="variance a step (units of θ²)", title="The injected noise takes over")
    style.legend(left)
    right.semilogx(noise.steps, noise.rejection, "o-", color=style.BLUE, markersize=3, linewidth=1)
    right.set_ylim(0, 1)
    style.label(
        right, x="step size e (units of θ²)", y="mean probability of rejection", title="The test that is left out"
    )
    style.headline(figure, "SGLD with decaying steps: noise by iteration, and what a Metropolis test would reject")
    return figure


def traces(found: Mapping[str, Chains]) -> Figure:
    """theta_2 of each schedule's first chain: its sign is the mode."""
    figure, axes = style.panels(len(found), 1, width=7.6, height=1.7, sharex=True, sharey=True)
    for ax, (name, chains), colour in zip(axes[:, 0], found.items(), style.COLOURS, strict=False):
        ax.plot(chains.updates / 1e6, chains.chain(0)[1], ".", color=colour, markersize=1.2, rasterized=True)
        ax.axhline(0, color=style.GREY, linewidth=0.6)
        ax.set_ylim(*SHOWN[1])
        style.label(ax, y="θ₂", title=f"{name} steps")
    style.label(
        axes[-1, 0],
        x="updates (millions of gradients of one data point)",
        y="θ₂",
        title=axes[-1, 0].get_title(loc="left"),
    )
    last = max(float(chains.updates[-1]) for chains in found.values()) / 1e6
    axes[-1, 0].set_xlim(0, last)
    style.headline(figure, "Which mode? One chain of each schedule, equal numbers of gradients")
    return figure
