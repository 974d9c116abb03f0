"""A classifier's calibration and uncertainty."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pyro_bdl.diagnostics.arrays import (
    Floats,
    as_floats,
    as_labels,
    as_numpy,
    as_probabilities,
    require_in_unit_interval,
)
from pyro_bdl.diagnostics.calibration import expected_calibration_error, reliability_bins
from pyro_bdl.diagnostics.ood import auroc, predictive_entropy
from pyro_bdl.diagnostics.plots.style import (
    BLUE,
    DASHES,
    GREY,
    INK,
    ORANGE,
    PALE,
    PALE_BLUE,
    VERMILION,
    colours,
    headline,
    label,
    legend,
    legend_below,
    panels,
)
from pyro_bdl.errors import InputError


def reliability_diagram(
    methods: Mapping[str, Any],
    labels: Any,
    *,
    num_bins: int = 10,
    title: str = "Is a confidence of 80% right 80% of the time?",
) -> Figure:
    """Accuracy against confidence by bins, and below it how many points each bin has, a column a method.

    Args:
        methods: by method, predictive probabilities (N, classes), or (draws, N, classes).
        labels: (N,).
        num_bins: of equal width over [0, 1].
        title: the headline.

    Raises:
        InputError: no methods, or probabilities and labels that do not fit.
    """
    if not methods:
        raise InputError("methods", expected="at least one method", got="none")
    figure, axes = panels(
        2,
        len(methods),
        width=3.0 if len(methods) > 1 else 4.6,
        height=2.3,
        sharex=True,
        sharey="row",
        gridspec_kw={"height_ratios": [2.6, 1]},
    )
    for (upper, lower), (name, probs) in zip(axes.T, methods.items(), strict=True):
        bins = reliability_bins(probs, labels, num_bins=num_bins)
        ece = expected_calibration_error(probs, labels, num_bins=num_bins)
        filled = bins.count > 0
        centres, width = (bins.edges[:-1] + bins.edges[1:])[filled] / 2, 1 / num_bins
        right, sure = bins.accuracy[filled], bins.confidence[filled]
        upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfectly calibrated")
        upper.bar(centres, right, width, color=PALE_BLUE, edgecolor="white", label="accuracy")
        upper.vlines(sure, right, sure, color=VERMILION, linewidth=2.2, label="gap to the confidence")
        error = np.sqrt(np.maximum(right * (1 - right), 0.25 / bins.count[filled]) / bins.count[filled])
        upper.errorbar(sure, right, error, fmt="o", color=INK, markersize=3, linewidth=0.9, label="± 1 standard error")
        upper.set(xlim=(0, 1), ylim=(0, 1.04))
        lower.bar(centres, bins.count[filled], width, color=GREY, edgecolor="white")
        lower.set_yscale("log")
        label(upper, title=f"{name}\ncalibration error {ece:.1%}")
        label(lower, x="confidence")
    label(axes[0, 0], y="accuracy", title=axes[0, 0].get_title(loc="left"))
    label(axes[1, 0], y="points", x="confidence")
    legend_below(figure, axes[0, 0], columns=4 if len(methods) > 1 else 2)
    headline(figure, title)
    return figure


def entropy_histograms(
    methods: Mapping[str, Mapping[str, Any]],
    *,
    classes: int | None = None,
    bins: int = 30,
    title: str = "Does the network know what it does not know?\nPredictive entropy inside and outside the distribution",
) -> Figure:
    """Histograms of predictive entropy, a panel a method; the first set of each method is the one inside.

    The legend gives the area under the ROC curve of telling each other set from the first by its entropy.

    Args:
        methods: by method and by set, the predictive entropy of each point in nats, (N,); or probabilities
            (N, classes) or (draws, N, classes) of which it is computed.
        classes: the number of classes, which fixes the axis to [0, log classes]; None: up to the largest value.
        bins: of each histogram.
        title: the headline.

    Raises:
        InputError: no methods or sets, or values that do not fit.
    """
    if not methods or not all(methods.values()):
        raise InputError("methods", expected="at least one set for at least one method", got="none")
    values = {m: {s: _entropies(f"{m}, {s}", v) for s, v in sets.items()} for m, sets in methods.items()}
    top = max(v.max() for sets in values.values() for v in sets.values())
    top = max(top, np.log(classes)) if classes is not None else max(top, 1e-3)
    figure, axes = panels(1, len(values), width=3.7 if len(values) > 1 else 5.4, height=3.2, sharex=True, sharey=True)
    for ax, (method, sets) in zip(axes[0], values.items(), strict=True):
        inside = next(iter(sets.values()))
        for i, ((name, v), colour) in enumerate(zip(sets.items(), colours(len(sets)), strict=True)):
            share, edges = np.histogram(v, bins, (0, top))
            text = f"{name} (inside)" if i == 0 else f"{name}: AUROC {auroc(inside, v):.3f}"
            if i == 0:
                ax.stairs(share / len(v), edges, color=colour, fill=True, alpha=0.25)
            ax.stairs(share / len(v), edges, color=colour, linewidth=1.5, linestyle=DASHES[i % 4], label=text)
        label(ax, x="predictive entropy (nats)", title=method)
        ax.set_xlim(0, top)
        ax.set_yscale("log")
        legend(ax, loc="upper right")
    label(axes[0, 0], y="share of points", x="predictive entropy (nats)", title=next(iter(values)))
    headline(figure, title)
    return figure


def most_uncertain(
    images: Any,
    probs: Any,
    labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    count: int = 8,
    level: float = 0.9,
    title: str = "The images that the network is least sure of",
) -> Figure:
    """The images of highest predictive entropy, each with its predictive probabilities and their credible intervals.

    Args:
        images: (N, height, width), (N, 1, height, width), or in colour (N, 3, height, width).
        probs: (draws, N, classes).
        labels: (N,).
        class_names: names of the classes; default their numbers.
        count: how many images.
        level: the central probability of the intervals over draws.
        title: the headline.

    Raises:
        InputError: shapes that do not match.
    """
    require_in_unit_interval("level", level)
    p = as_probabilities(probs, draws=True)
    y = as_labels(labels, length=p.shape[1], classes=p.shape[2])
    pictures = _pictures(images, p.shape[1])
    names = [str(k) for k in range(p.shape[2])] if class_names is None else list(class_names)
    if len(names) != p.shape[2]:
        raise InputError("class_names", expected=f"{p.shape[2]} names", got=f"{len(names)}")
    if not isinstance(count, int) or count < 1:
        raise InputError("count", expected="a positive integer", got=repr(count))
    chosen = np.argsort(predictive_entropy(p))[::-1][:count]
    columns = min(len(chosen), 4)
    rows = -(-len(chosen) // columns)
    figure, axes = panels(2 * rows, columns, width=2.3, height=1.35)
    for ax in axes.reshape(rows, 2, columns).transpose(0, 2, 1).reshape(-1, 2)[len(chosen) :].flat:
        ax.remove()
    for i, n in enumerate(chosen):
        upper, lower = axes[2 * (i // columns), i % columns], axes[2 * (i // columns) + 1, i % columns]
        upper.imshow(pictures[n], cmap="gray_r", interpolation="nearest")
        upper.set_axis_off()
        mean = p[:, n].mean(0)
        low, high = np.quantile(p[:, n], [0.5 - level / 2, 0.5 + level / 2], axis=0)
        guess = int(mean.argmax())
        upper.set_title(f"true {names[y[n]]}, guess {names[guess]}", fontsize=9, color=INK)
        bars = [BLUE if k == y[n] else ORANGE if k == guess else PALE for k in range(len(names))]
        lower.bar(names, mean, color=bars, edgecolor=GREY, linewidth=0.4)
        lower.vlines(np.arange(len(names)), low, high, color=INK, linewidth=1.1)
        lower.set_ylim(0, 1)
        lower.tick_params(axis="x", labelrotation=90 if max(map(len, names)) > 3 else 0)
        if i % columns == 0:
            lower.set_ylabel("probability", fontsize=8)
        else:
            lower.tick_params(axis="y", labelleft=False)
    keys = [Patch(facecolor=BLUE, label="true class"), Patch(facecolor=ORANGE, label="wrong guess")]
    line = Line2D([], [], color=INK, linewidth=1.1, label=f"{level:.0%} credible interval over weights")
    legend_below(figure, axes[0, 0], columns=3, handles=[*keys, line])
    headline(figure, title)
    return figure


def _entropies(what: str, value: Any) -> Floats:
    array = as_numpy(value)
    return as_floats(what, array, shape="(N,)", ndim=1) if array.ndim == 1 else predictive_entropy(array)


def _pictures(images: Any, length: int) -> Floats:
    pictures = as_floats("images", images, shape="(N, [channels,] height, width)", ndim=(3, 4))
    if len(pictures) != length:
        raise InputError("images", expected=f"{length} of them, as the probabilities", got=str(len(pictures)))
    if pictures.ndim == 3:
        return pictures
    if pictures.shape[1] not in (1, 3):
        raise InputError("images", expected="1 or 3 channels", got=f"shape {pictures.shape}")
    if pictures.shape[1] == 1:
        return pictures[:, 0]
    low, high = pictures.min(), pictures.max()
    return ((pictures - low) / (high - low if high > low else 1.0)).transpose(0, 2, 3, 1)
