"""Networks of more than one input: the sum of maps is the map of a row, over all leading dimensions."""

import pytest
import torch
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.errors import InputError
from pyro_bdl.latent import Concatenated, Summed
from pyro_bdl.latent.networks import run
from tests.latent.programs import black_and_white, seeded

SIZES, UNITS, OUTPUTS = (6, 3), 5, 4
# Of each input its leading dimensions and its event.
INPUTS = {
    "rows": (((7,), (6,)), ((7,), (3,))),
    "images": (((7,), (1, 2, 3)), ((7,), (3,))),
    "one image": (((1,), (1, 2, 3)), ((1,), (3,))),
    "classes": (((7,), (6,)), ((4, 1), (3,))),
    "classes of images": (((7,), (1, 3, 2)), ((4, 1), (3,))),
    "classes of one image": (((1,), (2, 3)), ((4, 1), (3,))),
    "particles of all": (((2, 4, 7), (6,)), ((4, 1), (3,))),
}


def pair() -> tuple[Concatenated, Summed]:
    """The same function twice."""

    def make() -> tuple[Concatenated, Summed]:
        rest = nn.Sequential(nn.Tanh(), nn.Linear(UNITS, OUTPUTS))
        summed = Summed(SIZES, UNITS, rest).double()
        first = nn.Linear(sum(SIZES), UNITS).double()
        with torch.no_grad():
            first.weight.copy_(torch.cat([layer.weight for layer in summed.first], 1))
            first.bias.copy_(summed.first[0].bias)
        return Concatenated(nn.Sequential(first, rest)), summed

    return seeded(make)


def values(name: str) -> tuple[list[Tensor], list[int]]:
    shapes = INPUTS[name]
    return [torch.randn(*lead, *event).double() for lead, event in shapes], [len(event) for _, event in shapes]


@pytest.mark.parametrize("name", INPUTS)
def test_summed_is_concatenated(name: str) -> None:
    """The network that broadcasts sees what the other one sees flattened."""
    concatenated, summed = pair()
    inputs, ranks = values(name)
    got, expected = run(summed, *inputs, ranks=ranks), run(concatenated, *inputs, ranks=ranks)
    leading = torch.broadcast_shapes(*(v.shape[: v.dim() - r] for v, r in zip(inputs, ranks, strict=True)))
    assert got.shape == (*leading, OUTPUTS)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", INPUTS)
def test_rows_of_the_result_are_those_of_the_inputs(name: str) -> None:
    """Each row alone gives what it gives among others."""
    concatenated, _ = pair()
    inputs, ranks = values(name)
    outputs = run(concatenated, *inputs, ranks=ranks)
    leading = outputs.shape[:-1]
    events = [v.shape[v.dim() - r :] for v, r in zip(inputs, ranks, strict=True)]
    flat = [v.expand(*leading, *e).reshape(-1, *e) for v, e in zip(inputs, events, strict=True)]
    for row, expected in enumerate(outputs.reshape(-1, OUTPUTS)):
        torch.testing.assert_close(concatenated(*(v[row : row + 1] for v in flat))[0], expected)


def m2(kind: str) -> bdl.SemiSupervisedVAE:
    def concatenated(first: list[int], outputs: int) -> nn.Module:
        layers = lambda: nn.Sequential(nn.Linear(sum(first), UNITS), nn.Tanh(), nn.Linear(UNITS, outputs))  # noqa: E731
        return Concatenated(seeded(layers, seed=outputs))

    def summed(first: list[int], outputs: int) -> nn.Module:
        own = concatenated(first, outputs).network
        net = Summed(first, UNITS, own[1:])
        with torch.no_grad():
            net.first[0].bias.copy_(own[0].bias)
            for layer, part in zip(net.first, own[0].weight.split(first, 1), strict=True):
                layer.weight.copy_(part)
        return net

    make = summed if kind == "summed" else concatenated
    classifier = nn.Sequential(nn.Flatten(), seeded(lambda: nn.Linear(6, 3)))
    return bdl.SemiSupervisedVAE(classifier, make([6, 3], 4), make([2, 3], 6), 2, classes=3).double()


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
@pytest.mark.parametrize("labelled", [False, True])
def test_an_autoencoder_of_either_has_the_same_bound(labelled: bool, shape: tuple[int, ...]) -> None:
    x, y = black_and_white(5, *shape), torch.tensor([0, 2, 1, 1, 0])
    losses, styles = [], []
    for kind in ("summed", "concatenated"):
        vae = m2(kind)
        elbo, data = bdl.MeanFieldELBO(), (x, y) if labelled else (x,)
        elbo.loss(vae.model, vae.guide, *data)
        torch.manual_seed(0)
        losses.append(elbo.loss(vae.model, vae.guide, *data))
        styles.append(vae.style(x, y).mean)
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(*styles)


@pytest.mark.parametrize("shape", [(7, 1, 2, 3), (7, 5), (6,)])
def test_summed_refuses_what_is_not_rows(shape: tuple[int, ...]) -> None:
    _, summed = pair()
    with pytest.raises(InputError, match=r"an input: expected rows of 6 numbers, got shape \("):
        summed(torch.zeros(shape).double(), torch.zeros(7, 3).double())
