"""The compression command from training to a file that is read again, for posteriors and for point weights."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from models import bayesian_compression as command
from models import compression_problem as problems
from models import compression_settings as recipes
from models.compression_settings import Options
from pyro_bdl.errors import InputError


@pytest.mark.filterwarnings("ignore:No choice tried keeps the tolerance")  # of a fit of two epochs
@pytest.mark.parametrize("guide", ["mean-field", "point"])
def test_soft_weight_sharing(guide: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = replace(recipes.POINT["digits"], epochs=2, pretraining=2, kl_warmup=1)
    monkeypatch.setitem(recipes.POINT, "digits", few)
    monkeypatch.setitem(recipes.SETTINGS, ("digits", "soft-weight-sharing"), few)
    options = Options(prior="soft-weight-sharing", guide=guide, out=tmp_path / "a", progress=False)
    row = command.main(options)
    assert row["file_bytes"] == (tmp_path / "a" / "net.bdl").stat().st_size
    assert ("codebook" in row["bytes_by_part"]) == (guide == "point")
    posterior = tmp_path / "a" / "posterior.safetensors"
    assert any(name.startswith(problems.MIXTURE) for name in load_file(posterior))
    again = command.main(replace(options, out=tmp_path / "b", posterior=posterior, seed=1))
    assert (tmp_path / "a" / "net.bdl").read_bytes() == (tmp_path / "b" / "net.bdl").read_bytes()
    assert again["test error %"] == row["test error %"]


@pytest.mark.filterwarnings("ignore:No choice tried keeps the tolerance")
def test_a_draw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = replace(recipes.SMALL, epochs=4, kl_warmup=1)
    monkeypatch.setitem(recipes.SETTINGS, ("digits", "group-normal-jeffreys"), few)
    row = command.main(Options(draw=True, shrink=True, final_kl_weight=0.2, out=tmp_path, progress=False))
    assert row["bytes_by_part"]["random code"] > 0
    assert row["file_bytes"] == (tmp_path / "net.bdl").stat().st_size
    assert set(row["test error %"]) == {"pruned", "fast", "fast in floats", "fast by unit", "coded"}


@pytest.mark.filterwarnings("ignore:(No choice tried keeps|What was retrained does not keep) the tolerance")
def test_retrained_integers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = replace(recipes.SMALL, epochs=4, kl_warmup=1)
    monkeypatch.setitem(recipes.SETTINGS, ("digits", "log-uniform"), few)
    options = Options(prior="log-uniform", out=tmp_path / "a", progress=False)
    plain = command.main(options)
    posterior = tmp_path / "a" / "posterior.safetensors"
    short = command.main(replace(options, out=tmp_path / "b", posterior=posterior, retraining=10))
    assert short["file_bytes"] == (tmp_path / "b" / "net.bdl").stat().st_size < plain["file_bytes"]


@pytest.mark.parametrize("option", [{"guide": "point"}, {"codebook": "mixture"}])
def test_what_only_soft_weight_sharing_has(option: dict[str, str]) -> None:
    with pytest.raises(InputError, match="soft weight sharing"):
        problems.Problem(Options(prior="log-uniform", **option))
