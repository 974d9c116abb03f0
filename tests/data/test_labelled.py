"""A few labels among many images: which, and how they come to a fit."""

from typing import Any

import pytest
import torch

from pyro_bdl.data import BesideLabelled, balanced
from pyro_bdl.errors import InputError
from tests.fresh_state import fresh_state  # noqa: F401

X, Y = torch.arange(10.0), torch.arange(4)
IMAGES = X[:, None] / 10


def test_labelled_subset_is_balanced() -> None:
    y = torch.arange(1000) % 10
    rows = balanced(y, 50, seed=3)
    assert torch.equal(y[rows].bincount(), torch.full((10,), 5))
    assert len(rows.unique()) == 50
    assert torch.equal(rows, balanced(y, 50, seed=3))
    assert not torch.equal(rows, balanced(y, 50, seed=4))
    for count in (5, 2000):
        with pytest.raises(InputError, match="labels: expected a multiple of 10"):
            balanced(y, count, seed=0)


def test_batches_beside_labelled_ones() -> None:
    batches = list(BesideLabelled(X, X[:4], Y, batch_size=4, labelled_batch_size=3, draw=lambda x: -x))
    assert [len(batch.args[0]) for batch in batches] == [4, 4, 2]
    assert torch.equal(-torch.cat([batch.args[0] for batch in batches]).sort().values.flip(0), X)
    for _, x_labelled, y in (batch.args for batch in batches):
        assert torch.equal(x_labelled, -y.float())
        assert len(y.unique()) == 3


def test_images_are_shown_beside() -> None:
    """Those of the rows that are seen."""
    batches = BesideLabelled(
        X, X[:4], Y, batch_size=4, labelled_batch_size=3, images=(IMAGES, IMAGES[:4]), show=lambda x: -x
    )
    for seen, seen_labelled, _, shown, shown_labelled in (batch.args for batch in batches):
        assert torch.equal(-10 * shown[:, 0], seen)
        assert torch.equal(-10 * shown_labelled[:, 0], seen_labelled)


REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "no data": ((X[:0], X[:4], Y), {}, "got 0 and 4 with 4 labels"),
    "no labels": ((X, X[:0], Y[:0]), {}, "got 10 and 0 with 0 labels"),
    "fewer labels": ((X, X[:4], Y[:3]), {}, "got 10 and 4 with 3 labels"),
    "no batch": ((X, X[:4], Y), {"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    "no labelled batch": ((X, X[:4], Y), {"labelled_batch_size": 0}, "labelled_batch_size: expected at least 1, got 0"),
    "other images": ((X, X[:4], Y), {"images": (IMAGES, IMAGES)}, "images: expected 10 and 4.* got 10 and 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    data, options, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        BesideLabelled(*data, **{"batch_size": 4, "labelled_batch_size": 3} | options)
