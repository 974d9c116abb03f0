"""Which weights of a layer are not zero, as an image of bounded size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pyro_bdl.diagnostics.plots import style
from pyro_bdl.errors import InputError

FULL = 255
EMPTY_LINE = "#DDDDDD"
_FAINTEST = 0.35  # of the colour, for a cell with one weight left among many
_FEW_INPUTS = 4
_MOST_TILES = 60

Cells = NDArray[np.uint8]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Pattern:
    """What is left of one layer.

    Attributes:
        name: the weight's parameter name.
        shape: of the weight, the outputs first.
        left: how many of its weights are not zero.
        cells: (rows, columns), the share of each cell's weights that are not zero in units of 1/255, rounded up.
        empty: (rows, columns), the share that stands in rows or columns (channels) without any weight left.
        extent: rows and columns in units of the axes.
        axes: what rows and columns are; empty strings where they are a plain arrangement of filters.
        tiles: whether lines at the integers part kernels from each other.
    """

    name: str
    shape: tuple[int, ...]
    left: int
    cells: Cells
    empty: Cells
    extent: tuple[int, int]
    axes: tuple[str, str]
    tiles: bool

    @property
    def total(self) -> int:
        """How many weights the layer has."""
        return math.prod(self.shape)

    @property
    def aggregated(self) -> bool:
        """Whether cells stand for more than one weight."""
        return self.cells.size < self.total


def pattern(name: str, weight: NDArray[Any], *, side: int, transposed: bool = False) -> Pattern:
    """A layer's pattern in at most `side` x `side` cells.

    A linear layer is the matrix of its weights. A convolution shows kernels, a row of them for each output channel;
    with few input channels its filters fill a rectangle instead. Where there are too many weights for the cells, a cell
    stands for a kernel, and then for a block of neighbours.

    Args:
        name: the parameter's.
        weight: (out, in) or (out, in, *kernel); not zero where there is a weight.
        side: cells along each axis at most.
        transposed: whether the first two axes are (in, out), as in transposed convolutions.

    Raises:
        InputError: fewer than two axes, or no elements.

    >>> w = np.zeros((3, 4)); w[0, :2] = 1.0
    >>> p = pattern("fc.weight", w, side=10)
    >>> p.left, p.total, (p.cells > 0).sum(), (p.empty > 0).sum()
    (2, 12, np.int64(2), np.int64(10))
    >>> pattern("fc.weight", np.ones((300, 784)), side=100).cells.shape
    (100, 100)
    """
    if weight.ndim < 2 or weight.size == 0:
        raise InputError(f"the weight {name}", expected="shape (out, in, ...)", got=f"shape {weight.shape}")
    there: Bools = np.asarray(weight != 0)
    if transposed:
        there = there.swapaxes(0, 1)
    outputs, inputs = there.shape[:2]
    kernels = there.reshape(outputs, inputs, math.prod(there.shape[2:-1]), there.shape[-1] if there.ndim > 2 else 1)
    some: Bools = _as_matrix(kernels) > 0
    alive: Bools = np.logical_and.outer(some.any(1), some.any(0))
    height, width = kernels.shape[2:]
    arrange: Callable[[NDArray[Any]], NDArray[Any]]
    if there.ndim == 2:
        arrange, extent, axes = _as_matrix, (outputs, inputs), ("output unit", "input unit")
    elif inputs <= _FEW_INPUTS and (grid := _grid(outputs, inputs))[0] * height <= side >= grid[1] * inputs * width:
        arrange, extent, axes = partial(_filters, grid=grid), (grid[0], grid[1] * inputs), ("", "")
    else:
        fits = outputs * height <= side and inputs * width <= side
        arrange = partial(_filters, grid=(outputs, 1)) if fits else _as_matrix
        extent, axes = (outputs, inputs), ("output channel", "input channel")
    cells, empty = (
        _cells(arrange(image), side) for image in (kernels, np.broadcast_to(~alive[:, :, None, None], kernels.shape))
    )
    tiles = there.ndim > 2 and max(extent) <= _MOST_TILES and cells.size == there.size
    return Pattern(name, there.shape, int(there.sum()), cells, empty, extent, axes, tiles)


def colours(drawn: Pattern) -> NDArray[np.float32]:
    """(rows, columns, 3): white for zeros, grey where a whole row or column is zero, the bluer the more is left."""
    white, grey, blue = (np.array(to_rgb(c), np.float32) for c in ("white", EMPTY_LINE, style.BLUE))
    share = drawn.cells[..., None].astype(np.float32) / FULL
    empty = drawn.empty[..., None].astype(np.float32) / FULL
    strength = np.where(share > 0, _FAINTEST + (1 - _FAINTEST) * np.sqrt(share), 0)
    return (white * (1 - empty) + grey * empty) * (1 - strength) + blue * strength


def draw(ax: Any, drawn: Pattern) -> Any:
    """A pattern into a panel; the image, whose data can be exchanged for another pattern of the layer."""
    rows, columns = drawn.extent
    image = ax.imshow(colours(drawn), extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")
    frame(ax)
    if drawn.tiles:
        width = min(0.5, 6 / max(rows, columns))
        ax.vlines(np.arange(1, columns), 0, rows, color=style.GREY, linewidth=width)
        ax.hlines(np.arange(1, rows), 0, columns, color=style.GREY, linewidth=width)
    ax.set_ylabel(drawn.axes[0], fontsize=8, color=style.INK)
    ax.set_xlabel(drawn.axes[1], fontsize=8, color=style.INK)
    if not drawn.axes[0]:
        ax.set(xticks=[], yticks=[])
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return image


def frame(ax: Any) -> None:
    """The panel of an image: a thin box, no grid."""
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set(visible=True, color=style.GREY, linewidth=0.6)


def keys(drawn: Sequence[Pattern]) -> list[Artist]:
    """What the colours mean."""
    darker = " (darker: more of those in the cell)" if any(p.aggregated for p in drawn) else ""
    return [
        Patch(facecolor=style.BLUE, label=f"weight not 0{darker}"),
        Patch(facecolor="white", edgecolor=style.GREY, linewidth=0.6, label="weight 0"),
        Patch(
            facecolor=EMPTY_LINE,
            edgecolor=style.GREY,
            linewidth=0.6,
            label="weight 0 with its whole row or column: the unit is gone",
        ),
    ]


def size_of(drawn: Pattern) -> str:
    """The layer's size in words."""
    first, second, *kernel = drawn.shape
    if not kernel:
        return f"{second} inputs, {first} outputs"
    return f"{first} filters of {' × '.join(str(k) for k in (second, *kernel))}"


