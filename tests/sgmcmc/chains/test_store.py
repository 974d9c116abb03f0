"""A run's store: it can be read while it grows, and a run goes on from it as if it had never stopped."""

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.errors import CorruptFileError, InputError, NumericalError
from pyro_bdl.sgmcmc.chains import run as running
from tests.fresh_state import fresh_state  # noqa: F401
from tests.sgmcmc.chains.problems import KERNELS, NETWORK, X, Y, kernel
from tests.sgmcmc.chains.run_to_store import SETTINGS

# Chains of a few draws, far from where they will settle.
pytestmark = pytest.mark.filterwarnings("ignore::pyro_bdl.errors.StepSizeWarning")
ROOT = Path(__file__).parents[3]


def require_same(one: bdl.Chains, other: bdl.Chains) -> None:
    """Bit for bit."""
    pairs = [(one.get_samples(), other.get_samples()), (one.sample_stats(), other.sample_stats())]
    if one.moments is not None and other.moments is not None:
        pairs += [(one.moments.mean, other.moments.mean), (one.moments.variance, other.moments.variance)]
    for expected, found in pairs:
        assert set(expected) == set(found)
        for name, value in expected.items():
            assert torch.equal(value.nan_to_num(7.0), found[name].nan_to_num(7.0)), name


@pytest.mark.parametrize("method", ["vectorized", "sequential"])
@pytest.mark.parametrize("name", KERNELS)
def test_it_goes_on_as_if_it_had_not_stopped(name: str, method: Any, tmp_path: Path) -> None:
    """Also with other places of the saves, and twice."""
    options = {**SETTINGS, "chain_method": method}
    whole = bdl.sample_chains(KERNELS[name](), num_samples=40, **options)
    for part in (7, 25, 40, 40):
        parts = bdl.sample_chains(
            KERNELS[name](), num_samples=part, store=tmp_path / "run.zarr", resume=True, **options
        )
    require_same(whole, parts)


def test_a_model_that_draws_its_own_batch_goes_on_too(tmp_path: Path) -> None:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
        with pyro.plate("data", size=len(X), subsample_size=10) as rows:
            pyro.sample("y", dist.Normal(X[rows] @ w, 1.0), obs=Y[rows])

    options = {**SETTINGS, "chain_method": "sequential"}
    whole = bdl.sample_chains(bdl.SGLD(model, step_size=1e-3), num_samples=30, **options)
    for part in (10, 30):
        parts = bdl.sample_chains(
            bdl.SGLD(model, step_size=1e-3), num_samples=part, store=tmp_path / "s", resume=True, **options
        )
    require_same(whole, parts)


def test_single_precision_goes_on_too(tmp_path: Path) -> None:
    """The Metropolis test's log joint density stays in double precision."""

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", size=len(X), subsample_size=len(x)):
            pyro.sample("y", dist.Normal(x * w, 1.0), obs=y)

    sampler = bdl.Langevin(model, step_size=1e-2, data=(X[:, 0].float(), Y.float()))
    options = {**SETTINGS, "chain_method": "vectorized"}
    whole = bdl.sample_chains(sampler, num_samples=30, **options)
    for part in range(3, 33, 3):
        parts = bdl.sample_chains(sampler, num_samples=part, store=tmp_path / "s", resume=True, **options)
    require_same(whole, parts)


