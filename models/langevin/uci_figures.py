"""The figure of the regression tables: test log-likelihoods, measured and published."""

import json
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.published import REGRESSION, REGRESSION_SPLITS
from pyro_bdl.diagnostics.plots import style

TABLES = ("boston", "concrete", "energy", "naval", "protein", "wine", "yacht")
MEASURED = {"SGHMC": "SGHMC (ours)", "SGLD": "SGLD (ours)", "svi": "local SVI (ours)"}
MARKERS = {"SGHMC": "o", "SGLD": "^", "svi": "s"}
COLOURS = {"SGHMC": style.BLUE, "SGLD": style.GREEN, "svi": style.VERMILION}
PUBLISHED_COLOURS = (style.GREY, style.INK, style.ORANGE)
COLUMNS = 4
Point = tuple[float, float]  # a mean and its standard error
Measured = tuple[float, float, int]  # and the number of splits


def published(table: str) -> dict[str, Point]:
    """Of a table, by method."""
    count = REGRESSION_SPLITS.get(table, 20)
    points = {}
    for source in REGRESSION:
        mean, spread = source.log_likelihood[table]
        points[source.method] = mean, spread / math.sqrt(count) if source.splits else spread
    return points


def measured(out: Path) -> dict[str, dict[str, Measured]]:
    """By table and method, from the files in `out`."""
    found: dict[str, dict[str, Measured]] = {}
    for path in sorted(out.glob("uci_*.json")):
        written = json.loads(path.read_text())
        rows, settings = {row["split"]: row for row in written["rows"]}, written["settings"]
        mean, error = rows["mean"]["log-likelihood"], rows["standard error"].get("log-likelihood", 0.0)
        found.setdefault(settings["data"], {})[settings["method"]] = mean, error, len(rows) - 2
    return found


def write(out: Path) -> None:
    """The figure of all tables in `out`, as `out/uci.png`."""
    log_likelihoods(measured(out)).savefig(out / "uci.png")


def log_likelihoods(found: dict[str, dict[str, Measured]]) -> Figure:
    """A panel for each table: a point with two standard errors to each side for each method; to the right is better."""
    tables = [table for table in TABLES if table in found]
    methods = [method for method in MEASURED if any(method in found[table] for table in tables)]
    columns = min(len(tables), COLUMNS)
    rows = math.ceil(len(tables) / columns)
    figure, axes = style.panels(rows, columns, width=2.0 + 1.8 / columns, height=2.2, sharey=True)
    others = [source.method for source in REGRESSION]
    names = [*(MEASURED[method] for method in methods), *others]
    for ax in axes.flat[len(tables) :]:
        ax.set_visible(False)
    for ax, table in zip(axes.flat, tables, strict=False):
        options: dict[str, Any] = {"markersize": 5, "linewidth": 1.2}
        for place, method in enumerate(methods):
            if method in found[table]:
                mean, error, _ = found[table][method]
                colour = COLOURS[method]
                ax.errorbar(mean, place, xerr=2 * error, fmt=MARKERS[method], color=colour, **options)
        points = published(table)
        for place, (method, colour) in enumerate(zip(others, PUBLISHED_COLOURS, strict=True), start=len(methods)):
            mean, error = points[method]
            ax.errorbar(mean, place, xerr=2 * error, fmt="D", color=colour, markerfacecolor="white", **options)
        ax.axvline(max(points["PBP"][0], points["Deep ensembles"][0]), color=style.PALE, linewidth=1, zorder=0)
        count, full = min(count for _, _, count in found[table].values()), REGRESSION_SPLITS.get(table, 20)
        style.label(ax, title=table if count == full else f"{table}: {count} of {full} splits")
        ax.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
        ax.margins(x=0.12)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    figure.supxlabel("test log-likelihood (nats a point), ± 2 standard errors", fontsize=9)
    style.headline(figure, "Measured (filled), published (open)")
    return figure
