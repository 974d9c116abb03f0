"""The regression tables: close to the law that made the data, chosen without the test part, and not done twice."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import pyro_bdl as bdl
from models.langevin import __main__ as command
from models.langevin import uci, uci_figures
from models.langevin.uci_model import Model
from pyro_bdl.data import Dataset, Standardized, standardize
from pyro_bdl.errors import InputError, NumericalError
from tests.fresh_state import fresh_state  # noqa: F401

SMALL = uci.Settings(splits=2, mode_steps=200, warmup=100, updates=200, thinning=10, chains=2, svi_batch_size=60)
TRAIN, TEST = 300, 1000


def law(x: torch.Tensor, varying: bool) -> torch.distributions.Normal:
    """A linear mean; noise of one size, or more to the right."""
    return torch.distributions.Normal(10 + 4 * x[:, 0] - 2 * x[:, 1], (0.7 * x[:, 0]).exp() if varying else 1.0)


def draw(varying: bool, split: int, validation: int | None) -> tuple[Standardized, float]:
    """Data of the law, and the law's own log-likelihood of their test part."""
    with torch.random.fork_rng():
        torch.manual_seed(split)
        x = torch.randn(TRAIN + TEST, 3)
        y = law(x, varying).sample()
    held = 60 if validation is None else 0
    parts = [(x[a:b], y[a:b]) for a, b in ((0, TRAIN - held), (TRAIN - held, TRAIN), (TRAIN, None))]
    data = Dataset("linear", None, *(part for pair in parts for part in pair))
    return standardize(data), float(law(parts[2][0], varying).log_prob(parts[2][1]).mean())


def of_law(monkeypatch: pytest.MonkeyPatch, varying: bool) -> None:
    monkeypatch.setattr(uci, "load", lambda _, split, validation: draw(varying, split, validation)[0])
    monkeypatch.setitem(uci.HIDDEN, "yacht", 10)


@pytest.mark.parametrize(("method", "varying"), [("SGHMC", False), ("SGHMC", True), ("svi", False)])
def test_comes_close_to_the_law(monkeypatch: pytest.MonkeyPatch, method: uci.Method, varying: bool) -> None:
    """A linear law of 4 parameters would cost 4 / (2 * 300) nats a point; a network of 10 units some more.

    Measured: 0.05 and 0.09 (SGHMC), 0.04 (SVI, 200 epochs).
    """
    of_law(monkeypatch, varying)
    settings = replace(SMALL, method=method)
    choice: uci.Choice = ("varying" if varying else "constant", 100 if method == "svi" else 0.03)
    row = uci.run_split(settings, choice, 0)
    truth = draw(varying, 0, 0)[1]
    assert -0.12 < row["log-likelihood"] - truth < 0.01
    if not varying:
        assert row["RMSE"] == pytest.approx(1.0, rel=0.1)


def test_chains_that_diverge_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a third of the step size, twice; then the error is raised."""
    of_law(monkeypatch, False)
    learn, asked = uci.learn, []

    def fails(settings: uci.Settings, choice: uci.Choice, x: torch.Tensor, y: torch.Tensor, *, seed: int) -> Any:
        asked.append(choice)
        if choice[1] > largest:
            raise NumericalError("too large")
        return learn(settings, choice, x, y, seed=seed)

    monkeypatch.setattr(uci, "learn", fails)
    largest = 0.04
    row = uci.run_split(SMALL, ("constant", 0.09), 0)
    assert row["step size × information"] == pytest.approx(0.03)
    largest = 0.0
    asked.clear()
    with pytest.raises(NumericalError, match="too large"):
        uci.run_split(SMALL, ("constant", 0.09), 0)
    assert len(asked) == 3


def test_choice_is_by_the_validation_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Noise that varies is found to; a step that leaves the finite numbers is out; the test part is never looked at."""

    def blind(_: uci.Settings, split: int, validation: int | None) -> Standardized:
        found = draw(True, split, validation)[0]
        found.data.x_test.fill_(math.nan)
        found.data.y_test.fill_(math.nan)
        return found

    monkeypatch.setattr(uci, "load", blind)
    settings = replace(SMALL, step_sizes=(0.03, 1e4))
    kept = uci.Kept(tmp_path / "kept.jsonl", {})
    assert uci.choose(settings, kept, progress=False) == ("varying", 0.03)
    scores = {tuple(row["trial"]): row["score"] for row in kept.rows if "trial" in row}
    assert len(scores) == 4
    assert scores["constant", 1e4] == scores["varying", 1e4] == -math.inf


