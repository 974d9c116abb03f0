"""Error against bytes: ours beside what others report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from models.compression_figures.labels import place_labels
from models.compression_figures.published import PUBLISHED, Published
from models.published import NAMES, ORIGINAL_BYTES, PLAIN_ERROR
from pyro_bdl.diagnostics.plots import style
from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class Size:
    """A compressed network of ours.

    Attributes:
        name: as the figure calls it.
        bytes: of its file.
        error: on the test set, in percent.
        spread: standard deviation of the error over seeds, in percentage points; 0 where there is one run.
    """

    name: str
    bytes: float
    error: float
    spread: float = 0.0


def error_against_bytes(
    ours: Sequence[Size],
    *,
    net: str | None = None,
    published: Sequence[Published] | None = None,
    plain: Size | None = None,
    title: str = "",
) -> Figure:
    """Test error against the size of the file, on a logarithmic axis; better is further down and to the left.

    Args:
        ours: compressed networks.
        net: which of `PUBLISHED` to show beside them, a name in `ORIGINAL_BYTES`; None for none.
        published: other rows instead.
        plain: the plain network, whose error is drawn as a line. Default: that of `net`.
        title: the headline. Default: which network it is.

    Raises:
        InputError: an unknown `net`, nothing to show, sizes that are not positive or errors outside [0, 100].

    >>> figure = error_against_bytes([Size("group horseshoe", 2_100, 0.95)], net="lenet-5-caffe")
    >>> figure.axes[0].get_xscale()
    'log'
    """
    if net is not None and net not in ORIGINAL_BYTES:
        raise InputError("net", expected=f"a name among {list(ORIGINAL_BYTES)}", got=repr(net))
    rows = [row for row in PUBLISHED if row.net == net] if published is None else list(published)
    if plain is None and net is not None:
        plain = Size("plain network", ORIGINAL_BYTES[net], PLAIN_ERROR[net])
    if not ours and not rows:
        raise InputError("ours", expected="at least one network, here or published", got="none")
    points: list[Size | Published] = [*ours, *rows]
    for point in [*points, plain] if plain else points:
        _check(point)
    figure, axes = style.panels(1, 1, width=7.2, height=4.6)
    ax = axes[0, 0]
    if plain is not None:
        size = f"{_bytes(plain.bytes)}, {plain.error:g}%"
        ax.axhline(plain.error, color=style.GREY, linewidth=0.9, linestyle="--", label=f"{plain.name} ({size})")
    if rows:
        ax.plot([p.bytes for p in rows], [p.error for p in rows], "s", color="white", markeredgecolor=style.INK,
                markersize=6, label="published")  # fmt: skip
    if ours:
        ax.errorbar(
            [p.bytes for p in ours], [p.error for p in ours], [p.spread for p in ours], fmt="o", color=style.VERMILION,
            markersize=8, linewidth=1.2, capsize=0, label="this package",
        )  # fmt: skip
    alone = [plain] if plain and not rows else []
    for point in alone:
        ax.plot(point.bytes, point.error, "D", color=style.GREY, markersize=6)
    _axes(ax, [*points, *alone], plain)
    style.label(ax, x="size of the compressed network (bytes, logarithmic)", y="test error (%)")
    style.legend_below(figure, ax, columns=3)
    style.headline(figure, title or ("Error against bytes" + (f": {NAMES[net]}" if net else "")))
    named = [(p.bytes, p.error, f"{p.name}\n{_bytes(p.bytes)}, {p.error:.2f}%", style.VERMILION) for p in ours]
    named += [(row.bytes, row.error, f"{row.method} {_bytes(row.bytes)}", style.INK) for row in rows]
    named += [(p.bytes, p.error, f"{p.name}\n{_bytes(p.bytes)}, {p.error:.2f}%", style.GREY) for p in alone]
    bars = [(p.bytes, p.error - p.spread, p.bytes, p.error + p.spread) for p in ours]
    line = [(*ax.get_xlim(), plain.error)] if plain else []
    place_labels(figure, ax, named, avoid=bars + [(low, y, high, y) for low, high, y in line])
    return figure


def _axes(ax: Any, points: Sequence[Size | Published], plain: Size | None) -> None:
    """Room around the points for their labels; ticks in bytes and kB."""
    sizes, errors = [p.bytes for p in points], [p.error for p in points]
    errors += [plain.error] if plain else []
    spread = max((p.spread for p in points if isinstance(p, Size)), default=0.0)
    low, high = min(errors) - spread, max(errors) + spread
    room = max(0.15 * (high - low), 0.05 * high, 0.01)
    ax.set_xscale("log")
    ratio = max(sizes) / min(sizes)
    factor = max(ratio**0.12, 1.8, math.sqrt(10 / ratio))  # a decade at least, so that there are ticks
    ax.set_xlim(min(sizes) / factor, max(sizes) * factor)
    ax.set_ylim(max(low - room, 0), high + room)
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=20))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _bytes(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.annotate(
        "better: smaller and more accurate", xy=(0.012, 0.02), xytext=(0.075, 0.085), xycoords="axes fraction",
        fontsize=8,
        color=style.GREY, arrowprops={"arrowstyle": "->", "color": style.GREY, "linewidth": 0.9},
    )  # fmt: skip


def _bytes(size: float) -> str:
    """A size in three digits: 850 B, 2.24 kB, 38.7 kB, 1.07 MB."""
    for unit, factor in (("B", 1), ("kB", 1_000), ("MB", 1_000_000)):
        if size < 999.5 * factor or unit == "MB":
            return f"{size / factor:.3g} {unit}"
    raise AssertionError


def _check(point: Size | Published) -> None:
    name = point.name if isinstance(point, Size) else point.method
    if not (math.isfinite(point.bytes) and point.bytes > 0):
        raise InputError(f"the bytes of {name}", expected="a positive number", got=repr(point.bytes))
    if not 0 <= point.error <= 100:
        raise InputError(f"the error of {name}", expected="a percentage in [0, 100]", got=repr(point.error))
    if isinstance(point, Size) and not 0 <= point.spread <= 100:
        raise InputError(f"the spread of {name}", expected="percentage points in [0, 100]", got=repr(point.spread))
