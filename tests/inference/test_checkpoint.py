"""Checkpoints: a resumed fit ends bit for bit like the uninterrupted one; damage is refused; nothing is pickled."""

import copy
import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_bdl as bdl
from pyro_bdl.errors import CorruptFileError, InputError
from pyro_bdl.inference.checkpoint import read
from pyro_bdl.state_file import write_state
from tests.inference import checkpointed
from tests.inference.checkpointed import run
from tests.inference.killing import ends_as_if_never_killed

OPTIMIZERS: dict[str, Callable[..., Any] | None] = {
    "default": None,
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-4),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True),
}


class Interrupted(Exception):
    """Ends a fit from a callback."""


def interrupt(told: Any) -> None:
    if told.epoch == 2:
        raise Interrupted


@pytest.mark.parametrize("estimator", ["local", "plain"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumed_bit_for_bit(name: str, estimator: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": OPTIMIZERS[name], "estimator": estimator, "schedule": lambda t: 1 - t / 2}
    whole, digest = run(None, 6, **options)
    path = tmp_path / "deeper" / "fit.safetensors"
    with pytest.raises(Interrupted):
        run(path, 6, callbacks=[interrupt], **options)
    torch.rand(3)
    resumed, again = run(path, 6, **options)
    assert (resumed.losses, again) == (whole.losses, digest)
    assert resumed.seconds > 0.0
    assert run(path, 6, **options)[1] == digest  # done already
    assert [p.name for p in path.parent.iterdir()] == ["fit.safetensors"]


@pytest.mark.parametrize("kills", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9(kills: int, tmp_path: Path) -> None:
    ends_as_if_never_killed(checkpointed, tmp_path, epochs=150, kills=kills, most_delay=0.2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "fit"
    run(path, 2)
    return path.read_bytes()


def refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="the checkpoint"):
        read(path)


def test_bit_flips_and_truncations_are_refused(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fit"
    for bit in random.sample(range(8 * len(saved)), 300):
        damaged = bytearray(saved)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(path, bytes(damaged))
    for length in [0, 1, 31, 32, 33, *random.sample(range(len(saved)), 100)]:
        refused(path, saved[:length])
    for _ in range(100):
        a, b = sorted(random.sample(range(len(saved)), 2))
        if saved[:a] + saved[b:] != saved:
            refused(path, saved[:a] + saved[b:])
    refused(path, saved + b"\0")


def test_a_damaged_checkpoint_ends_a_fit_before_it_begins(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fit"
    path.write_bytes(saved[:-1])
    with pytest.raises(CorruptFileError, match="remove it to begin anew"):
        run(path, 3)
    assert path.read_bytes() == saved[:-1]


OTHER_FITS: dict[str, dict[str, Any]] = {
    "batch size": {"batch_size": 20},
    "optimizer": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)},
    "seed": {"seed": 4},
    "no seed": {"seed": None},
    "bound": {"elbo": bdl.MeanFieldELBO(2)},
    "particles": {"num_particles": 2},
    "estimator": {"estimator": "plain"},
    "weight of the KL": {"kl_weight": 9.0},
    "warm-up": {"kl_warmup": 2},
}


@pytest.mark.parametrize("case", OTHER_FITS)
def test_a_checkpoint_of_another_fit_is_refused(case: str, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fit"
    path.write_bytes(saved)
    with pytest.raises(InputError, match="Name another file"):
        run(path, 3, **OTHER_FITS[case])


def test_the_same_options_said_in_other_words_are_the_same_fit(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fit"
    path.write_bytes(saved)
    run(path, 3, elbo=bdl.MeanFieldELBO(kl_weight=1), kl_weight=1, kl_warmup=5.0)


OTHER_BOUNDS = {
    "draws": bdl.objective("iwae", num_samples=3),
    "gradient": bdl.objective("dreg", num_samples=2),
    "beta": bdl.MeanFieldELBO(2, kl_weight=0.5),
    "free bits": bdl.MeanFieldELBO(2, free_bits=0.1),
    "Pyro's": Trace_ELBO(2),
}


@pytest.mark.parametrize("first", [bdl.objective("iwae", num_samples=2), bdl.MeanFieldELBO(2)])
@pytest.mark.parametrize("case", OTHER_BOUNDS)
def test_a_checkpoint_of_another_bound_is_refused(case: str, first: Any, tmp_path: Path) -> None:
    def fit(elbo: Any, epochs: int) -> bdl.Fit:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = bdl.VariationalAutoencoder(nn.Linear(3, 2), nn.Linear(1, 3), 1)
        data, path = (torch.arange(60.0).reshape(20, 3) % 2,), tmp_path / "fit"
        return bdl.fit_svi(vae.model, vae.guide, data, epochs=epochs, elbo=elbo, checkpoint=path, progress=False)

    fit(first, 1)
    with pytest.raises(InputError, match="Name another file"):
        fit(OTHER_BOUNDS[case], 2)
    assert len(fit(copy.deepcopy(first), 2).losses) == 2


def test_a_checkpoint_that_tells_no_seed_is_refused(saved: bytes, tmp_path: Path) -> None:
    """As they were once written."""
    path = tmp_path / "fit"
    path.write_bytes(saved)
    tensors, facts = read(path)
    write_state(path, tensors, facts | {"layout": [line for line in facts["layout"] if line != "seed 3"]})
    with pytest.raises(InputError, match=r"expected .*seed 3.*Name another file"):
        run(path, 3)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(
    call: str, code: int, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fit"
    path.write_bytes(saved)

    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((os, "fsync", fail) if call == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match=os.strerror(code)):
        run(path, 4)
    assert path.read_bytes() == saved
    assert list(tmp_path.iterdir()) == [path]


AUDIT = """
import sys
opened = []
def hook(event, args):
    if event.startswith("pickle."):
        opened.append(event)
sys.addaudithook(hook)
from tests.inference.checkpointed import run
opened.clear()
run(sys.argv[1], 2); run(sys.argv[1], 3)
assert not opened, opened
import pickle
pickle.loads(pickle.dumps(print))
assert opened  # the hook does see a pickle
"""


def test_no_pickle(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", AUDIT, str(tmp_path / "fit")], check=True)
