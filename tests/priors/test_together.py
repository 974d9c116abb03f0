"""All priors for compression in one network, chosen layer by layer, from a pretrained network, with KL warm-up."""

import math
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.guides import AutoMeanField
from pyro_bdl.priors import (
    ByName,
    Gaussian,
    GroupHorseshoe,
    GroupNormalJeffreys,
    LogUniform,
    RegularizedHorseshoe,
    SoftWeightSharing,
)  # fmt: skip

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(128, 1, 8, 8, generator=GENERATOR)
Y = (X[:, 0, :4].mean((1, 2)) > 0).long() + (X[:, 0, 4:].mean((1, 2)) > 0).long()


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """An ordinary fit of the network, where all begin."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = network()
        optimizer = adam(net.parameters())
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X), Y).backward()
            optimizer.step()
    return net.state_dict()


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


FIRST: dict[str, Any] = {
    "0.*": GroupNormalJeffreys, "2.*": GroupHorseshoe, "4.*": SoftWeightSharing, "7.*": LogUniform,
    "9.*": RegularizedHorseshoe, "*": lambda: GroupHorseshoe(half_cauchy="decomposed"),
}  # fmt: skip
SECOND: dict[str, Any] = {
    "*.bias": Gaussian, "0.*": LogUniform, "2.*": RegularizedHorseshoe, "4.*": GroupHorseshoe,
    "7.*": GroupNormalJeffreys, "9.*": SoftWeightSharing, "*": LogUniform,
}  # fmt: skip


def classifier(priors: dict[str, Any], trained: dict[str, Tensor]) -> Any:
    net = network()
    net.load_state_dict(trained)
    return bdl.Classifier(bdl.BayesianModule(net, ByName({k: make() for k, make in priors.items()})))


def accuracy(model: Any, guide: AutoMeanField) -> float:
    with torch.no_grad():
        logits = pyro.poutine.condition(model.network, data=guide.median())(X)
    return float((logits.argmax(1) == Y).float().mean())


@pytest.mark.parametrize("priors", [FIRST, SECOND], ids=["first", "second"])
@pytest.mark.parametrize("estimator", ["local", "plain", "flipout"])
def test_fit_svi(priors: dict[str, Any], estimator: Any, trained: dict[str, Tensor]) -> None:
    model = classifier(priors, trained)
    guide = AutoMeanField(model)
    guide(X, Y)
    at_first = accuracy(model, guide)
    assert at_first > 0.9  # the network that was handed over
    fit = bdl.fit_svi(
        model, guide, (X, Y), epochs=12, batch_size=64, kl_weight=0.1, kl_warmup=6, optimizer=adam,
        estimator=estimator, progress=False,
    )  # fmt: skip
    assert all(math.isfinite(loss) and math.isfinite(kl) for loss, kl in zip(fit.losses, fit.kls, strict=True))
    assert fit.kls[-1] < fit.kls[0]
    assert accuracy(model, guide) > 0.8


@pytest.mark.parametrize("priors", [FIRST, SECOND], ids=["first", "second"])
def test_pyros_svi(priors: dict[str, Any], trained: dict[str, Tensor]) -> None:
    model = classifier(priors, trained)
    guide = AutoMeanField(model)
    beta = iter(torch.linspace(0.0, 0.1, 40).tolist())
    elbo = bdl.MeanFieldELBO(kl_weight=lambda: next(beta))
    svi = SVI(model, bdl.local_reparameterization(guide), pyro.optim.Adam({"lr": 0.01}), elbo)
    assert all(math.isfinite(svi.step(X, Y)) for _ in range(40))
    assert accuracy(model, guide) > 0.8


def test_both_ways_have_the_same_kl(trained: dict[str, Tensor]) -> None:
    """The flat step's KL at the start is that of the ELBO's closed forms."""
    model = classifier(FIRST, trained)
    guide = AutoMeanField(model)
    fit = bdl.fit_svi(model, guide, (X, Y), epochs=1, batch_size=128, progress=False,
                      optimizer=lambda p: torch.optim.SGD(p, lr=0.0))  # fmt: skip
    bound = bdl.MeanFieldELBO()
    none = bdl.MeanFieldELBO(kl_weight=0.0)
    local = bdl.local_reparameterization(guide)

    def of(elbo: bdl.MeanFieldELBO) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return elbo.loss(model, local, X, Y)

    assert fit.kls[0] == pytest.approx(of(bound) - of(none), rel=1e-4)


def test_draws_go_to_arviz(trained: dict[str, Tensor]) -> None:
    model = classifier(SECOND, trained)
    guide = AutoMeanField(model)
    guide(X, Y)
    data = bdl.from_pyro_svi(model, guide, num_samples=10, model_args=(X, Y), log_likelihood=True)
    assert data.posterior["4.weight.raw"].shape[-4:] == (4, 4, 3, 3)
    assert list(data.log_likelihood.data_vars) == ["y"]
