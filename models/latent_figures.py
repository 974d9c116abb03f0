"""What a latent-variable model has learned: reconstructions, new images, the latent plane, which numbers are used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.diagnostics.plots import style
from pyro_bdl.latent_kl import ACTIVE

CLASS_COLOURS = "tab10"


def draw(
    vae: bdl.VariationalAutoencoder,
    x: Tensor,
    labels: Tensor,
    losses: Sequence[float],
    numbers: Mapping[str, Tensor],
    out: Path,
) -> None:
    """Write all figures of an autoencoder into `out`, and the posteriors of some images for ArviZ."""
    law = vae.encode(x)
    some = x[:40]
    figures = {
        "reconstructions": reconstructions(some, vae.decode(law.mean[:40])),
        "samples": images(vae.generate(100).reshape(-1, *x.shape[1:]), "New images: means of x for z from the prior"),
        "latent_plane": latent_plane(law.mean, labels),
        "latent_kl": latent_numbers(numbers),
        "bound": bound(losses),
    }
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", bbox_inches="tight")
    arviz_data(law, x).to_netcdf(str(out / "latent.nc"))


def arviz_data(law: Any, x: Tensor, *, rows: int = 100, draws: int = 500) -> Any:
    """Draws of the posteriors of the first images' latent variables, for ArviZ."""
    z = law.sample((draws,))[:, :rows]
    groups = {"posterior": {"z": z[None].numpy()}, "constant_data": {"x": x[:rows].flatten(1).numpy()}}
    return bdl.diagnostics.from_arrays(groups, dims={"z": ["image", "number"], "x": ["image", "pixel"]})


def grid(rows: Tensor) -> Tensor:
    """Images (rows, columns, 1, height, width) as one image, a pixel of white between them."""
    padded = torch.nn.functional.pad(1 - rows[:, :, 0], (1, 1, 1, 1), value=1.0)
    return torch.cat([torch.cat(list(row), 1) for row in padded], 0)


def picture(rows: Tensor, title: str, *, width: float = 6.0, names: Sequence[tuple[float, str]] = ()) -> Figure:
    """A grid of images with a title; `names` are written at the left, at a fraction of the height from the top."""
    image = grid(rows)
    figure, axes = style.panels(1, 1, width=width, height=width * image.shape[0] / image.shape[1] + 0.35)
    ax = axes[0, 0]
    ax.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    for height, name in names:
        ax.text(-0.01, 1 - height, name, transform=ax.transAxes, ha="right", va="center", fontsize=8, color=style.INK)
    style.headline(figure, title)
    return figure


def images(x: Tensor, title: str) -> Figure:
    """A hundred images, ten by ten."""
    return picture(x.reshape(10, 10, *x.shape[1:]), title, width=4.5)


def reconstructions(x: Tensor, mean: Tensor) -> Figure:
    """Images above their reconstructions, in two rows of twenty each."""
    mean = mean.reshape(x.shape)
    pairs = [part for a, b in zip(x.split(20), mean.split(20), strict=True) for part in (a, b)]
    names = [((i + 0.5) / len(pairs), "x" if i % 2 == 0 else "mean") for i in range(len(pairs))]
    return picture(torch.stack(pairs), "Test images, and what their latent means decode to", width=8.0, names=names)


def latent_plane(mean: Tensor, labels: Tensor, *, most: int = 5000) -> Figure:
    """The latent means of images along their two directions of largest variance, coloured by class."""
    centred = mean[:most] - mean[:most].mean(0)
    plane = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T if mean.shape[1] > 2 else centred
    figure, axes = style.panels(1, 1, width=5.6, height=4.8)
    ax = axes[0, 0]
    classes = int(labels.max()) + 1
    points = ax.scatter(
        *plane.T.numpy(),
        c=labels[:most].numpy(),
        cmap=CLASS_COLOURS,
        vmin=-0.5,
        vmax=classes - 0.5,
        s=6,
        linewidths=0,
        alpha=0.7,
    )
    style.label(ax, x="first direction of the latent means", y="second")
    bar = figure.colorbar(points, ax=ax, ticks=range(classes), shrink=0.8)
    bar.set_label("class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    style.headline(figure, "Classes in the latent space, which knew of none")
    return figure


def latent_numbers(numbers: Mapping[str, Tensor]) -> Figure:
    """The KL of each latent number, from the largest down."""
    figure, axes = style.panels(1, len(numbers), width=4.5, height=3.0)
    for ax, (site, kl) in zip(axes[0], numbers.items(), strict=True):
        ordered = kl.flatten().sort(descending=True).values
        colours = [style.BLUE if value > ACTIVE else style.PALE for value in ordered]
        ax.bar(range(len(ordered)), ordered.numpy(), color=colours, width=0.8)
        active = sum(value > ACTIVE for value in ordered.tolist())
        title = f"{site}: {active} of {len(ordered)} used, {float(kl.sum()):.1f} nats"
        style.label(ax, x="latent number, by its KL", y="KL, nats", title=title)
    style.headline(figure, "Numbers that say something of the image")
    return figure


def bound(losses: Sequence[float]) -> Figure:
    """The negative bound by epoch."""
    figure, axes = style.panels(1, 1, width=5.0, height=3.2)
    axes[0, 0].plot(range(1, len(losses) + 1), losses, color=style.BLUE, linewidth=1.2)
    axes[0, 0].set_ylim(min(losses), max(losses[min(2, len(losses) - 1) :]))
    style.label(axes[0, 0], x="epoch", y="negative bound, nats, all training images")
    return figure
