"""A network that thins out, as an animation."""

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from models.compression_figures.patterns import colours, draw, keys
from models.compression_figures.pixels import draw_pixels
from models.compression_figures.recorder import Recorder, Snapshot
from models.compression_figures.sparsity import percent, share
from pyro_bdl.diagnostics.plots import style
from pyro_bdl.errors import InputError
from pyro_bdl.files import replace_file

_COLUMNS = 4
_DPI = 100
_HOLD = 2.0  # seconds that the last frame stays longer
_FASTEST = 10.0  # frames a second


def thinning_animation(
    recorded: Recorder | Sequence[Snapshot],
    path: str | os.PathLike[str],
    *,
    seconds: float = 10.0,
    max_bytes: int = 2_000_000,
    title: str = "A network thins out during training",
) -> int:
    """Write a GIF: each layer's weights over the epochs, with weights left, units and accuracy; its length in bytes.

    Args:
        recorded: what a `Recorder` kept.
        path: the file; all of it is written or nothing.
        seconds: how long it runs, the last frame apart, which stays for two more; at most 10 frames a second.
        max_bytes: of the file; where it would be longer, frames are left out evenly.
        title: the headline.

    Raises:
        InputError: fewer than two snapshots, snapshots of different networks, options out of range, or a `max_bytes`
            that two frames do not fit in.
        OSError: the file cannot be written.
    """
    snapshots = list(recorded.snapshots if isinstance(recorded, Recorder) else recorded)
    _check(snapshots, seconds, max_bytes)
    frames = _frames(snapshots, title)
    while len(content := _encoded(frames, seconds)) > max_bytes:
        if len(frames) == 2:
            raise InputError("max_bytes", expected=f"at least {len(content)}, for two frames", got=str(max_bytes))
        fewer = max(2, min(len(frames) - 1, int(0.95 * len(frames) * max_bytes / len(content))))
        frames = [frames[round(i * (len(frames) - 1) / (fewer - 1))] for i in range(fewer)]
    replace_file(path, [content])
    return len(content)


def thinning_frame(snapshots: Sequence[Snapshot], index: int, *, title: str = "") -> Figure:
    """One frame of the animation, as a figure."""
    film = _Film.of(snapshots, title)
    film.show(index)
    return film.figure


def _frames(snapshots: Sequence[Snapshot], title: str) -> list[Image.Image]:
    """What stays the same is drawn once; text and ticks would cost ten times what changes does."""
    film = _Film.of(snapshots, title)
    canvas = FigureCanvasAgg(film.figure)
    moving = film.moving()
    for artist in moving:
        artist.set_animated(True)  # left out of the next line
    canvas.draw()
    still = canvas.copy_from_bbox(film.figure.bbox)
    frames = []
    for index in range(len(snapshots)):
        film.show(index)
        canvas.restore_region(still)
        for artist in moving:
            film.figure.draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return frames


