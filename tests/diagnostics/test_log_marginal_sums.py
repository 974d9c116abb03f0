"""log_marginal of autoencoders with classes, and with two stochastic layers, against draws of their priors."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.particles import weighed
from tests.latent.programs import CLASSES, NOISE, PIXELS, black_and_white, hierarchical, rows, semi_supervised

X = rows(10)


def test_classes_are_summed_out() -> None:
    vae, x = semi_supervised(), black_and_white(4, PIXELS)
    found = bdl.log_marginal(vae.model, vae.guide, x, num_samples=20_000)
    style = torch.randn(200_000, 2, dtype=torch.float64)
    with torch.no_grad():
        each = [_evidence_by_prior(vae, x, style, c) for c in range(CLASSES)]
    expected = torch.stack(each).logsumexp(0) - np.log(CLASSES)
    torch.testing.assert_close(found.value.double(), expected, atol=0.08, rtol=0)  # 10 standard errors


def _evidence_by_prior(vae: Any, x: Tensor, style: Tensor, label: int) -> Tensor:
    """log p(x | y) by draws of the prior."""
    law = torch.distributions.Bernoulli(logits=vae.decoder(style, vae.one_hot(torch.full((len(style),), label))))
    return torch.stack([law.log_prob(row).sum(-1).logsumexp(0) for row in x]) - np.log(len(style))


def layers_are_summed_out() -> None:
    """The evidence of two layers is that by draws of the prior."""
    deep, draws = hierarchical(), 200_000
    found = bdl.log_marginal(deep.model, deep.guide, X, num_samples=20_000)
    with torch.no_grad():
        mean, log_variance = deep.decoder[1](torch.randn(draws, 1, dtype=torch.float64)).chunk(2, -1)
        below = deep.decoder[0](mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
    log_p = torch.distributions.Normal(below, NOISE).log_prob(X[:, None]).sum(-1)
    expected = log_p.logsumexp(-1) - np.log(draws)
    torch.testing.assert_close(found.value.double(), expected, atol=0.2, rtol=0)  # 7 standard errors


def test_layers_are_summed_out() -> None:
    layers_are_summed_out()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("what", ["the prior", "the posterior"])
def test_a_layer_left_out_is_caught(which: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(model_trace: Any, guide_trace: Any) -> Any:
        draws = weighed(model_trace, guide_trace)
        node, posterior = draws.latent[which]
        term = -node["fn"].log_prob(node["value"]) if what == "the prior" else posterior["fn"].log_prob(node["value"])
        return draws._replace(log_weights=draws.log_weights + term)

    monkeypatch.setattr(import_module("pyro_bdl.diagnostics.log_marginal"), "weighed", mutant)
    with pytest.raises(AssertionError):
        layers_are_summed_out()
