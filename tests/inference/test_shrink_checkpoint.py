"""Checkpoints of fits that shrink: a resumed fit ends bit for bit like the uninterrupted one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_bdl.errors import InputError
from tests.inference import shrunk
from tests.inference.killing import ends_as_if_never_killed


class Interrupted(Exception):
    pass


def _raise_at(epoch: int, error: BaseException) -> Callable[[Any], None]:
    def callback(told: Any) -> None:
        if told.epoch == epoch:
            raise error

    return callback


@pytest.mark.parametrize("epoch", [7, 8, 9, 11, 14])
def test_resumed_bit_for_bit(epoch: int, tmp_path: Any) -> None:
    whole, digest = shrunk.run(None, 16)
    assert sum(int((~mask).sum()) for mask in whole.kept.values()) > 10
    with pytest.raises(Interrupted):
        shrunk.run(tmp_path / "fit", 16, callbacks=[_raise_at(epoch, Interrupted())])
    torch.rand(3)
    resumed, again = shrunk.run(tmp_path / "fit", 16)
    assert (resumed.losses, resumed.kls) == (whole.losses, whole.kls)
    assert again == digest
    assert shrunk.run(tmp_path / "fit", 16)[1] == digest  # done already


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Any) -> None:
    shrunk.run(tmp_path / "fit", 12)
    for shrink in (False, True):
        with pytest.raises(InputError, match="Name another file"):
            shrunk.run(tmp_path / "fit", 14, shrink=shrink)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_9(kills: int, tmp_path: Path) -> None:
    """The kills begin after the first cut."""
    ends_as_if_never_killed(
        shrunk, tmp_path, epochs=24, kills=kills, most_delay=0.1, begun=lambda facts: bool(facts["shrink"])
    )