def test_arviz_opens_it_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each save: whole draws, of the length that is there, and the same ones later."""
    monkeypatch.setattr(running, "SECONDS", 0.0)
    monkeypatch.setattr(running, "FIRST", 3)
    seen: list[xr.DataTree] = []
    publish = running.ChainStore.publish

    def look(store: Any, draws: int) -> None:
        publish(store, draws)
        if draws:
            seen.append(bdl.from_chains(store.path, container="datatree").load())

    monkeypatch.setattr(running.ChainStore, "publish", look)
    chains = bdl.sample_chains(
        KERNELS["SGLD"](), num_samples=20, store=tmp_path / "run.zarr", functions={"f": (NETWORK, X[:2])}, **SETTINGS
    )
    lengths = [tree["posterior"].sizes["draw"] for tree in seen]
    assert len(set(lengths)) > 4
    assert lengths == sorted(lengths)
    assert lengths[-1] == 20
    final = chains.get_samples(group_by_chain=True)
    for tree in seen:
        draws = tree["posterior"].sizes["draw"]
        assert tree["sample_stats"].sizes["draw"] == draws
        for name in ("scale", "0.weight", "f"):
            value = torch.from_numpy(tree["posterior"][name].values)
            assert bool(value.isfinite().all())
            assert torch.equal(value, {**final, **chains.get_functions(group_by_chain=True)}[name][:, :draws])
        assert tree["posterior"]["draw"].values.tolist() == list(range(draws))
    data = bdl.from_chains(tmp_path / "run.zarr", container="inference_data")
    assert data.posterior["f"].shape == (3, 20, 2, 1)


def test_a_store_in_its_warm_up_has_no_draws_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "FIRST", 2)
    refusals: list[str] = []
    publish = running.ChainStore.publish

    def look(store: Any, draws: int) -> None:
        publish(store, draws)
        if not draws:
            with pytest.raises(InputError, match="warm-up") as refusal:
                bdl.from_chains(store.path)
            refusals.append(str(refusal.value))

    monkeypatch.setattr(running.ChainStore, "publish", look)
    bdl.sample_chains(KERNELS["SGLD"](), num_samples=5, store=tmp_path / "run.zarr", **SETTINGS)
    assert refusals
    assert bdl.from_chains(tmp_path / "run.zarr", container="datatree").posterior.sizes["draw"] == 5


def start(folder: Path, *, kernel: str = "SGHMC", samples: int = 4000) -> "subprocess.Popen[bytes]":
    program = [sys.executable, "-m", "tests.sgmcmc.chains.run_to_store"]
    command = [*program, str(folder), kernel, "vectorized", str(samples)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def draws_in(folder: Path) -> int:
    try:
        return int(bdl.from_chains(folder, container="datatree").posterior.sizes["draw"])
    except InputError:  # none yet
        return 0


def wait_for_draws(folder: Path) -> None:
    begin = time.monotonic()
    while draws_in(folder) < 5:
        assert time.monotonic() - begin < 120
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    """The process ends with an error; what was drawn can be read; the rest then is as it would have been."""
    folder = tmp_path / "run.zarr"
    process = start(folder)
    wait_for_draws(folder)
    process.send_signal(number)
    assert process.wait(60) != 0
    draws = draws_in(folder)
    assert 5 <= draws < 4000
    options = {**SETTINGS, "chain_method": "vectorized"}
    resumed = bdl.sample_chains(KERNELS["SGHMC"](), num_samples=draws + 40, store=folder, resume=True, **options)
    require_same(bdl.sample_chains(KERNELS["SGHMC"](), num_samples=draws + 40, **options), resumed)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """200 times, at random moments of starting, drawing and saving: what is there can be read and gone on from."""
    chance, samples, kills = random.Random(0), 300, 0
    options = {**SETTINGS, "chain_method": "vectorized"}
    whole = bdl.sample_chains(KERNELS["SGNHT"](), num_samples=samples, **options)
    while kills < 200:
        folder = tmp_path / "run.zarr"
        shutil.rmtree(folder, ignore_errors=True)
        process = start(folder, kernel="SGNHT", samples=samples)
        while process.poll() is None:
            time.sleep(chance.uniform(2.0, 6.0))
            process.kill()
            process.wait()
            kills += 1
            if draws_in(folder):
                tree = bdl.from_chains(folder, container="datatree").load()
                assert not tree.posterior["scale"].isnull().any()
            process = start(folder, kernel="SGNHT", samples=samples)
            if kills % 5 == 0:
                assert process.wait(300) == 0
        resumed = bdl.sample_chains(KERNELS["SGNHT"](), num_samples=samples, store=folder, resume=True, **options)
        require_same(whole, resumed)


def test_killed_before_the_first_save(tmp_path: Path) -> None:
    folder = tmp_path / "run.zarr"
    (folder / ".pyro_bdl").mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    options = {**SETTINGS, "num_samples": 10, "chain_method": "vectorized"}
    resumed = bdl.sample_chains(KERNELS["SGLD"](), store=folder, resume=True, **options)
    require_same(bdl.sample_chains(KERNELS["SGLD"](), **options), resumed)


def test_processes_share_the_chains(tmp_path: Path) -> None:
    """By torchrun, two processes: the draws are those of one."""
    folder = tmp_path / "run.zarr"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0", "-m", "tests.sgmcmc.chains.run_to_store", str(folder), "SGLD", "sequential",
    ]  # fmt: skip
    for samples in ("20", "50"):
        result = subprocess.run(
            [*command, samples], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr.decode()[-2000:]
    tree = bdl.from_chains(folder, container="datatree").load()
    alone = bdl.sample_chains(KERNELS["SGLD"](), num_samples=50, chain_method="sequential", **SETTINGS)
    for name, value in alone.get_samples(group_by_chain=True).items():
        assert torch.equal(torch.from_numpy(tree.posterior[name].values), value), name
    with pytest.raises(InputError, match="2 processes"):
        bdl.sample_chains(KERNELS["SGLD"](), num_samples=60, store=folder, resume=True, **SETTINGS)


def test_a_store_of_something_else(tmp_path: Path) -> None:
    folder = tmp_path / "run.zarr"
    options = {**SETTINGS, "num_samples": 10, "store": folder}
    bdl.sample_chains(KERNELS["SGLD"](), **options)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def wider(x: Tensor, y: Tensor) -> None:
        scale = pyro.sample("scale", dist.Gamma(torch.tensor(3.0, dtype=torch.float64), 5.0))
        f = NETWORK(x)[:, 0]
        with pyro.plate("data", size=len(X), subsample_size=len(x)):
            pyro.sample("y", dist.Normal(f, scale), obs=y)

    others = {
        "resume=True": (KERNELS["SGLD"](), {}),
        "SGHMC": (KERNELS["SGHMC"](), {"resume": True}),
        "step_size": (KERNELS["SGLD"](step_size=1e-5), {"resume": True}),
        "seed": (KERNELS["SGLD"](), {"resume": True, "seed": 5}),
        "num_chains": (KERNELS["SGLD"](), {"resume": True, "num_chains": 4}),
        "log joint density": (bdl.SGLD(wider, step_size=1e-4, data=(X, Y), batch_size=20), {"resume": True}),
        "data": (bdl.SGLD(wider, step_size=1e-4, data=(X, Y), batch_size=10), {"resume": True}),
    }
    for message, (sampler, more) in others.items():
        with pytest.raises(InputError, match=message):
            bdl.sample_chains(sampler, **{**options, **more})
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        bdl.sample_chains(KERNELS["SGLD"](), **{**options, "store": tmp_path / "mine", "resume": True})
    with pytest.raises(InputError, match="draws of sample_chains"):
        bdl.from_chains(tmp_path / "nothing")


def test_a_function_of_another_shape_is_named(tmp_path: Path) -> None:
    options = {**SETTINGS, "num_samples": 10, "store": tmp_path / "run.zarr", "resume": True}
    bdl.sample_chains(KERNELS["SGLD"](), functions={"f": (NETWORK, X[:2])}, **options)
    with pytest.raises(InputError, match=r"the function 'f'=.*was") as refusal:
        bdl.sample_chains(KERNELS["SGLD"](), functions={"f": (NETWORK, X[:3])}, **options)
    assert not isinstance(refusal.value, CorruptFileError)


def dropping(x: Tensor, y: Tensor) -> None:
    """Its dropout draws from torch's generator."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
    with pyro.plate("data", size=len(X), subsample_size=len(x)):
        pyro.sample("y", dist.Normal(torch.nn.functional.dropout(x) @ w, 1.0), obs=y)


