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
Point = tuple[float, float]  # a mean and its standard error


def published(table: str) -> dict[str, Point]:
    """Of a table, by method."""
    count = REGRESSION_SPLITS.get(table, 20)
    points = {}
    for source in REGRESSION:
        mean, spread = source.log_likelihood[table]
        points[source.method] = mean, spread / math.sqrt(count) if source.splits else spread
    return points


def measured(out: Path) -> dict[str, dict[str, Point]]:
    """By table and method, from the files in `out`."""
    found: dict[str, dict[str, Point]] = {}
    for path in sorted(out.glob("uci_*.json")):
        written = json.loads(path.read_text())
        rows, settings = {row["split"]: row for row in written["rows"]}, written["settings"]
        error = rows["standard error"].get("log-likelihood", 0.0)
        found.setdefault(settings["data"], {})[settings["method"]] = rows["mean"]["log-likelihood"], error
    return found


def write(out: Path) -> None:
    """The figure of all tables in `out`, as `out/uci.png`."""
    log_likelihoods(measured(out)).savefig(out / "uci.png")


def log_likelihoods(found: dict[str, dict[str, Point]]) -> Figure:
    """A panel for each table: a point with two standard errors to each side for each method; to the right is better."""
    tables = [table for table in TABLES if table in found]
    methods = [method for method in MEASURED if any(method in found[table] for table in tables)]
    figure, axes = style.panels(1, len(tables), width=1.9, height=2.3, sharey=True)
    others = [source.method for source in REGRESSION]
    names = [*(MEASURED[method] for method in methods), *others]
    for ax, table in zip(axes[0], tables, strict=True):
        options: dict[str, Any] = {"markersize": 5, "linewidth": 1.2}
        for place, method in enumerate(methods):
            if method in found[table]:
                mean, error = found[table][method]
                colour = COLOURS[method]
                ax.errorbar(mean, place, xerr=2 * error, fmt=MARKERS[method], color=colour, **options)
        points = published(table)
        for place, (method, colour) in enumerate(zip(others, PUBLISHED_COLOURS, strict=True), start=len(methods)):
            mean, error = points[method]
            ax.errorbar(mean, place, xerr=2 * error, fmt="D", color=colour, markerfacecolor="white", **options)
        ax.axvline(max(points["PBP"][0], points["Deep ensembles"][0]), color=style.PALE, linewidth=1, zorder=0)
        style.label(ax, title=table)
        ax.locator_params(axis="x", nbins=4)
        ax.margins(x=0.12)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    figure.supxlabel("test log-likelihood, nats a point, ± 2 standard errors (to the right is better)", fontsize=9)
    if len(tables) > 1:
        style.headline(figure, "Regression tables: measured (filled) beside published (open)")
    return figure
