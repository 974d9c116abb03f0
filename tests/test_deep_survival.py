"""The command: all fits on the simulated data, as files too; judged by what is known of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import arviz as az
import pytest
import torch

from models.deep_survival import __main__ as command
from models.deep_survival import judging
from models.deep_survival.problem import Problem
from models.deep_survival.settings import SETTINGS
from pyro_bdl.data import GaussianRisk, Subjects, SurvivalData
from pyro_bdl.errors import InputError
from tests.fresh_state import fresh_state  # noqa: F401

pytest.importorskip("sksurv")
FEW = replace(  # for fewer subjects, wider priors
    SETTINGS["synthetic"], plain_scale=1.0, plain_epochs=60, svi_scale=4.0, svi_epochs=60, svi_draws=30,
    chain_scale=2.0, chains=2, mode_epochs=20, warmup=50, updates=100, thinning=10,
)  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """800 subjects instead of 4,000, and 400 held out."""

    def load(name: str, **_: Any) -> SurvivalData:
        drawn = GaussianRisk().sample(1200, seed=0)
        train, test = (Subjects(*(c[part] for c in drawn)) for part in (slice(800), slice(800, None)))
        return SurvivalData(name, "no unit", train, test, test)

    monkeypatch.setattr("pyro_bdl.data.load_survival", load)
    monkeypatch.setattr("models.deep_survival.fits.LINEAR_EPOCHS", 100)


def problem() -> Problem:
    return Problem("synthetic", FEW, root=None, seed=0, on_test=True, progress=False)


def test_what_judges_is_asked_for_before_anything_is_fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pyro-bdl\[survival\]"):
        command.main(command.Options(out=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.filterwarnings("ignore")  # ArviZ on few draws
def test_command(small: None, tmp_path: Path) -> None:
    """A network sees the risk that a linear model, at the concordance of chance, cannot."""
    rows = command.main(command.Options(settings=FEW, out=tmp_path, progress=False))
    found = {row["method"]: row for row in rows}
    assert found["Cox, linear"]["concordance"] == pytest.approx(0.5, abs=0.05)
    assert found["Cox, linear"]["concordance"] == pytest.approx(
        found["linear, full likelihood"]["concordance"], abs=0.01
    )
    for name in ("plain network", "Bayesian network, SVI", "Bayesian network, chains"):
        assert found[name]["concordance"] > found["Cox, linear"]["concordance"] + 0.03
        assert found[name]["log-likelihood"] > found["linear, full likelihood"]["log-likelihood"]
        assert found[name]["integrated Brier"] < found["linear, full likelihood"]["integrated Brier"]
    assert 0.3 < found["Bayesian network, chains"]["true curves in band"] <= 1.0
    assert json.loads((tmp_path / "synthetic_test.json").read_text())["rows"] == rows
    for name in ("curves", "calibration", "risk"):
        assert (tmp_path / f"synthetic_{name}.png").stat().st_size > 10_000
    for name in ("svi", "chains"):
        data = az.from_netcdf(str(tmp_path / f"{name}.nc"))
        assert data.posterior["survival"].shape[2:] == (4, 60)
        assert data.log_likelihood["time"].shape[-1] == 800


def test_means_over_seeds(small: None, tmp_path: Path) -> None:
    options = command.Options(settings=FEW, out=tmp_path, progress=False, seeds=(0, 1), methods=("linear", "plain"))
    rows = command.main(options)
    assert [row["seed"] for row in rows] == ["0", "0", "1", "1", "mean", "mean"]
    plain = [row["concordance"] for row in rows if row["method"] == "plain network"]
    assert plain[2] == pytest.approx((plain[0] + plain[1]) / 2)
    assert plain[0] != plain[1]


def test_the_truth_is_judged_best(small: None) -> None:
    """Of the law itself: calibrated, its concordance that of the hazards; of a law turned round, one minus that."""
    p = problem()
    assert p.law is not None
    truth = p.law.survival(p.held_raw.x, p.times)
    from sksurv.metrics import concordance_index_censored

    known = concordance_index_censored(
        p.held.event.numpy(), p.held.time.numpy(), p.law.log_hazard_ratio(p.held_raw.x).double().numpy()
    )[0]
    found = judging.concordance(truth, p.held)
    assert found == pytest.approx(known, abs=1e-6)
    turned = p.law.survival(p.held_raw.x, p.times[:1]) ** -1.0
    assert judging.concordance(turned.expand_as(truth), p.held) == pytest.approx(1 - known, abs=1e-4)
    best = judging.integrated_brier(truth, p.times, p.train, p.held)
    assert best < judging.integrated_brier(truth.mean(0).expand_as(truth), p.times, p.train, p.held)
    assert judging.true_curves_covered(torch.stack([truth - 0.01, truth + 0.01]), p) == 1.0
    assert judging.true_curves_covered(torch.stack([truth + 0.01, truth + 0.02]), p) == 0.0


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one of each"):
        command.main(command.Options(methods=(), out=tmp_path))


def test_the_defaults_are_those_of_the_data_set() -> None:
    assert command.defaults(["--data", "support"]).settings == SETTINGS["support"]
    assert command.defaults(["--seeds", "1"]).settings == SETTINGS["synthetic"]
    assert command.defaults(["--data", "no such"]).data == "synthetic"
