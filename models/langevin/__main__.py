"""Langevin sampling, mostly where the answer is known: one problem, its table, its figures.

python -m models.langevin --problem mixture
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console

from models.langevin import logistic as from_mh_to_sgld
from models.langevin import mixture as two_modes
from models.langevin import mnist as images
from models.langevin import risk as bias_and_variance
from models.langevin import uci as tables_of_uci
from models.tables import Row


@dataclass
class Options:
    """Two modes by SGLD; from Metropolis-Hastings to SGLD; the risk by step size; images; or a regression table."""

    problem: Literal["mixture", "logistic", "risk", "mnist", "uci"] = "mixture"
    """which"""
    out: Path = Path("out/langevin")
    """where the table, the figures and ArviZ data are written"""
    seed: int = 0
    """seeds all noise and the order of the data"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""
    mixture: two_modes.Settings = field(default_factory=two_modes.Settings)
    logistic: from_mh_to_sgld.Settings = field(default_factory=from_mh_to_sgld.Settings)
    risk: bias_and_variance.Settings = field(default_factory=bias_and_variance.Settings)
    mnist: images.Settings = field(default_factory=images.Settings)
    uci: tables_of_uci.Settings = field(default_factory=tables_of_uci.Settings)


PROBLEMS: dict[str, Callable[..., list[Row]]] = {
    "mixture": two_modes.run,
    "logistic": from_mh_to_sgld.run,
    "risk": bias_and_variance.run,
    "mnist": images.run,
    "uci": tables_of_uci.run,
}


def main(options: Options) -> list[Row]:
    """Run the problem; the rows of its table."""
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=150)
    begin = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        settings = getattr(options, options.problem)
        rows = PROBLEMS[options.problem](settings, out=options.out, progress=options.progress, console=console)
    console.print(f"{time.perf_counter() - begin:.0f} s; table, figures and ArviZ data are in {options.out}/")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