def test_no_choice_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uci, "validate", lambda *_: -math.inf)
    with pytest.raises(NumericalError, match="none of"):
        uci.choose(SMALL, uci.Kept(tmp_path / "kept.jsonl", {}), progress=False)


def test_nothing_is_done_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def validate(_: uci.Settings, choice: uci.Choice, split: int) -> float:
        asked.append(choice)
        return -choice[1]

    def run_split(_: uci.Settings, choice: uci.Choice, split: int) -> dict[str, float]:
        asked.append(split)
        return {"split": split, "RMSE": 1.0, "log-likelihood": float(split)}

    monkeypatch.setattr(uci, "validate", validate)
    monkeypatch.setattr(uci, "run_split", run_split)
    options: dict[str, Any] = {"out": tmp_path, "progress": False, "console": Console(quiet=True)}
    first = uci.run(SMALL, **options)
    assert len(asked) == len(uci.choices(SMALL)) + 2
    more = uci.run(replace(SMALL, splits=3, data_dir=tmp_path), **options)
    assert asked[-1] == 2
    assert len(asked) == len(uci.choices(SMALL)) + 3
    assert more[:2] == first[:2]
    assert more[-2]["log-likelihood"] == 1.0
    assert more[-1]["log-likelihood"] == pytest.approx(1 / math.sqrt(3))
    with pytest.raises(InputError, match="Name another folder"):
        uci.run(replace(SMALL, warmup=SMALL.warmup + 1), **options)


def test_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the embedded diabetes table; chains that are worse than the training mean would be no regression."""

    def load(_: uci.Settings, split: int, validation: int | None) -> Standardized:
        return standardize(bdl.data.load("diabetes", seed=split, validation=validation))

    monkeypatch.setattr(uci, "load", load)
    settings = replace(SMALL, noises=("constant",), step_sizes=(0.03,))
    rows = command.main(command.Options(problem="uci", uci=settings, out=tmp_path, progress=False))
    assert [row["split"] for row in rows] == [0, 1, "mean", "standard error"]
    assert rows[2]["RMSE"] < 70  # the targets' deviation is 77
    assert rows[3]["RMSE"] > 0
    assert json.loads((tmp_path / "uci_yacht_sghmc.json").read_text())["rows"] == rows
    assert (tmp_path / "uci.png").stat().st_size > 0


def test_information_and_modes() -> None:
    """Of constant noise the information is N times the precision; Adam's precision is one over the mean square."""
    torch.manual_seed(0)
    x = torch.randn(100, 2)
    y = x[:, 0] + 0.5 * torch.randn(100)
    model = Model(2, 10, noise="constant", prior_scale=1.5, shape=1.0, rate=0.01)
    modes = model.modes(x, y, chains=2, steps=1000, batch_size=100, seed=0)
    for mode in modes:
        assert model.information(mode, x) == pytest.approx(100 * float(mode["precision"]), rel=1e-5)
        error, _ = model.judge({name: value[None] for name, value in mode.items()}, x, y)
        assert float(mode["precision"]) * error**2 == pytest.approx(1.0, rel=0.1)
    assert not torch.equal(modes[0]["fc1.weight"], modes[1]["fc1.weight"])


def test_published_errors_are_of_the_mean() -> None:
    assert uci_figures.published("boston")["PBP"] == (-2.57, 0.09)
    assert uci_figures.published("boston")["Deep ensembles"] == (-2.41, 0.25 / math.sqrt(20))
    assert uci_figures.published("protein")["Deep ensembles"] == (-2.83, 0.02 / math.sqrt(5))