def _encoded(frames: Sequence[Image.Image], seconds: float) -> bytes:
    """A GIF that begins anew after its last frame."""
    each = max(1000 * seconds / len(frames), 1000 / _FASTEST)
    durations = [round(each)] * (len(frames) - 1) + [round(each + 1000 * _HOLD)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return buffer.getvalue()


@dataclass
class _Curve:
    """A number over the epochs: pale as a whole, dark as far as it has come."""

    epochs: Sequence[int]
    values: Sequence[float]
    past: Any
    now: Any

    @classmethod
    def of(cls, ax: Any, epochs: Sequence[int], values: Sequence[float], colour: str) -> "_Curve":
        ax.plot(epochs, values, color=colour, linewidth=1.0, alpha=0.3)
        (past,) = ax.plot([], [], color=colour, linewidth=1.8)
        (now,) = ax.plot([], [], "o", color=colour, markersize=5)
        ax.set_xlim(min(epochs), max(epochs))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return cls(epochs, values, past, now)

    def show(self, index: int) -> None:
        self.past.set_data(self.epochs[: index + 1], self.values[: index + 1])
        self.now.set_data([self.epochs[index]], [self.values[index]])


@dataclass
class _Film:
    """The figure of which each frame is a state; `pixels` and `layers` are panels with their image and heading."""

    figure: Figure
    title: str
    snapshots: Sequence[Snapshot]
    caption: Any
    pixels: tuple[Any, Any, Any] | None
    layers: list[tuple[Any, Any, Any]]
    curves: list[_Curve]

    @classmethod
    def of(cls, snapshots: Sequence[Snapshot], title: str) -> "_Film":
        first = snapshots[0]
        panels = len(first.patterns) + (first.pixels is not None)
        columns = min(panels, _COLUMNS)
        rows = -(-panels // columns)
        heights = 2.3 * rows, 1.55
        figure = Figure(figsize=(max(2.3 * columns, 6.4), 1.1 + sum(heights)), dpi=_DPI, layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=heights)
        upper, lower = parts
        grid = upper.subplots(rows, columns, squeeze=False)
        for ax in grid.flat[panels:]:
            ax.remove()
        places = list(grid.flat[:panels])
        for ax in places:
            style.tidy(ax)
        pixels = None
        if first.pixels is not None:
            ax = places.pop(0)
            largest = max(int(s.pixels.max()) for s in snapshots if s.pixels is not None)
            pixels = (ax, draw_pixels(ax, first.pixels, largest=largest), _heading(ax))
        layers = [(ax, draw(ax, drawn), _heading(ax)) for ax, drawn in zip(places, first.patterns, strict=True)]
        curves = _timeline(lower, snapshots)
        style.legend_below(figure, layers[0][0], columns=3, handles=keys(first.patterns))
        caption = figure.suptitle("", fontsize=10.5, color=style.INK, x=0.01, ha="left")
        film = cls(figure, title, snapshots, caption, pixels, layers, curves)
        film.show(0)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the panels keep their places from frame to frame
        return film

    def show(self, index: int) -> None:
        snapshot = self.snapshots[index]
        rate = f" ({snapshot.total / snapshot.left:.3g} times fewer)" if snapshot.left else ""
        left = f"{share(snapshot.left, snapshot.total)} of the weights left{rate}"
        accuracy = "" if snapshot.accuracy is None else f", validation accuracy {100 * snapshot.accuracy:.1f}%"
        units = f"units left: {snapshot.architecture} (of {snapshot.original})"
        units += f"; left out is what has log α > {snapshot.threshold:g}"
        told = f"epoch {snapshot.epoch} of {self.snapshots[-1].epoch}: {left}{accuracy}\n{units}"
        self.caption.set_text(f"{self.title}\n{told}" if self.title else told)
        if self.pixels is not None and snapshot.pixels is not None:
            _, image, heading = self.pixels
            image.set_data(snapshot.pixels)
            read = int((snapshot.pixels > 0).sum())
            heading.set_text(f"pixels that are read\n{read} of {snapshot.pixels.size}")
        for (_, image, heading), drawn in zip(self.layers, snapshot.patterns, strict=True):
            image.set_data(colours(drawn))
            name = drawn.name.removesuffix(".weight")
            heading.set_text(f"{name}\n{percent(drawn)} of {drawn.total:,} weights")
        for curve in self.curves:
            curve.show(index)

    def moving(self) -> list[Any]:
        """What changes from frame to frame, and what lies above it, from back to front."""
        pictures = [*([self.pixels] if self.pixels else []), *self.layers]
        above = [part for ax, *_ in pictures for part in (*ax.collections, *ax.spines.values())]
        lines = [line for curve in self.curves for line in (curve.past, curve.now)]
        return [self.caption, *(x for _, *pair in pictures for x in pair), *above, *lines]


def _heading(ax: Any) -> Any:
    return ax.set_title("\n", fontsize=8.5, color=style.INK, loc="left")


def _timeline(figure: Any, snapshots: Sequence[Snapshot]) -> list[_Curve]:
    """Weights left, and accuracy, over the epochs."""
    accuracies = [s.accuracy for s in snapshots if s.accuracy is not None]
    both = len(accuracies) == len(snapshots)
    left, *rest = figure.subplots(1, 1 + both, squeeze=False)[0]
    epochs = [s.epoch for s in snapshots]
    least = 50 / snapshots[0].total  # where nothing is left, on a logarithmic axis
    shares = [max(100 * s.left / s.total, least) for s in snapshots]
    curves = [_Curve.of(left, epochs, shares, style.BLUE)]
    logarithmic = max(shares) > 5 * min(shares)
    if logarithmic:
        left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=6) if logarithmic else MaxNLocator(4))
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    left.yaxis.set_minor_formatter(NullFormatter())
    panels = [(left, "weights left" + ", logarithmic" * logarithmic)]
    if both:
        right = rest[0]
        curves.append(_Curve.of(right, epochs, [100 * value for value in accuracies], style.VERMILION))
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        right.yaxis.set_major_locator(MaxNLocator(4))
        panels.append((right, "validation accuracy"))
    for ax, name in panels:
        style.tidy(ax)
        style.label(ax, x="epoch", title=name)
    return curves


def _check(snapshots: Sequence[Snapshot], seconds: float, max_bytes: int) -> None:
    if len(snapshots) < 2:
        raise InputError(
            "recorded", expected="at least two snapshots", got=str(len(snapshots)),
            remedy="Hand the recorder to fit_svi as a callback",
        )  # fmt: skip
    if any([(p.name, p.shape) for p in s.patterns] != [(p.name, p.shape) for p in snapshots[0].patterns]
           for s in snapshots) or not snapshots[0].patterns:  # fmt: skip
        raise InputError("recorded", expected="snapshots of one network with layers", got="others")
    if not 0 < seconds < math.inf:
        raise InputError("seconds", expected="a positive number", got=repr(seconds))
    if not isinstance(max_bytes, int) or max_bytes < 1:
        raise InputError("max_bytes", expected="a positive integer", got=repr(max_bytes))
