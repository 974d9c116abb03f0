"""Survival: Cox's proportional hazards, then the same with a (Bayesian) network in the place of the linear predictor.

python -m models.deep_survival --data synthetic
"""

import argparse
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console

from models.deep_survival import figures
from models.deep_survival.fits import FITS, Method
from models.deep_survival.judging import judge, mean_row, require_scikit_survival
from models.deep_survival.problem import Problem
from models.deep_survival.settings import SETTINGS, Settings
from models.tables import Row, report
from pyro_bdl.errors import InputError


@dataclass
class Options:
    """Linear Cox regression, a plain network, and Bayesian networks by SVI and by chains, side by side."""

    data: Literal["synthetic", "metabric", "support", "whas"] = "synthetic"
    """simulated with a known law, or one of the three studies (their files are not downloaded)"""
    data_dir: Path | None = None
    """where the folder `survival` with the studies' files is; else PYRO_BDL_DATA"""
    out: Path = Path("out/deep_survival")
    """where the table, the figures and ArviZ data are written"""
    seeds: tuple[int, ...] = (0,)
    """of networks, order and noise (and of the validation part); figures and ArviZ data are those of the first"""
    evaluate: Literal["test", "validation"] = "test"
    """the part that the table is about: test, after a fit to the whole training part, or a fifth of that, held out"""
    methods: tuple[Method, ...] = ("cox", "linear", "plain", "svi", "chains")
    """which fits to run"""
    settings: tyro.conf.OmitArgPrefixes[Settings] = field(default_factory=lambda: SETTINGS["synthetic"])
    """of the networks and fits; the command's defaults are those chosen for the data set"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""


def main(options: Options) -> list[Row]:
    """Fit, judge, write; the rows of the table."""
    if not options.methods or not options.seeds:
        raise InputError("--methods and --seeds", expected="at least one of each", got="none")
    require_scikit_survival()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=150)
    settings = options.settings
    begin = time.perf_counter()
    rows: list[Row] = []
    for seed in options.seeds:
        problem = Problem(
            options.data, settings, root=options.data_dir, seed=seed, on_test=options.evaluate == "test",
            progress=options.progress,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fitted = [FITS[method](problem) for method in options.methods]
        judged = [judge(each, problem) for each in fitted]
        rows += [{"seed": str(seed)} | each.row for each in judged]
        if seed == options.seeds[0]:
            figures.write(fitted, judged, problem, options.out)
            for each in fitted:
                each.save_arviz(options.out)
    if len(options.seeds) > 1:
        rows += [mean_row(rows, method) for method in dict.fromkeys(row["method"] for row in rows)]
    report(
        rows, title=f"{options.data}, {options.evaluate} part ({len(problem.held.time)} subjects)",
        name=f"{options.data}_{options.evaluate}", out=options.out, settings=asdict(settings), console=console,
    )  # fmt: skip
    console.print(f"{time.perf_counter() - begin:.0f} s; table, figures and ArviZ data are in {options.out}/")
    return rows


def defaults(arguments: list[str]) -> Options:
    """The options with the settings chosen for the data set that the command line names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data", default="synthetic")
    named = parser.parse_known_args(arguments)[0].data
    return Options(data=named, settings=SETTINGS[named]) if named in SETTINGS else Options()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, default=defaults(sys.argv[1:])))
