"""How a layer's weights are spread before and after."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from models.compression_figures.full_size import layers
from pyro_bdl.compression.compressed import CompressedNetwork
from pyro_bdl.diagnostics.plots import style
from pyro_bdl.errors import InputError

_COLUMNS = 4
_HALF = 0.5  # where a count of 1 still has a height on a logarithmic axis
_MOST_STEMS = 500  # more are a solid block


def weight_histograms(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    quantised: CompressedNetwork | Mapping[str, Any] | None = None,
    *,
    before_name: str = "before: the plain network",
    bins: int = 61,
    title: str = "The weights of each layer before and after compression",
) -> Figure:
    """Two histograms a layer, one above the other, on a common axis.

    Above the weights before; below the posterior means, and as stems how many weights have each of the values that the
    file can hold, weights that were cut out with their unit counted as 0; for a draw, whose values are no grid, a
    third histogram as an outline.

    Args:
        before: by parameter name, the plain network's weights (or those of the first epoch), any shape; entries of
            fewer than two axes, such as biases, are left out, here and below.
        after: by parameter name, posterior means. Their layers are drawn.
        quantised: what `compress` returned, or values by parameter name; None for no stems.
        before_name: what the upper histograms show.
        bins: of each histogram; odd, so that 0 is in the middle of one. Default 61: enough to tell a spike from a hump.
        title: the headline.

    Raises:
        InputError: no layer, one that the others lack, or numbers that are not finite.

    >>> rng = np.random.default_rng(0)
    >>> w = rng.normal(size=(30, 20))
    >>> figure = weight_histograms({"fc1.weight": w}, {"fc1.weight": w}, {"fc1.weight": w.round()})
    >>> len(figure.axes)
    2
    """
    if not isinstance(bins, int) or bins < 3 or bins % 2 == 0:
        raise InputError("bins", expected="an odd integer of at least 3", got=repr(bins))
    means, plain = layers("after", after), layers("before", before)
    values = None if quantised is None else layers("quantised", quantised)
    for what, given in (("before", plain), ("quantised", values)):
        if given is not None and (missing := [name for name in means if name not in given]):
            raise InputError(what, expected=f"weights of {missing}", got=f"names {list(given)}")
    columns = min(len(means), _COLUMNS)
    rows = -(-len(means) // columns)
    figure, axes = style.panels(2 * rows, columns, width=3.3 if columns > 1 else 5.5, height=2.0)
    pairs = axes.reshape(rows, 2, columns).transpose(0, 2, 1).reshape(-1, 2)
    for ax in pairs[len(means) :].flat:
        ax.remove()
    for i, ((upper, lower), (name, mean)) in enumerate(zip(pairs, means.items(), strict=False)):
        levels = None if values is None else values[name]
        reach = max(np.abs(array).max() for array in (plain[name], mean, levels) if array is not None) or 1.0
        edges = np.linspace(-1.04 * reach, 1.04 * reach, bins + 1)
        _filled(upper, plain[name], edges, style.GREY, before_name)
        _filled(lower, mean, edges, style.SKY, "after: posterior means")
        if levels is not None:
            _stems(lower, levels, edges)
        style.label(upper, title=f"{name.removesuffix('.weight')}: {mean.size:,} weights")
        style.label(lower, x="value of the weight")
        top = max(upper.get_ylim()[1], lower.get_ylim()[1])
        for ax in (upper, lower):
            _count_axis(ax, top)
            ax.set_xlim(edges[0], edges[-1])
            if i % columns == 0:
                ax.set_ylabel("number of weights", fontsize=9, color=style.INK)
        upper.tick_params(labelbottom=False)
    handles = [*pairs[0, 0].get_legend_handles_labels()[0], *pairs[0, 1].get_legend_handles_labels()[0]]
    style.legend_below(figure, pairs[0, 0], columns=3 if columns > 1 else 1, handles=handles)
    style.headline(figure, title)
    return figure


def _filled(ax: Any, values: NDArray[Any], edges: NDArray[Any], colour: str, label: str) -> None:
    counts = np.histogram(values, edges)[0]
    ax.stairs(np.maximum(counts, _HALF), edges, baseline=_HALF, fill=True, color=colour, alpha=0.75, label=label)


def _stems(ax: Any, values: NDArray[Any], edges: NDArray[Any]) -> None:
    """One stem for each value, as high as there are weights that have it; an outline where they are no grid."""
    levels, counts = np.unique(values, return_counts=True)
    label = "after: the values in the file"
    if len(levels) > _MOST_STEMS:
        counts = np.histogram(values, edges)[0]
        ax.stairs(np.maximum(counts, _HALF), edges, baseline=_HALF, color=style.VERMILION, linewidth=1.2, label=label)
    else:
        few = len(levels) <= 60
        ax.vlines(levels, _HALF, counts, color=style.VERMILION, linewidth=1.0 if few else 0.5, label=label)
        ax.plot(levels, counts, "o", color=style.VERMILION, markersize=2.6 if few else 1.2)
    zero = float((values == 0).mean())
    told = "no weight is 0" if zero == 0 else f"{100 * zero:.1f}% are 0"
    used = f"{len(levels)} different values" if len(levels) > 1 else "1 value"
    ax.annotate(f"{told}\n{used}", (0.98, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=8,
                color=style.VERMILION)  # fmt: skip


def _count_axis(ax: Any, top: float) -> None:
    ax.set_yscale("log")
    ax.set_ylim(_HALF, 4 * top)
    ax.yaxis.set_major_locator(LogLocator(base=10, numticks=5))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(count: float) -> str:
    """1, 10, 100, 1k, 10k, 100k, 1M, ..."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.0f}{unit}"
    return f"{count:.0f}"