def test_a_model_with_dropout_goes_on_and_leaves_the_users_generator_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {**SETTINGS, "chain_method": "sequential"}
    whole = bdl.sample_chains(bdl.SGLD(dropping, step_size=1e-3, data=(X, Y), batch_size=20), num_samples=30, **options)
    before = torch.get_rng_state()
    for part in (10, 30):
        sampler = bdl.SGLD(dropping, step_size=1e-3, data=(X, Y), batch_size=20)
        parts = bdl.sample_chains(sampler, num_samples=part, store=tmp_path / "s", resume=True, **options)
    assert torch.equal(before, torch.get_rng_state())
    require_same(whole, parts)


def test_a_damaged_store(tmp_path: Path) -> None:
    folder = tmp_path / "run.zarr"
    options = {**SETTINGS, "num_samples": 10, "store": folder}
    bdl.sample_chains(KERNELS["SGLD"](), **options)
    state = next((folder / ".pyro_bdl").iterdir())
    content = state.read_bytes()
    for bad in (
        content[:-1],
        content[:100],
        b"",
        bytes([content[0] ^ 1]) + content[1:],
        content[:-1] + bytes([content[-1] ^ 1]),
    ):
        state.write_bytes(bad)
        with pytest.raises(CorruptFileError, match="begin anew"):
            bdl.sample_chains(KERNELS["SGLD"](), **{**options, "resume": True})
    state.write_bytes(content)
    shutil.rmtree(folder / "posterior" / "scale")
    with pytest.raises(CorruptFileError, match="scale"):
        bdl.sample_chains(KERNELS["SGLD"](), **{**options, "resume": True})


def test_a_step_that_fails_leaves_the_draws_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SECONDS", 0.0)

    def schedule(t: int) -> float:
        return 1e-4 if t < 100 else 1e6

    folder = tmp_path / "run.zarr"
    with pytest.raises(NumericalError, match=r"update 1\d\d of chain"):
        bdl.sample_chains(
            kernel(bdl.SGLD, step_size=schedule), num_samples=500, store=folder, chain_method="vectorized", **SETTINGS
        )
    posterior = bdl.from_chains(folder, container="datatree").posterior
    assert 50 < posterior.sizes["draw"] < 110
    assert not posterior["scale"].isnull().any()


def memory_of(draws: int, folder: Path) -> int:
    """Bytes that Python's objects hold at the end of a run, beyond those at its beginning."""
    tracemalloc.start()
    try:
        bdl.sample_chains(
            KERNELS["SGLD"](thinning=5), num_samples=draws, num_chains=2, store=folder, progress=False, seed=0
        )
        gc.collect()  # the writers of arrays leave cycles
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path: Path) -> None:
    """By 100,000 more updates at most 1 KB per 1,000."""
    memory_of(100, tmp_path / "warm")
    few, many = memory_of(1000, tmp_path / "few"), memory_of(21_000, tmp_path / "many")
    assert many - few < 100_000
