"""A regression over one input, with its uncertainty."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_bdl.diagnostics.arrays import Floats, as_floats, require_in_unit_interval, require_shape
from pyro_bdl.diagnostics.plots.style import BLUE, INK, SKY, VERMILION, headline, label, legend_below, panels
from pyro_bdl.errors import InputError


def regression_band(
    x: Any,
    draws: Any,
    *,
    noise_sd: Any = None,
    data: tuple[Any, Any] | None = None,
    reference: tuple[Any, Any] | None = None,
    level: float = 0.9,
    labels: tuple[str, str] = ("x", "y"),
    title: str = "Predictions and their uncertainty",
) -> Figure:
    """The posterior mean of a function of one input, with bands of the function and of new observations.

    Args:
        x: inputs, (N,), in any order.
        draws: values of the function there under posterior draws, (draws, N).
        noise_sd: standard deviation of an observation about the function: a number, or an array that broadcasts with
            (draws, N); adds a band of new observations. None for no such band.
        data: inputs and targets that were fitted, (M,) each.
        reference: mean and standard deviation of a reference, such as the exact posterior, (N,) each; drawn as lines
            at its mean and at the same level.
        level: the central probability of the bands.
        labels: names of the axes, with their units.
        title: the headline.

    Raises:
        InputError: shapes that do not match, numbers that are not finite.
    """
    require_in_unit_interval("level", level)
    at = as_floats("x", x, shape="(N,)", ndim=1)
    f = as_floats("draws", draws, shape="(draws, N)", ndim=2)
    require_shape("draws", f[0], at.shape, "x")
    order = np.argsort(at)
    at, f = at[order], f[:, order]
    figure, axes = panels(1, 1, width=6.2, height=4.0)
    ax = axes[0, 0]
    share = f"{level:.0%}"
    if noise_sd is not None:
        low, high = _observation_band(f, _noise(noise_sd, f.shape, order), level)
        ax.fill_between(at, low, high, color=SKY, alpha=0.25, linewidth=0, label=f"{share} of new observations")
    low, high = np.quantile(f, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    ax.fill_between(at, low, high, color=BLUE, alpha=0.35, linewidth=0, label=f"{share} of functions")
    ax.plot(at, f.mean(0), color=BLUE, linewidth=1.6, label="posterior mean")
    if reference is not None:
        mean, sd = (as_floats("reference", part, shape="(N,)", ndim=1) for part in reference)
        for part in (mean, sd):
            require_shape("reference", part, at.shape, "x")
        from scipy.special import ndtri

        z = ndtri(0.5 + level / 2)
        ax.plot(at, mean[order], color=VERMILION, linewidth=1.2, linestyle="--", label=f"reference, mean and {share}")
        for sign in (-1, 1):
            ax.plot(at, (mean + sign * z * sd)[order], color=VERMILION, linewidth=0.9, linestyle=":")
    if data is not None:
        a, b = (as_floats("data", part, shape="(M,)", ndim=1) for part in data)
        require_shape("data", b, a.shape, "its inputs")
        ax.scatter(a, b, s=12, color=INK, zorder=3, linewidths=0, label="data")
    ax.set_xlim(at[0], at[-1])
    label(ax, x=labels[0], y=labels[1])
    legend_below(figure, ax, columns=3)
    headline(figure, title)
    return figure


def _noise(noise_sd: Any, shape: tuple[int, ...], order: Any) -> Floats:
    sd = as_floats("noise_sd", noise_sd, shape="that broadcasts with (draws, N)", ndim=(0, 1, 2))
    if sd.min() <= 0:
        raise InputError("noise_sd", expected="positive numbers", got=f"{sd.min():.4g}")
    try:
        return np.broadcast_to(sd, shape)[:, order]
    except ValueError:
        raise InputError("noise_sd", expected=f"a shape that broadcasts to {shape}", got=f"shape {sd.shape}") from None


def _observation_band(f: Floats, sd: Floats, level: float) -> tuple[Floats, Floats]:
    """Quantiles of the mixture of Gaussians over draws, by bisection of its distribution function."""
    from scipy.special import ndtr

    bounds = []
    for target in (0.5 - level / 2, 0.5 + level / 2):
        low, high = (f - 10 * sd).min(0), (f + 10 * sd).max(0)
        for _ in range(50):
            middle = (low + high) / 2
            below = ndtr((middle - f) / sd).mean(0) < target
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        bounds.append((low + high) / 2)
    return bounds[0], bounds[1]