def _grid(outputs: int, inputs: int) -> tuple[int, int]:
    """Rows and columns of filters, as nearly a square as divides them."""
    divisors = [n for n in range(1, outputs + 1) if outputs % n == 0]
    rows = min(divisors, key=lambda n: (round(abs(math.log(n * n / (outputs * inputs))), 6), n))
    return rows, outputs // rows


def _as_matrix(kernels: NDArray[Any]) -> NDArray[Any]:
    """The share of each kernel, (out, in)."""
    return np.asarray(kernels.mean((2, 3)))


def _filters(kernels: NDArray[Any], grid: tuple[int, int]) -> NDArray[Any]:
    """Kernels (out, in, height, width) as one image: filters in rows and columns, the inputs of each side by side."""
    rows, columns = grid
    _, inputs, height, width = kernels.shape
    split = kernels.reshape(rows, columns, inputs, height, width)
    return split.transpose(0, 3, 1, 2, 4).reshape(rows * height, columns * inputs * width)


def _cells(image: NDArray[Any], side: int) -> Cells:
    """Means of blocks, at most `side` along each axis, in 255 steps rounded up so that one weight still shows."""
    total: NDArray[Any] = image.astype(np.float64)
    for axis in (0, 1):
        size = total.shape[axis]
        starts = np.arange(min(size, side)) * size // min(size, side)
        widths = np.diff(np.r_[starts, size])
        total = np.add.reduceat(total, starts, axis) / (widths[:, None] if axis == 0 else widths)
    return np.ceil(np.minimum(total, 1) * FULL - 1e-6).astype(np.uint8)
