"""The main job runs, with chains from fresh networks and from modes."""

from dataclasses import replace
from pathlib import Path

import pytest

from models import lenet
from tests.fresh_state import fresh_state  # noqa: F401


@pytest.mark.parametrize("map_epochs", [0, 1])
def test_each_chain_has_a_start_of_its_own(map_epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(lenet.SETTINGS["digits"], sgld_map_epochs=map_epochs)
    monkeypatch.setitem(lenet.SETTINGS, "digits", few)
    problem = lenet.Problem(lenet.Options(progress=False))
    first, second = lenet.a_mode(problem), lenet.a_mode(problem)
    for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
        far = (first[name] - second[name]).std()
        assert far > first[name].std(), name  # of two independent ones 1.4 times; of one that is fitted on, far less


@pytest.mark.filterwarnings("ignore")  # ArviZ on three draws
@pytest.mark.parametrize("map_epochs", [0, 1])
def test_main_job(map_epochs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = replace(
        lenet.SETTINGS["digits"], epochs=2, kl_warmup=1, svi_draws=4, sgld_map_epochs=map_epochs, sgld_warmup_epochs=1,
        sgld_epochs=1, sgld_draws=4, loo_draws=8,
    )  # fmt: skip
    monkeypatch.setitem(lenet.SETTINGS, "digits", few)
    rows = lenet.main(lenet.Options(out=tmp_path, chains=2, progress=False))
    assert [row["method"].split(",")[0] for row in rows] == ["plain", "SVI", "SGLD"]
    assert {"svi.nc", "sgld.nc"} <= {path.name for path in tmp_path.iterdir()}
