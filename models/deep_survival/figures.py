"""The figures: survival curves with their bands, calibration, and the risk surface where the law is known."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from models.deep_survival.fits import Fitted
from models.deep_survival.judging import BAND, Judged
from models.deep_survival.problem import Problem
from pyro_bdl.diagnostics.arrays import Floats
from pyro_bdl.diagnostics.plots import style
from pyro_bdl.diagnostics.survival import Reliability

SHARES = (0.05, 0.35, 0.65, 0.95)  # of the subjects, in the order of their risk
GRID = 60


def write(fitted: Sequence[Fitted], judged: Sequence[Judged], problem: Problem, out: Path) -> None:
    """All that there is something for, into the folder."""
    by_name = dict(zip([each.name for each in fitted], judged, strict=True))
    survival_curves(by_name, problem).savefig(out / f"{problem.name}_curves.png")
    calibration({name: each.reliability for name, each in by_name.items()}, problem).savefig(
        out / f"{problem.name}_calibration.png"
    )
    if problem.law is not None:
        risk_surface(fitted, problem).savefig(out / f"{problem.name}_risk.png")


def survival_curves(judged: dict[str, Judged], problem: Problem) -> Figure:
    """Four subjects from low to high risk; the last method, the most Bayesian one, with its band."""
    name, main = list(judged.items())[-1]
    order = main.curves.mean((0, 2)).argsort(descending=True)
    chosen = [int(order[round(share * (len(order) - 1))]) for share in SHARES]
    figure, axes = style.panels(1, len(chosen), width=2.7, height=2.6, sharey=True)
    others = {key: each for key, each in judged.items() if key in ("Cox, linear", "plain network")}
    times = problem.times
    for ax, subject, share in zip(axes[0], chosen, SHARES, strict=True):
        own = main.curves[:, subject]
        low, high = own.quantile(torch.tensor([0.5 - BAND / 2, 0.5 + BAND / 2]), dim=0)
        if len(own) > 1:
            ax.fill_between(times, low, high, color=style.BLUE, alpha=0.25, linewidth=0, label=f"{BAND:.0%} band")
        ax.plot(times, own.mean(0), color=style.BLUE, linewidth=1.6, label=name)
        for (key, each), colour in zip(others.items(), (style.GREY, style.VERMILION), strict=False):
            if key != name:
                ax.plot(times, each.curves[:, subject].mean(0), color=colour, linestyle="--", linewidth=1.1, label=key)
        if problem.law is not None:
            truth = problem.law.survival(problem.held_raw.x[subject : subject + 1], times)[0]
            ax.plot(times, truth, color=style.INK, linewidth=1.1, linestyle=":", label="truth")
        _own_time(ax, problem, subject)
        ax.set_ylim(0, 1.02)
        ax.set_xlim(0, float(times[-1]))
        style.label(ax, x=f"time ({problem.unit})", title=f"{share:.0%} have a lower risk")
    style.label(axes[0, 0], x=f"time ({problem.unit})", y="survival probability", title=axes[0, 0].get_title("left"))
    style.legend_below(figure, axes[0, 0], columns=6, handles=_handles(axes[0]))
    style.headline(figure, f"{problem.name}: predicted survival of four held-out subjects")
    return figure


def calibration(reliability: dict[str, list[Reliability]], problem: Problem) -> Figure:
    """What was predicted for groups of subjects, and what happened to them, at the quartiles of the times of events."""
    columns = min(3, len(reliability))
    rows = math.ceil(len(reliability) / columns)
    figure, axes = style.panels(rows, columns, width=2.8, height=3.0, sharey=True, sharex=True)
    for ax in axes.flat[len(reliability) :]:
        ax.set_visible(False)
    for ax, (name, each) in zip(axes.flat, reliability.items(), strict=False):
        ax.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.8, linestyle="--")
        for at, horizon, colour, marker in zip(each, problem.horizons.tolist(), style.COLOURS[:3], "os^", strict=True):
            ax.errorbar(
                at.predicted, at.observed, fmt=marker, color=colour, markersize=4, elinewidth=0.7, alpha=0.85,
                xerr=_arms(at.predicted, at.predicted_band), yerr=_arms(at.observed, at.observed_band),
                label=f"at {horizon:,.{0 if horizon >= 10 else 1}f} {problem.unit if problem.law is None else ''}",
            )  # fmt: skip
        covered, error = np.mean([at.coverage for at in each]), np.mean([at.error for at in each])
        ax.text(0.98, 0.03, f"error {error:.3f}\n{covered:.0%} covered", fontsize=8, transform=ax.transAxes, ha="right")
        ax.set_aspect("equal")
        ax.set_xlim(-0.03, 1.03)
        ax.set_ylim(-0.03, 1.03)
        ax.set_title(name, fontsize=9.5, color=style.INK, loc="left")
    for place in range(len(reliability)):
        row, column = divmod(place, columns)
        below = place + columns < len(reliability)
        axes[row, column].set_xlabel("" if below else "predicted, with 95% of the posterior", fontsize=9)
        axes[row, column].tick_params(labelbottom=not below)
        axes[row, column].set_ylabel("" if column else "observed (Kaplan-Meier, 95%)", fontsize=9)
    style.legend_below(figure, axes[0, 0], columns=3)
    style.headline(figure, f"{problem.name}: calibration of ten groups of held-out subjects")
    return figure


def _arms(middle: Floats, band: Floats) -> Floats:
    """The lengths of error bars to both sides."""
    return np.clip([middle - band[0], band[1] - middle], 0, None)


def risk_surface(fitted: Sequence[Fitted], problem: Problem) -> Figure:
    """The log hazard ratio over the two covariates that matter, the others at 0: the truth and each method."""
    assert problem.law is not None
    side = torch.linspace(-1, 1, GRID)
    first, second = torch.meshgrid(side, side, indexing="xy")
    raw = torch.zeros(GRID * GRID, problem.train.x.shape[1])
    raw[:, 0], raw[:, 1] = first.flatten(), second.flatten()
    x = problem.in_standard_units(raw)
    truth = problem.law.log_hazard_ratio(raw)
    shown: dict[str, Tensor] = {"truth": truth - truth.mean()}
    spread: dict[str, Tensor] = {}
    for each in fitted:
        if each.name == "linear, full likelihood":
            continue
        hazard = each.curves(x, problem.horizons[1:2])[..., 0].clamp(1e-9, 1 - 1e-6).log().neg().log()
        centred = hazard - hazard.mean(1, keepdim=True)
        shown[each.name] = centred.mean(0)
        if len(centred) > 1:
            spread = {f"sd, {each.name.removeprefix('Bayesian network, ')}": centred.std(0)}
    figure, axes = style.panels(1, len(shown) + len(spread), width=2.2, height=2.6, sharey=True, sharex=True)
    for ax, (name, values) in zip(axes[0], (shown | spread).items(), strict=True):
        is_spread = name in spread
        limits = {"vmin": 0.0} if is_spread else {"vmin": -0.8, "vmax": 1.2}
        picture = ax.imshow(
            values.reshape(GRID, GRID).numpy(), origin="lower", extent=(-1, 1, -1, 1),
            cmap="Greys" if is_spread else "viridis", **limits,
        )  # fmt: skip
        ax.grid(visible=False)
        style.label(ax, x="x1", title=name)
        if is_spread or name == list(shown)[-1]:
            figure.colorbar(picture, ax=ax, shrink=0.8).ax.tick_params(labelsize=7)
    style.label(axes[0, 0], x="x1", y="x2", title="truth")
    style.headline(figure, "The log hazard ratio about its mean, the other covariates at 0")
    return figure


def _own_time(ax: Axes, problem: Problem, subject: int) -> None:
    """A mark on the axis at the subject's own time: filled for an event, open where censored."""
    time, event = float(problem.held.time[subject]), bool(problem.held.event[subject])
    colour = style.INK if event else "white"
    ax.plot(
        [min(time, float(problem.times[-1]))], [0.03], marker="v", color=style.INK, markerfacecolor=colour,
        markersize=6, linestyle="", label="event" if event else "censored", clip_on=False,
    )  # fmt: skip


def _handles(axes: Sequence[Axes]) -> list[Artist]:
    """Each label once, over all panels."""
    found: dict[str, Artist] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        for handle, name in zip(handles, labels, strict=True):
            found.setdefault(name, handle)
    return list(found.values())
