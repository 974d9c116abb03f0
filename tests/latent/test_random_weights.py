"""Bayesian decoders: copied, sent to another process, compressed."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

import pyro_bdl as bdl
from pyro_bdl.weight_moments import weight_posterior
from tests.latent.programs import PIXELS, black_and_white, seeded, semi_supervised

X = black_and_white(40, PIXELS).float()


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def bayesian() -> bdl.VariationalAutoencoder:
    """With random weights, and a bias that is learned."""
    decoder = bdl.BayesianModule(nn.Linear(2, PIXELS), bdl.priors.GroupNormalJeffreys(), select=["weight"])
    return bdl.VariationalAutoencoder(nn.Linear(PIXELS, 4), decoder, 2)


AUTOENCODERS: dict[str, Callable[[], Any]] = {
    "plain": lambda: bdl.VariationalAutoencoder(nn.Linear(PIXELS, 4), nn.Linear(2, PIXELS), 2),
    "Bayesian": bayesian,
    "semi-supervised": lambda: semi_supervised().float(),
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda vae: pickle.loads(pickle.dumps(vae)),
    "torch.save": saved,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("case", AUTOENCODERS)
def test_a_copy_is_the_same_and_stands_alone(case: str, way: str) -> None:
    vae = seeded(AUTOENCODERS[case])
    bdl.fit_svi(vae.model, vae.guide, X, epochs=1, progress=False)
    copied = COPIES[way](vae)
    losses = []
    for one in (vae, copied):
        torch.manual_seed(0)
        losses.append(bdl.MeanFieldELBO().loss(one.model, one.guide, X))
    assert losses[0] == losses[1]
    before = copy.deepcopy(vae.state_dict())
    bdl.fit_svi(copied.model, copied.guide, X, epochs=1, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    changed = [name for name, value in copied.state_dict().items() if not torch.equal(value, before[name])]
    assert {"encoder", "decoder"} <= {name.split(".")[0] for name in changed}


def test_a_bayesian_decoder_is_compressed() -> None:
    """Of the digits under a node prior: units go, and what is left decodes as the posterior mean does."""
    x = bdl.data.load("digits").x_train.flatten(1).round()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 64))
    encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 20))
    decoder = bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys(), name="decoder")
    vae = bdl.VariationalAutoencoder(encoder, decoder, 10)
    bdl.fit_svi(
        vae.model, vae.guide, x, epochs=80, batch_size=200, kl_warmup=40, progress=False, seed=0,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
    )  # fmt: skip
    z = torch.randn(200, 10)
    small = bdl.compress(vae.decoder[0], vae.weights.guide, example_input=z)
    assert 1 <= small.module[0].out_features < 45
    mean = weight_posterior(net, vae.weights.guide, z).mean
    whole, pruned, coded = (vae.likelihood.mean(outputs, 1).detach() for outputs in (
        functional_call(net, dict(mean), (z,)), small.variants["pruned"](z), small.module(z),
    ))  # fmt: skip
    torch.testing.assert_close(pruned, whole, rtol=0.0, atol=0.05)
    assert float((coded - pruned).abs().mean()) < 0.1 * float(pruned.std())


def test_of_two_bayesian_networks_each_is_compressed() -> None:
    """Whose inputs differ in size."""
    layers = [bdl.BayesianModule(nn.Linear(size, 4), name=f"layer{size}") for size in (2, 1)]
    vae = bdl.VariationalAutoencoder([nn.Linear(PIXELS, 4), nn.Linear(2, 2)], layers, [2, 1])
    bdl.fit_svi(vae.model, vae.guide, X, epochs=1, progress=False)
    for module, size in zip(layers, (2, 1), strict=True):
        z = torch.zeros(3, size)
        guide = bdl.local_reparameterization(vae.weights.guide, model=module)
        assert bdl.compress(module, guide, example_input=z).module(z).shape == (3, 4)
