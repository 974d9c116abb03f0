"""The figure of the risk: what is measured, on the lines of the exact law."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from models.langevin.risk_curve import Curve
from pyro_bdl.diagnostics.plots import style

LIMITS = (1e-4, 30.0)


def curves(found: Sequence[Curve], budget: int) -> Figure:
    """Squared bias, variance and risk against the step size, a panel for each kind of gradient.

    Squared biases that are within three standard errors of zero are left out.
    """
    figure, axes = style.panels(1, len(found), width=4.3, height=3.7, sharex=True, sharey=True)
    for ax, curve in zip(axes[0], found, strict=True):
        clear = curve.bias**2 > 9 * curve.variance / curve.chains
        parts: list[tuple[str, Tensor, Tensor, str, str]] = [
            ("bias²", curve.bias.where(clear, float("nan")) ** 2, curve.exact_bias**2, style.BLUE, "s"),
            ("variance", curve.variance, curve.exact_variance, style.ORANGE, "^"),
            ("risk", curve.risk, curve.exact_risk, style.INK, "o"),
        ]
        for name, measured, exact, colour, marker in parts:
            ax.loglog(curve.steps, exact, color=colour, linewidth=1.2)
            ax.loglog(curve.steps, measured, marker, color=colour, markersize=4, label=name)
        best = int(curve.risk.argmin())
        ax.axvline(float(curve.steps[best]), color=style.GREY, linewidth=0.8, linestyle=":", label="least risk")
        title = f"{curve.name}: {curve.updates:,} updates, least risk {float(curve.risk[best]):.2f}"
        style.label(ax, x="step size e × largest posterior precision", title=title)
        ax.set_ylim(*LIMITS)
    axes[0, 0].set_ylabel("error of the posterior variance, squared\n(exact value: 1)", fontsize=9, color=style.INK)
    style.legend_below(figure, axes[0, 0], columns=4)
    style.headline(figure, f"Too small, too large: {budget:,} gradients of one data point (lines: exact law)")
    return figure
