"""A mixture of Gaussians on the petals of irises: EM, whose bound rises at every step, beside SVI and SGLD.

python -m models.gaussian_mixture
"""

import json
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from sklearn.datasets import load_iris
from torch import Tensor

import pyro_bdl as bdl
from models.gaussian_mixture import figures
from models.gaussian_mixture.methods import Method, Settings, by_em, by_sgld, by_svi
from models.gaussian_mixture.mixture import Mixture
from models.tables import Row, table

HELD_OUT = 30  # of 150 flowers
AXES = ("petal length (sd)", "petal width (sd)")


@dataclass
class Options:
    """One Pyro model, three fits, the same data."""

    out: Path = Path("out/gaussian_mixture")
    """where the table and the figures are written"""
    seed: int = 0
    """of the split, the starts, and all noise"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""
    settings: Settings = field(default_factory=Settings)


def petals(seed: int) -> tuple[Tensor, Tensor]:
    """Length and width of iris petals for training and held out, standardised by the training part, float64."""
    flowers = torch.as_tensor(load_iris().data[:, 2:], dtype=torch.float64)
    order = torch.randperm(len(flowers), generator=torch.Generator().manual_seed(seed))
    train, test = flowers[order[HELD_OUT:]], flowers[order[:HELD_OUT]]
    mean, deviation = train.mean(0), train.std(0, correction=0)
    return (train - mean) / deviation, (test - mean) / deviation


def main(options: Options) -> list[Row]:
    """Fit, compare, write; the rows of the table."""
    options.out.mkdir(parents=True, exist_ok=True)
    console, settings = Console(width=130), options.settings
    train, test = petals(options.seed)
    mixture = Mixture(settings.components)
    generator = torch.Generator().manual_seed(options.seed)
    starts = [mixture.start(train, generator) for _ in range(settings.starts)]
    begin = time.perf_counter()
    fits = by_em(mixture, train, starts, settings, progress=options.progress)
    seconds = time.perf_counter() - begin
    best = max(range(len(fits)), key=lambda i: fits[i].bounds[-1])
    noise: dict[str, Any] = {"seed": options.seed, "progress": options.progress}
    svi = by_svi(mixture, train, starts[0], settings, **noise)
    sgld = by_sgld(mixture, train, fits[best].values, settings, **noise)
    point = {name: value[None] for name, value in fits[best].values.items()}
    em = Method(f"EM, the best of {len(fits)} starts", [fits[best].bounds], point, seconds)
    rows = [row_of(mixture, method, train, test) for method in (em, svi, sgld)]
    gains = [after - before for fit in fits for before, after in pairwise(fit.bounds)]
    title = f"log p(x) in nats a flower, standardised; {HELD_OUT} of 150 held out"
    console.print(table(rows, title=title, digits=5))
    console.print(
        f"EM: {sum(len(fit.bounds) - 1 for fit in fits)} steps from {len(fits)} starts, the least gain of a step "
        f"{min(gains):.1e} nats; ends at {', '.join(f'{fit.bounds[-1]:.2f}' for fit in fits)}"
    )
    told = {"settings": asdict(settings), "seed": options.seed, "rows": rows, "least gain": min(gains)}
    ends = [{"steps": len(fit.bounds) - 1, "end": fit.bounds[-1], "converged": fit.converged} for fit in fits]
    (options.out / "gaussian_mixture.json").write_text(json.dumps({**told, "EM": ends}, indent=1))
    bdl.graph.draw(bdl.graph.of(mixture, train)).savefig(options.out / "graph.png")
    figures.bounds(fits, best, svi, sgld).savefig(options.out / "bounds.png")
    figures.components(mixture, train, fits[best], svi, sgld, AXES).savefig(options.out / "components.png")
    console.print(f"table and figures are in {options.out}/")
    return rows


def row_of(mixture: Mixture, method: Method, train: Tensor, test: Tensor) -> Row:
    """Its line: log densities are those of the mean of p(x_n | theta) over the draws, in nats a flower."""
    count = len(method.draws["loc"])

    def mean_log_density(x: Tensor) -> float:
        log = mixture.densities(method.draws, x)
        return float((log.logsumexp(0) - torch.tensor(count).log()).mean())

    return {
        "method": method.name, "draws": count, "seconds": method.seconds,
        "training": mean_log_density(train), "held out": mean_log_density(test),
    }  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
