"""A classifier that is shown something else than what the model observes."""

import copy

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


@pytest.mark.parametrize(
    ("program", "args"), [(VAE, (X, None, X[:3])), (PAIR, (X, X[:4], Y, X[:3])), (PAIR, (X, X[:4], Y, X, X[:3]))]
)
def test_a_row_is_shown_of_each(program: object, args: tuple[torch.Tensor, ...]) -> None:
    elbo = bdl.MeanFieldELBO()
    with pytest.raises(InputError, match=r"shown: expected a row for each of [47] data points, got 3"):
        elbo.loss(program.model, program.guide, *args)  # type: ignore[attr-defined]
