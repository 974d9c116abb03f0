"""Fits whose KL is driven to a budget."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.errors import InputError, UnsupportedModelError
from tests.fresh_state import fresh_state  # noqa: F401

BIT = math.log(2)


def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(256, 6, generator=g)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def problem(prior: Any = None) -> tuple[Any, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    model = bdl.Classifier(bdl.BayesianModule(net, prior or bdl.priors.Gaussian()))
    return model, bdl.guides.AutoMeanField(model, init_scale=0.1)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def fit(kl_weight: Any, *, epochs: int = 10, prior: Any = None, **options: Any) -> tuple[bdl.Fit, Any]:
    model, guide = problem(prior)
    options = {"batch_size": 64, "optimizer": adam, "progress": False, "seed": 0} | options
    return bdl.fit_svi(model, guide, data(), epochs=epochs, kl_weight=kl_weight, **options), guide


def bits_each(guide: Any) -> Tensor:
    """The KL of each weight from N(0, 1), in the guide's order."""
    loc, log_variance = guide.loc.detach().double(), guide.log_variance.detach().double()
    return 0.5 * (loc.square() + log_variance.exp() - log_variance - 1.0) / BIT


def check_it_ends_at_the_budget(bits: float) -> None:
    budget = bdl.KLBudget(bits=bits, rate=0.01, start=1e-2)
    result, guide = fit(budget, epochs=300)
    assert float(bits_each(guide).sum()) == pytest.approx(bits, rel=0.1)
    assert result.kls[-1] / BIT == pytest.approx(bits, rel=0.1)


@pytest.mark.parametrize("bits", [40.0, 150.0])
def test_the_kl_ends_at_the_budget(bits: float) -> None:
    """Its multiplier swings by a percent a step around the place where it is met."""
    check_it_ends_at_the_budget(bits)


@pytest.mark.parametrize("mutant", ["not updated", "nats for bits"])
def test_wrong_budgets_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Any] = bdl.KLBudget.update
    wrong = {"not updated": lambda self, kl: None, "nats for bits": lambda self, kl: right(self, kl * BIT)}[mutant]
    monkeypatch.setattr(bdl.KLBudget, "update", wrong)
    with pytest.raises(AssertionError):
        check_it_ends_at_the_budget(150.0)


def test_each_block_ends_at_its_budget() -> None:
    budget = bdl.KLBudget(10, bits=12.0, rate=0.02, start=1e-2, seed=3)
    _, guide = fit(budget, epochs=400)
    kl = budget.block_kl(bits_each(guide))
    used = budget.multipliers > 1e-10
    assert int(used.sum()) >= 5
    assert bool((kl <= 12.0 * 1.25).all())
    torch.testing.assert_close(kl[used], torch.full_like(kl[used], 12.0), rtol=0.25, atol=0)


def test_equal_multipliers_are_a_kl_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bdl.KLBudget, "update", lambda self, kl: self.multipliers)
    one, guide = fit(0.25)
    other, driven = fit(bdl.KLBudget(7, bits=1.0, start=0.25))
    torch.testing.assert_close(guide.loc, driven.loc)
    torch.testing.assert_close(guide.log_variance, driven.log_variance)
    assert one.losses == pytest.approx(other.losses, rel=1e-5)
    assert one.kls == pytest.approx(other.kls, rel=1e-5)


def test_all_other_kl_has_the_mean_of_the_multipliers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Node scales: their KL has no closed form of the kind that a budget divides."""
    monkeypatch.setattr(bdl.KLBudget, "update", lambda self, kl: self.multipliers)
    prior = bdl.priors.GroupNormalJeffreys
    one, guide = fit(0.25, prior=prior())
    other, driven = fit(bdl.KLBudget(bits=1.0, start=0.25), prior=prior())
    torch.testing.assert_close(guide.loc, driven.loc)
    assert one.losses == pytest.approx(other.losses, rel=1e-5)
    told: list[float] = []
    fit(bdl.KLBudget(bits=1.0, start=0.5), callbacks=[lambda p: told.append(p.kl_weight)], epochs=1)
    assert told == [0.5]


def test_a_checkpoint_goes_on_with_the_multipliers(tmp_path: Path) -> None:
    def budget() -> bdl.KLBudget:
        return bdl.KLBudget(4, bits=8.0, rate=0.05, start=0.1)

    whole = budget()
    _, straight = fit(whole, epochs=6)
    fit(budget(), epochs=3, checkpoint=tmp_path / "c")
    resumed = budget()
    _, guide = fit(resumed, epochs=6, checkpoint=tmp_path / "c")
    assert torch.equal(guide.loc, straight.loc)
    assert torch.equal(resumed.multipliers, whole.multipliers)
    with pytest.raises(InputError, match="a budget of 3 blocks"):
        fit(bdl.KLBudget(3, bits=8.0), epochs=6, checkpoint=tmp_path / "c")


def test_bad_input_changes_nothing() -> None:
    budget = bdl.KLBudget(bits=8.0)
    with pytest.raises(InputError, match="kl_warmup"):
        fit(budget, kl_warmup=1.0)
    with pytest.raises(InputError, match="shrink"):
        fit(budget, shrink=True)
    model, _ = problem()
    guide = AutoNormal(model)
    with pytest.raises(UnsupportedModelError, match="a fit with a KLBudget"):
        bdl.fit_svi(model, guide, data(), epochs=1, kl_weight=budget, progress=False)
    with pytest.raises(InputError, match="number of blocks"):
        fit(bdl.KLBudget(1000, bits=8.0))
    x, y = data()
    y[-1] = 7
    model, guide = problem()
    driven = bdl.KLBudget(2, bits=8.0, rate=0.5)
    with pytest.raises(InputError):
        bdl.fit_svi(model, guide, (x, y), epochs=1, batch_size=64, kl_weight=driven, progress=False)
    assert driven.multipliers.tolist() == [1e-6, 1e-6]
