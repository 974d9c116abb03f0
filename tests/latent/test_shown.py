"""A classifier that is shown something else than what the model observes."""

import copy
from typing import Any

import pytest
import torch

import pyro_bdl as bdl
from pyro_bdl.errors import InputError
from tests.latent.programs import CLASSES, PIXELS, black_and_white, semi_supervised

X, Y = black_and_white(7, PIXELS), torch.arange(4) % CLASSES
VAE = semi_supervised()
TURNED = copy.deepcopy(VAE)  # shown -x, it tells what the other one does, shown x
with torch.no_grad():
    TURNED.classifier.weight.neg_()
PAIR, TURNED_PAIR = bdl.SemiSupervisedPair(VAE, size=9), bdl.SemiSupervisedPair(TURNED, size=9)
CASES = {
    "unlabelled": (VAE, TURNED, (X,), (X, None, -X)),
    "labelled": (VAE, TURNED, (X[:4], Y), (X[:4], Y, -X[:4])),
    "both": (PAIR, TURNED_PAIR, (X, X[:4], Y), (X, X[:4], Y, -X, -X[:4])),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_shown_takes_the_place_of_x_for_the_classifier_alone(case: str) -> None:
    plain, turned, seen, shown = CASES[case]
    losses = []
    for program, args in [(plain, seen), (turned, shown)]:
        elbo = bdl.MeanFieldELBO()
        elbo.loss(program.model, program.guide, *args)  # the first call finds out what is to be enumerated
        torch.manual_seed(0)
        losses.append(elbo.loss(program.model, program.guide, *args))
    assert losses[0] == pytest.approx(losses[1])
    if case != "labelled":  # where the class is told, and nothing is shown
        torch.manual_seed(0)
        assert elbo.loss(turned.model, turned.guide, *seen) != pytest.approx(losses[0])


BAD: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "unlabelled": (VAE, (X, None, X[:3]), "shown: expected a row for each of 7 data points, got 3"),
    "labelled": (VAE, (X[:4], Y, X[:3]), "shown: expected a row for each of 4 data points, got 3"),
    "both": (PAIR, (X, X[:4], Y, X[:3], X[:4]), "shown: expected a row for each of 7 data points, got 3"),
    "both, the labelled": (PAIR, (X, X[:4], Y, X, X[:3]), "shown_labelled: expected a row for each of 4"),
    "one of both": (PAIR, (X, X[:4], Y, X), "of none, got those without"),
    "the other": (PAIR, (X, X[:4], Y, None, X[:4]), "of none, got those with"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_row_is_shown_of_each(case: str) -> None:
    program, args, message = BAD[case]
    for call in (program.model, program.guide):
        with pytest.raises(InputError, match=message):
            call(*args)
