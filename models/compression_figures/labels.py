"""Labels of points that cover neither points nor each other."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from pyro_bdl.diagnostics.plots import style

_FONT_SIZE = 8
_POINT = 6.0  # half the width of what a marker covers, in points
_LINE = 1.5  # half the width of a line
_NEAR, *_FAR = (7.0, 13.0, 22.0, 33.0, 46.0, 60.0)  # from the edge of the point to that of the label, in points
_TURNS = [2 * math.pi * i / 16 for i in (0, 8, 4, 12, 2, 6, 10, 14, 1, 7, 9, 15, 3, 5, 11, 13)]  # sides come first
_DISTANCE_COST = 1.5  # square pixels a point of distance, so that of two free places the nearer one is taken

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]


def place_labels(
    figure: Figure, ax: Any, named: Sequence[tuple[float, float, str, str]], *, avoid: Sequence[Box] = ()
) -> None:
    """Write a label beside each point, the first ones nearest; with a thin line where it had to go further away.

    Each takes the place around its point that covers the least of what is there, near ones first. The axes must have
    their final limits.

    Args:
        figure, ax: where the points are.
        named: x, y, text and colour of each.
        avoid: x0, y0, x1, y1 of what should not be covered, lines among them.
    """
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    inside = np.array(ax.bbox.extents)
    centres = [ax.transData.transform((x, y)) for x, y, _, _ in named]
    taken = [text.get_window_extent().extents for text in ax.texts]
    taken += [_box(centre, (_POINT * scale, _POINT * scale)) for centre in centres]
    for x0, y0, x1, y1 in avoid:
        taken.append(Bbox(ax.transData.transform([(x0, y0), (x1, y1)])).padded(_LINE * scale).extents)
    for (at, value, text, colour), centre in zip(named, centres, strict=True):
        label = ax.annotate(text, (at, value), xytext=(0, 0), textcoords="offset points", ha="center", va="center",
                            fontsize=_FONT_SIZE, color=colour)  # fmt: skip
        label.set_in_layout(False)
        size = label.get_window_extent()
        half = np.array([size.width, size.height]) / 2
        places = [(gap, turn) for gap in (_NEAR, *_FAR) for turn in _TURNS]
        offsets = [np.array([math.cos(turn), math.sin(turn)]) * (half + gap * scale) for gap, turn in places]
        boxes = np.array([_box(centre + offset, half) for offset in offsets])
        leaders = [
            _leader(centre, box, scale) if gap > _FAR[0] else np.zeros((0, 4))
            for (gap, _), box in zip(places, boxes, strict=True)
        ]
        costs = _covered(boxes, np.array(taken), inside) + [_DISTANCE_COST * gap for gap, _ in places]
        costs += [float(_covered(leader[2:], np.array(taken), inside).sum()) for leader in leaders]
        best = int(costs.argmin())
        dx, dy = offsets[best] / scale
        label.set_position((dx, dy))
        label.set_multialignment("center" if abs(dx) < half[0] / scale else "left" if dx > 0 else "right")
        taken += [boxes[best], *leaders[best]]
        if len(leaders[best]):
            ends = ax.transData.inverted().transform([centre, _nearest(centre, boxes[best])])
            ax.plot(ends[:, 0], ends[:, 1], color=style.GREY, linewidth=0.6, zorder=1)


def _box(centre: Any, half: Any) -> Floats:
    """x0, y0, x1, y1."""
    return np.concatenate([np.subtract(centre, half), np.add(centre, half)])


def _nearest(centre: Any, box: Floats) -> Floats:
    return np.clip(centre, box[:2], box[2:])


def _leader(centre: Any, box: Floats, scale: float) -> Floats:
    """The line from a point to its label, in small pieces, (10, 4)."""
    steps = np.linspace(0, 1, 10, endpoint=False)[:, None]
    places = centre + steps * (_nearest(centre, box) - centre)
    return np.concatenate([places - scale, places + scale], 1)


def _covered(boxes: Floats, taken: Floats, inside: Floats) -> Floats:
    """The area that each box would share with others or have outside of the axes."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    return _shared(boxes, taken).sum(1) + area - _shared(boxes, inside[None])[:, 0]


def _shared(boxes: Floats, others: Floats) -> Floats:
    """The area of each intersection, (boxes, others)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.maximum(high - low, 0).prod(-1))
