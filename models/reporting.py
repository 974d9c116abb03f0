"""The table, the ArviZ comparison and the figures of a comparison of classifiers."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyro_bdl.diagnostics import calibration, ood, plots


@dataclass
class Method:
    """One fitted classifier.

    Attributes:
        name: as the table and the figures call it.
        logits: for images (N, ...) the logits (draws, N, classes).
        seconds: what the fit took.
        losses: the loss of each epoch, if it has one.
        arviz: makes its ArviZ data, if it has any.
        node_scales: for each layer a number a node, if it has any.
    """

    name: str
    logits: Callable[[Tensor], Tensor]
    seconds: float
    losses: list[float] = field(default_factory=list)
    arviz: Callable[[], Any] | None = None
    node_scales: dict[str, Tensor] = field(default_factory=dict)


def report(
    methods: Sequence[Method],
    x: Tensor,
    y: Tensor,
    outside: dict[str, Tensor],
    classes: Sequence[str] | None,
    out: Path,
) -> list[dict[str, Any]]:
    """Print the table and ArviZ's summaries, write figures and ArviZ data into `out`, return the rows."""
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    inside = {m.name: m.logits(x).softmax(-1) for m in methods}
    elsewhere = {
        m.name: {name: m.logits(images).softmax(-1).mean(0) for name, images in outside.items()} for m in methods
    }
    rows = [_row(m, inside[m.name].mean(0), y, elsewhere[m.name]) for m in methods]
    console.print(_table(rows))
    _figures(methods, inside, elsewhere, x, y, classes, out)
    _arviz(methods, console, out)
    console.print(f"figures and ArviZ data are in {out}/")
    return rows


def _row(method: Method, probs: Tensor, y: Tensor, outside: dict[str, Tensor]) -> dict[str, Any]:
    entropy = ood.predictive_entropy(probs)
    return {
        "method": method.name,
        "error %": 100 * calibration.error_rate(probs, y),
        "NLL": calibration.negative_log_likelihood(probs, y),
        "ECE": calibration.expected_calibration_error(probs, y),
        **{f"AUROC {name}": ood.auroc(entropy, ood.predictive_entropy(p)) for name, p in outside.items()},
        "seconds": method.seconds,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="held-out data; AUROC of the predictive entropy against images from elsewhere")
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "method" else "right")
    formats = {"error %": ".2f", "seconds": ".0f"}
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else format(v, formats.get(k, ".4f")) for k, v in row.items()))
    return table


def _figures(
    methods: Sequence[Method],
    inside: dict[str, Tensor],
    elsewhere: dict[str, dict[str, Tensor]],
    x: Tensor,
    y: Tensor,
    classes: Sequence[str] | None,
    out: Path,
) -> None:
    means = {name: probs.mean(0) for name, probs in inside.items()}
    losses = {m.name: m.losses for m in methods if m.losses}
    if losses:
        plots.loss_curve(losses).savefig(out / "loss.png")
    plots.reliability_diagram(means, y).savefig(out / "reliability.png")
    entropies = {name: {"held-out": means[name], **elsewhere[name]} for name in means}
    plots.entropy_histograms(entropies).savefig(out / "entropy.png")
    for method in methods:
        probs, short = inside[method.name], method.name.split(",")[0].lower()
        if len(probs) > 1:
            plots.most_uncertain(x, probs, y, class_names=classes).savefig(out / f"most_uncertain_{short}.png")
        if method.node_scales:
            figure = plots.node_scales(method.node_scales, unit="mean² / variance of the scale")
            figure.savefig(out / "node_scales.png")


def _arviz(methods: Sequence[Method], console: Console, out: Path) -> None:
    import arviz as az

    data = {m.name: m.arviz() for m in methods if m.arviz is not None}
    for name, each in data.items():
        short = name.split(",")[0].lower()
        each.to_netcdf(str(out / f"{short}.nc"))
        logits = torch.as_tensor(each.posterior["logits"].values)
        if logits.shape[0] > 1:
            points = {f"logit {k} of image {n}": logits[:, :, n, k] for n, k in ((0, 0), (1, 1), (2, 2))}
            plots.trace_and_rank(points).savefig(out / f"trace_rank_{short}.png")
        console.print(f"\n{name}: the logits of one image")
        kind: Any = "all" if logits.shape[0] > 1 else "stats"  # independent draws have nothing to diagnose
        console.print(az.summary(each, var_names=["logits"], coords={"logits_point": [0]}, kind=kind).to_string())
    if len(data) > 1:
        console.print("\nleave-one-out cross-validation on the training data")
        with warnings.catch_warnings():  # the table's own column "warning" says it
            warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto", category=UserWarning)
            console.print(az.compare(data).to_string())
