"""What is left of each layer."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from models.compression_figures.full_size import layers
from models.compression_figures.patterns import Pattern, draw, keys, pattern, size_of
from models.compression_figures.pixels import draw_pixels, pixel_counts, pixels_title
from pyro_bdl.compression.compressed import CompressedNetwork
from pyro_bdl.diagnostics.plots import style
from pyro_bdl.errors import InputError

_COLUMNS = 4
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def sparsity_patterns(
    weights: CompressedNetwork | Mapping[str, Any],
    *,
    image_shape: Sequence[int] | None = None,
    side: int = 300,
    title: str = "What is left of each layer",
) -> Figure:
    """A panel a layer: which of its weights are not zero; and the pixels that the first layer reads.

    Args:
        weights: what `compress` returned; or weights (or masks) by parameter name, in the order of computation, entries
            of fewer than two axes being left out.
        image_shape: ([channels,] height, width) of the inputs, for the picture of the pixels that a linear first layer
            reads. Default: that of the compressed network's example, if it is an image.
        side: cells of a pattern along each axis at most; larger layers show the share of weights left by blocks (or by
            kernel). Default 300, about what a panel has dots.
        title: the headline.

    Raises:
        InputError: no layer, numbers that are not finite, an `image_shape` of another rank.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> weights = {"fc1.weight": rng.normal(size=(20, 64)), "fc2.weight": rng.normal(size=(10, 20))}
    >>> weights["fc1.weight"][:, ::2] = 0.0
    >>> figure = sparsity_patterns(weights, image_shape=(8, 8))
    >>> [ax.get_title(loc="left") for ax in figure.axes[:2]]
    ['pixels of the 8 × 8 image\\n32 of 64 are read', 'fc1: 64 inputs, 20 outputs\\n50% of 1,280 weights left']
    """
    check_side(side)
    patterns = patterns_of(weights, side=side)
    arrays = layers("weights", weights)
    counts = pixel_counts(next(iter(arrays.values())), example_image(weights) if image_shape is None else image_shape)
    panels = len(patterns) + (counts is not None)
    columns = min(panels, _COLUMNS)
    rows = -(-panels // columns)
    figure, axes = style.panels(rows, columns, width=3.2 if columns > 1 else 4.6, height=3.0)
    for ax in axes.flat[panels:]:
        ax.remove()
    places = list(axes.flat[:panels])
    if counts is not None:
        ax = places.pop(0)
        draw_pixels(ax, counts)
        ax.set_title(pixels_title(counts), fontsize=9.5, color=style.INK, loc="left")
    for ax, drawn in zip(places, patterns, strict=True):
        draw(ax, drawn)
        name = drawn.name.removesuffix(".weight")
        heading = f"{name}: {size_of(drawn)}\n{percent(drawn)} of {drawn.total:,} weights left"
        ax.set_title(heading, fontsize=9.5, color=style.INK, loc="left")
    style.legend_below(figure, places[0], columns=3 if columns > 2 else 1, handles=keys(patterns))
    style.headline(figure, title)
    return figure


def patterns_of(weights: CompressedNetwork | Mapping[str, Any], *, side: int) -> list[Pattern]:
    """The pattern of each layer."""
    turned = transposed(weights.module) if isinstance(weights, CompressedNetwork) else frozenset()
    return [
        pattern(name, weight, side=side, transposed=name in turned)
        for name, weight in layers("weights", weights).items()
    ]


def transposed(module: nn.Module) -> frozenset[str]:
    """The weights whose first two axes are inputs and outputs."""
    return frozenset(
        f"{name}.weight".removeprefix(".") for name, layer in module.named_modules() if isinstance(layer, _TRANSPOSED)
    )


def example_image(weights: Any) -> tuple[int, ...] | None:
    """The shape of the images that a compressed network takes, if it takes any."""
    shape = weights.example_shape[1:] if isinstance(weights, CompressedNetwork) else ()
    return tuple(shape) if len(shape) in (2, 3) else None


def percent(drawn: Pattern) -> str:
    """The share that is left."""
    return share(drawn.left, drawn.total)


def share(left: int, total: int) -> str:
    """A percentage in two digits; 0% and 100% are exact."""
    value = 100 * left / total
    if left in (0, total):
        return f"{value:.0f}%"
    return f"{min(value, 99):.0f}%" if value >= 9.95 else f"{value:.1f}%" if value >= 0.995 else f"{value:.2g}%"


def check_side(side: int) -> None:
    """Refuse a number of cells that shows nothing."""
    if not isinstance(side, int) or side < 8:
        raise InputError("side", expected="an integer of at least 8", got=repr(side))
