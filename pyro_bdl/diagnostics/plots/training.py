"""How a fit went, and what it did to the nodes of a network."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_bdl.diagnostics.arrays import as_floats
from pyro_bdl.diagnostics.plots.style import (
    BLUE,
    DASHES,
    GREY,
    INK,
    VERMILION,
    colours,
    headline,
    label,
    legend,
    panels,
)
from pyro_bdl.errors import InputError


def loss_curve(
    losses: Any,
    *,
    unit: str = "negative ELBO (nats per data point)",
    steps_per_epoch: float = 1,
    title: str = "Loss during training",
) -> Figure:
    """Losses over epochs, with a running mean over them where they are noisy.

    Args:
        losses: one loss a step or epoch, (T,); or several such by name.
        unit: what is measured, and in what unit.
        steps_per_epoch: how many of the losses make an epoch; 1 if there is one an epoch.
        title: the headline.

    Raises:
        InputError: no losses, or losses that are not finite.
    """
    curves = losses if isinstance(losses, Mapping) else {"": losses}
    if not curves:
        raise InputError("losses", expected="at least one curve", got="none")
    if steps_per_epoch <= 0:
        raise InputError("steps_per_epoch", expected="a positive number", got=repr(steps_per_epoch))
    figure, axes = panels(1, 1, width=6, height=3.5)
    ax = axes[0, 0]
    everything = []
    for (name, values), colour, dash in zip(curves.items(), colours(len(curves)), DASHES * len(curves), strict=False):
        y = as_floats("losses", values, shape="(T,)", ndim=1)
        x = np.arange(1, len(y) + 1) / steps_per_epoch
        window = max(1, len(y) // 50)
        noisy = window > 1 and len(y) > 200
        ax.plot(x, y, color=colour, alpha=0.25 if noisy else 1.0, linewidth=0.7 if noisy else 1.6,
                linestyle="-" if noisy else dash, label=None if noisy else name)  # fmt: skip
        if noisy:
            smooth = np.convolve(y, np.full(window, 1 / window), mode="valid")
            ax.plot(x[window - 1 :], smooth, color=colour, linewidth=1.6, linestyle=dash,
                    label=f"{name} (mean of {window} steps)".strip())  # fmt: skip
        everything.append(y)
    _focus(ax, everything)
    label(ax, x="epoch", y=unit)
    if any(curves) or ax.get_legend_handles_labels()[1]:
        legend(ax)
    headline(figure, title)
    return figure


def node_scales(
    layers: Mapping[str, Any],
    *,
    unit: str = "scale of the node",
    threshold: float | None = None,
    title: str = "Node scales by layer",
) -> Figure:
    """The scales of each layer's nodes in descending order, on a logarithmic axis.

    Args:
        layers: by layer, the scale (or signal-to-noise ratio) of each node, positive, (nodes,).
        unit: what is drawn.
        threshold: nodes below it count as pruned; None for no line.
        title: the headline.

    Raises:
        InputError: no layers, or numbers that are not positive.
    """
    if not layers:
        raise InputError("layers", expected="at least one layer", got="none")
    values = {name: as_floats(f"layers[{name!r}]", v, shape="(nodes,)", ndim=1) for name, v in layers.items()}
    for name, v in values.items():
        if v.min() <= 0:
            raise InputError(f"layers[{name!r}]", expected="positive numbers", got=f"{v.min():.4g}")
    if threshold is not None and not threshold > 0:
        raise InputError("threshold", expected="a positive number or None", got=repr(threshold))
    columns = min(len(values), 4)
    rows = -(-len(values) // columns)
    figure, axes = panels(rows, columns, width=2.9 if columns > 1 else 5, height=2.9, sharey=True)
    for ax in axes.flat[len(values) :]:
        ax.remove()
    for ax, (name, v) in zip(axes.flat, values.items(), strict=False):
        ordered, nodes = np.sort(v)[::-1], np.arange(1, len(v) + 1)
        kept = len(v) if threshold is None else int((v >= threshold).sum())
        size = float(np.clip(600 / len(v), 3, 30))
        ax.scatter(nodes[:kept], ordered[:kept], s=size, color=BLUE, label="kept" if kept < len(v) else None)
        ax.scatter(nodes[kept:], ordered[kept:], s=size, color=VERMILION, marker="x", linewidths=0.8, label="pruned")
        ax.set_yscale("log")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if threshold is not None:
            ax.axhline(threshold, color=INK, linewidth=0.9, linestyle="--")
        detail = f"{len(v)} nodes" if threshold is None else f"{kept} of {len(v)} nodes kept"
        label(ax, x="node, in order of scale", title=f"{name}\n{detail}")
    for ax in axes[:, 0]:
        ax.set_ylabel(unit, fontsize=9, color=INK)
    if threshold is not None:
        legend(axes[0, 0], loc="best", markerscale=1.5)
    headline(figure, title)
    return figure


def _focus(ax: Any, curves: list[Any]) -> None:
    """Where a first steep fall would squeeze the rest (a range 5 times that of the lower 98%), show the rest."""
    values = np.concatenate(curves)
    low, high = values.min(), np.quantile(values, 0.98)
    if high > low and values.max() - low > 5 * (high - low):
        ax.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))
        ax.annotate("earlier losses are above", (0.02, 0.97), xycoords="axes fraction", va="top", fontsize=7.5,
                    color=GREY)  # fmt: skip
