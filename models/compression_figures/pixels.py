"""Which pixels a network reads."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from models.compression_figures.patterns import EMPTY_LINE, frame
from pyro_bdl.diagnostics.plots import style
from pyro_bdl.errors import InputError

Counts = NDArray[np.uint32]

_BLUES = LinearSegmentedColormap.from_list("pale to dark blue", ["#C6DCEC", style.BLUE, "#00253D"]).with_extremes(
    under=EMPTY_LINE
)


def pixel_counts(weight: NDArray[Any], image_shape: Sequence[int] | None) -> Counts | None:
    """How many weights of the first layer that are not zero read each pixel, over all channels.

    Args:
        weight: of the first layer.
        image_shape: (channels, height, width) or (height, width) of the images that it is handed; None for inputs that
            are no images.

    Returns:
        (height, width); None where the layer is no linear one on flattened images, so that it reads all of them.

    Raises:
        InputError: another number of axes of `image_shape`.

    >>> pixel_counts(np.array([[1.0, 0, 0, 2], [3, 0, 0, 0]]), (1, 2, 2)).tolist()
    [[2, 0], [0, 1]]
    """
    if image_shape is None:
        return None
    if len(image_shape) not in (2, 3):
        raise InputError("image_shape", expected="([channels,] height, width)", got=repr(tuple(image_shape)))
    if weight.ndim != 2 or weight.shape[1] != math.prod(image_shape):
        return None
    readers = (weight != 0).sum(0).reshape(-1, *image_shape[-2:])
    return readers.sum(0).astype(np.uint32)


def draw_pixels(ax: Any, counts: Counts, *, largest: int | None = None) -> Any:
    """The pixels into a panel, with a bar of colours; the image, whose data can be exchanged.

    Args:
        ax: the panel.
        counts: of `pixel_counts`.
        largest: where the colours end. Default: the largest count.
    """
    top = max(int(counts.max()) if largest is None else largest, 1)
    image = ax.imshow(counts, cmap=_BLUES, vmin=0.5, vmax=max(top, 1.5), interpolation="nearest")
    frame(ax)
    ax.set(xticks=[], yticks=[])
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.03, extend="min", extendfrac=0.08)
    bar.ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    bar.ax.tick_params(labelsize=7, colors=style.INK, length=2)
    bar.outline.set_visible(False)
    bar.set_label("weights that read the pixel\n(grey: none)", fontsize=8, color=style.INK)
    return image


def pixels_title(counts: Counts) -> str:
    """How many are read."""
    height, width = counts.shape
    return f"pixels of the {height} × {width} image\n{int((counts > 0).sum())} of {counts.size} are read"
