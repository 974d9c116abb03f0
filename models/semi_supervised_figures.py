"""What a model of class and style has learned: analogies, and the images whose class it gets wrong."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyro_bdl as bdl
from models import latent_figures
from models.latent_figures import arviz_data, latent_plane, picture

ROWS = 10


def draw(x: Tensor, y: Tensor, predicted: Tensor, found: dict[str, Any], out: Path) -> None:
    """Write the figures of what was fitted into `out`, and posteriors of the latent variables for ArviZ."""
    m1, m2 = found.get("m1"), found.get("m2")
    if m2 is not None:
        analogies(x, predicted, m1, m2).savefig(out / "analogies.png", bbox_inches="tight")
    if m1 is not None:
        law = m1.encode(x)
        latent_plane(law.mean, y).savefig(out / "latent_plane.png", bbox_inches="tight")
    else:
        law = m2.style(x, predicted)  # type: ignore[union-attr]
    arviz_data(law, x).to_netcdf(str(out / "latent.nc"))
    wrong = (predicted != y).nonzero()[:, 0][:100]
    if len(wrong):
        mistakes(x[wrong], y[wrong], predicted[wrong]).savefig(out / "mistakes.png", bbox_inches="tight")


def analogies(x: Tensor, predicted: Tensor, m1: Any, m2: bdl.SemiSupervisedVAE) -> Figure:
    """The style of a test image, held while the class is varied (Kingma et al. 2014, figure 1)."""
    x, predicted, classes = x[:ROWS], predicted[:ROWS], m2.classes
    inputs = x if m1 is None else m1.encode(x).mean
    style = m2.style(inputs, predicted).mean
    z = style[:, None].expand(-1, classes, -1)
    y = torch.arange(classes).expand(len(x), -1)
    decoded = m2.decode(z.flatten(0, 1), y.flatten())
    pixels = decoded if m1 is None else m1.decode(decoded)
    rows = pixels.reshape(len(x), classes, *x.shape[1:])
    return picture(
        torch.cat([x[:, None], torch.ones_like(x)[:, None] * 0, rows], 1),
        "Analogies: the style of the image at the left, as each class", width=5.0,
    )  # fmt: skip


def mistakes(x: Tensor, y: Tensor, predicted: Tensor) -> Figure:
    """Images whose class was not predicted right, each with its class and what was predicted."""
    columns = min(10, len(x))
    rows = -(-len(x) // columns)
    empty = rows * columns - len(x)
    padded = torch.cat([x, torch.zeros(empty, *x.shape[1:])]).reshape(rows, columns, *x.shape[1:])
    figure = picture(padded, "Mistakes: class, and what was predicted", width=0.55 * columns + 0.6)
    ax = figure.axes[0]
    height, width = x.shape[-2] + 2, x.shape[-1] + 2
    for i, (own, said) in enumerate(zip(y.tolist(), predicted.tolist(), strict=True)):
        row, column = divmod(i, columns)
        ax.text(
            column * width + 1, row * height + 1, f"{own}, {said}", fontsize=6, color=latent_figures.style.VERMILION,
            va="top", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    return figure
