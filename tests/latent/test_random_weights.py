"""Bayesian decoders: copied, sent to another process, compressed."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import pyro_bdl as bdl
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
