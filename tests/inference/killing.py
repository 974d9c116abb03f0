"""Fits that are killed and go on: programs `python -m MODULE FILE EPOCHS`, such as `checkpointed` and `shrunk`."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pyro_bdl.inference.checkpoint import read

Begun = Callable[[dict[str, Any]], bool]
PATIENCE = 120  # seconds for a new checkpoint


def ends_as_if_never_killed(
    program: ModuleType, folder: Path, *, epochs: int, kills: int, most_delay: float, begun: Begun = bool
) -> None:
    """Kill it at random moments while it writes all the time: the file is always whole, and the end is the same.

    Args:
        program: the module.
        folder: for its files.
        epochs, kills: how many.
        most_delay: seconds at most from a new checkpoint to the kill.
        begun: says of a checkpoint's facts whether the time for kills has come. Default: at once.
    """
    _, digest = program.run(folder / "whole", epochs)
    path = folder / "fit"
    for _ in range(kills):
        _kill(program, path, epochs, random.uniform(0.0, most_delay), begun)
        tensors, facts = read(path)
        assert torch.isfinite(tensors["parameter.0"]).all()
        if len(facts["losses"]) == epochs:
            assert program.run(path, epochs)[1] == digest
            path.unlink()
    assert program.run(path, epochs)[1] == digest


def _kill(program: ModuleType, path: Path, epochs: int, delay: float, begun: Begun) -> None:
    """Start or go on, wait for a new checkpoint, then so many seconds."""
    before = _version(path)
    command = [sys.executable, "-X", "faulthandler", "-m", program.__name__, str(path), str(epochs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not (_version(path) != before and begun(read(path)[1])):
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGABRT)  # its stack is then printed
            process.wait()
            raise AssertionError(f"{program.__name__} wrote no new checkpoint within {PATIENCE} seconds")
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (0, -signal.SIGKILL)


def _version(path: Path) -> tuple[int, int] | None:
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
