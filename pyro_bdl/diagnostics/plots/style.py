"""What the figures share: colours, sizes, and axes without clutter."""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Okabe & Ito's colours, which people with any kind of colour vision tell apart.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
DASHES = ("-", "--", "-.", ":")
INK, GREY, PALE, PALE_BLUE = "#222222", "#767676", "#D9D9D9", "#A6CEE3"
DPI = 150


def panels(rows: int, columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure of `rows` x `columns` axes, each `width` x `height` inches."""
    figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        tidy(ax)
    return figure, axes


def tidy(ax: Axes) -> None:
    """No frame above and to the right, small ticks, a faint grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(which="both", labelsize=8, colors=INK)
    ax.tick_params(which="major", length=3)
    ax.grid(color=PALE, linewidth=0.5)
    ax.set_axisbelow(True)


def label(ax: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Names of the axes and of the panel, in the sizes of all figures."""
    ax.set_xlabel(x, fontsize=9, color=INK)
    ax.set_ylabel(y, fontsize=9, color=INK)
    if title:
        ax.set_title(title, fontsize=9.5, color=INK, loc="left")


def headline(figure: Figure, text: str) -> None:
    """The figure's title: what is to be seen."""
    if text:
        figure.suptitle(text, fontsize=11, color=INK, x=0.01, ha="left")


def legend(ax: Axes, **options: Any) -> None:
    """A legend without a frame."""
    ax.legend(fontsize=8, frameon=False, labelcolor=INK, **options)


def legend_below(figure: Figure, ax: Axes, *, columns: int, handles: Sequence[Artist] = ()) -> None:
    """The legend of one panel (or of `handles`), for all of them, below the figure, where it covers nothing."""
    handles = handles or ax.get_legend_handles_labels()[0]
    labels = [str(handle.get_label()) for handle in handles]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False, labelcolor=INK)


def colours(count: int) -> list[str]:
    """That many colours, the first ones apart."""
    return list(islice(cycle(COLOURS), count))
