"""Integers trained as integers: shorter at the loss that a unit of length is worth, on their grids, from their file."""

import copy
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.compression.codec import Quantised
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.quantisation import retrained_integers
from pyro_bdl.compression.quantisation.choosing import bits_of, values_of
from pyro_bdl.compression.quantisation.retrained_integers import retrained
from pyro_bdl.errors import InputError, NumericalError

NAT = 1 / math.log(2)  # bits


@cache
def data() -> tuple[Tensor, Tensor]:
    """Ten inputs of which three say something."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 10, generator=generator)
    return x, (x[:, :3].sum(1) + 0.1 * torch.randn(600, generator=generator) > 0).long()


@cache
def network() -> nn.Sequential:
    """A network that was trained without a thought of its length."""
    x, y = data()
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def integers(exponent: int = -2) -> dict[str, Quantised]:
    return {
        name: Quantised((p.detach() * 2.0**-exponent).round().long(), exponent)
        for name, p in network().named_parameters()
    }


def retraining(**options: Any) -> bdl.Retraining:
    return bdl.Retraining(data(), **{"epochs": 30, "learning_rate": 0.01, "batch_size": 100} | options)


def description(found: dict[str, Quantised]) -> tuple[float, float]:
    """Nats of the labels given the weights, and of the weights."""
    x, y = data()
    with torch.no_grad():
        values = values_of(found, dict(network().named_parameters()))
        outputs = torch.func.functional_call(network(), values, (x,))
        return float(nn.functional.cross_entropy(outputs, y, reduction="sum")), bits_of(found) / NAT


@pytest.mark.parametrize(("weight", "share"), [(0.1, 0.8), (1.0, 0.85)])
def test_the_description_becomes_shorter(weight: float, share: float) -> None:
    before, after = description(integers()), description(retrained(network(), integers(), retraining(kl_weight=weight)))
    assert after[0] + weight * after[1] < share * (before[0] + weight * before[1])


def test_a_higher_weight_buys_length_with_loss() -> None:
    (loss_low, length_low), (loss_high, length_high) = (
        description(retrained(network(), integers(), retraining(kl_weight=w))) for w in (0.05, 2.0)
    )
    assert length_high < 0.8 * length_low
    assert loss_high > loss_low


@pytest.mark.parametrize("mutant", ["no length", "a length with the wrong sign", "loss of the unrounded"])
def test_mutants_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = retrained_integers._Trained
    if mutant == "no length":
        monkeypatch.setattr(kind, "length", lambda self: 0.0 * self.values.sum())
    elif mutant == "loss of the unrounded":
        monkeypatch.setattr(kind, "rounded", lambda self: self._zeros.masked_scatter(self._support, self.values))
    else:
        length = kind.length
        monkeypatch.setattr(kind, "length", lambda self: -length(self))
    mutant_sum = sum(description(retrained(network(), integers(0), retraining())))
    monkeypatch.undo()
    right = sum(description(retrained(network(), integers(0), retraining())))
    assert right < sum(description(integers(0)))
    assert right < 0.95 * mutant_sum


def test_the_length_is_that_of_the_entropy_code() -> None:
    """At integers it is their empirical entropy, but for the half that is added to each count."""
    start = Quantised(torch.tensor([0, 0, 0, 5, 5, -3] * 200), -3)
    trained = retrained_integers._Trained(start, torch.zeros(1200))
    assert trained.length().item() == pytest.approx(400 * math.log(3) + 200 * math.log(6), rel=0.01)


def test_what_is_zero_stays_and_all_else_is_as_it_was() -> None:
    net, start = network(), integers()
    start["0.weight"].levels[:, 5:] = 0
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    found = retrained(net, start, retraining())
    assert not found["0.weight"].levels[:, 5:].any()
    assert {name: q.exponent for name, q in found.items()} == {name: q.exponent for name, q in start.items()}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    again = retrained(net, start, retraining())
    assert all(torch.equal(q.levels, again[name].levels) for name, q in found.items())
    assert any(not torch.equal(q.levels, start[name].levels) for name, q in found.items())


def test_a_loss_that_is_not_finite_is_told() -> None:
    with pytest.raises(NumericalError, match="retraining"):
        retrained(network(), integers(), retraining(loss=lambda outputs, _: outputs.sum() / 0.0))


def test_compress_with_it_writes_the_shorter_file(tmp_path: Path) -> None:
    x, _ = data()
    mean = {name: p.detach() for name, p in network().named_parameters()}
    posterior = WeightPosterior(mean, {name: torch.full_like(m, 0.05**2) for name, m in mean.items()})
    options: Any = {
        "example_input": x[:1],
        "validation": data(),
        "tolerance": 0.02,
        "unit_thresholds": math.inf,
        "spread": 0.5,
        "trade": 0.0,
    }
    plain = bdl.compress(network(), posterior, **options)
    short = bdl.compress(
        network(), posterior, retraining=retraining(epochs=60, learning_rate=0.03, kl_weight=0.2), **options
    )
    assert short.save(tmp_path / "n.bdl") < 0.9 * len(plain.to_bytes())
    assert short.report().errors["coded"] <= plain.report().errors["posterior mean"] + 0.02
    again = bdl.load_compressed(tmp_path / "n.bdl", network())
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), short.module.parameters(), strict=True))


def test_a_codebook_is_not_retrained() -> None:
    x, _ = data()
    with pytest.raises(InputError, match="retraining"):
        bdl.compress(network(), WeightPosterior({}, {}), example_input=x[:1], codebook=4, retraining=retraining())
