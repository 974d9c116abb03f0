"""Several stochastic layers: what their KL is, and whether they have collapsed."""

import math

import pytest
import torch
from torch import nn

import pyro_bdl as bdl
from pyro_bdl.errors import PosteriorCollapseWarning
from pyro_bdl.latent import Gaussian
from tests.latent.programs import PIXELS, hierarchical, rows
from tests.statistics import mean_is

X = rows(40)


def test_latent_kl_of_two_layers_is_that_of_the_bound() -> None:
    """Of the same draws: the lower layer's is no closed form, see `test_two_stochastic_layers`."""
    layers, x, elbo = hierarchical(), rows(30), bdl.MeanFieldELBO()
    torch.manual_seed(0)
    loss = elbo.loss(layers.model, layers.guide, x)
    elbo.kl_weight = 0.0
    torch.manual_seed(0)
    kl = loss - elbo.loss(layers.model, layers.guide, x)
    torch.manual_seed(0)
    found = bdl.diagnostics.latent_kl(layers.model, layers.guide, x)
    assert {name: tuple(each.shape) for name, each in found.items()} == {"z.1": (2,), "z.2": (1,)}
    assert 30 * sum(float(each.sum()) for each in found.values()) == pytest.approx(kl)


def linear(weight: list[float], bias: list[float]) -> nn.Linear:
    net = nn.Linear(1, len(weight)).double()
    net.load_state_dict({"weight": torch.tensor(weight)[:, None], "bias": torch.tensor(bias)})
    return net


def test_collapsed_layers_are_told() -> None:
    """q(z1, z2) is p(z1, z2), whatever x: no KL in all, though each layer has one given the other."""
    joint = [0.9, 0.0], [0.0, math.log(1 - 0.9**2)]
    encoder = [nn.Sequential(nn.Linear(PIXELS, 1).double(), linear([0.0, 0.0], [0.0, 0.0])), linear(*joint)]
    decoder = [nn.Linear(1, PIXELS).double(), linear(*joint)]
    vae = bdl.VariationalAutoencoder(encoder, decoder, [1, 1], likelihood=Gaussian(1.0))
    found = [bdl.diagnostics.latent_kl(vae.model, vae.guide, X) for _ in range(1000)]
    mean_is([float(kl["z.1"] + kl["z.2"]) for kl in found], 0.0)
    with pytest.warns(PosteriorCollapseWarning, match=r"numbers of z.1, z.2 have together a KL below 0.02 nats"):
        bdl.fit_svi(vae.model, vae.guide, X, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.0), progress=False)


def test_one_number_of_many_that_is_used_is_enough() -> None:
    """Warnings are errors here: 3 nats of the first of 600, and nothing of the others."""
    size, scale = 300, math.exp(-3.0)
    first = torch.eye(size, 1).double()
    bottom, top = nn.Linear(1, 2 * size).double(), nn.Linear(size, 2 * size).double()
    for net in (bottom, top):
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)
    with torch.no_grad():
        bottom.weight[:size] = first
        bottom.bias[size] = 2 * math.log(scale)
    decoder = [nn.Linear(size, 1, bias=False).double(), nn.Linear(size, 2 * size).double()]
    for net in decoder:
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
    with torch.no_grad():
        decoder[0].weight[:] = first.T
    vae = bdl.VariationalAutoencoder([bottom, top], decoder, [size, size], likelihood=Gaussian(scale))
    x = torch.randn(200, 1).double()
    bdl.fit_svi(vae.model, vae.guide, x, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.0), progress=False)


def test_layers_that_say_something_are_not_called_collapsed() -> None:
    """Warnings are errors here."""
    layers = hierarchical()
    bdl.fit_svi(layers.model, layers.guide, X, epochs=1, progress=False)
