"""A network as a draw of its posterior: from the posterior to a file and back, and what retraining is good for."""

import copy
import math
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import pyro_bdl as bdl
from pyro_bdl.compression.codec import DRAWN
from pyro_bdl.compression.coding.container import pack, unpack
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.random_code.block_coder import BlockCoder
from pyro_bdl.compression.random_code.code import RandomCode
from pyro_bdl.compression.random_code.network_draw import code_draw, priors_of
from pyro_bdl.errors import CorruptFileError, InputError, NumericalError, UnsupportedModelError
from tests.fresh_state import fresh_state  # noqa: F401


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


@cache
def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(600, 6, generator=g)
    return x, (x[:, 0] * x[:, 1] > 0).long()


@cache
def fitted() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = network()
    model = bdl.Classifier(bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys()))
    guide = bdl.guides.AutoMeanField(model, init_scale=0.01)
    bdl.fit_svi(
        model, guide, data(), epochs=200, batch_size=200, progress=False, seed=0, kl_weight=0.5,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
    )  # fmt: skip
    return net, guide


def compressed(*, seed: int, retraining: bdl.Retraining | None = None) -> bdl.CompressedNetwork:
    net, guide = fitted()
    x, _ = data()
    draw = bdl.RandomDraw(bits=10, seed=seed)
    return bdl.compress(net, guide, example_input=x[:1], unit_thresholds=2.0, draw=draw, retraining=retraining)


def cross_entropy(net: nn.Module) -> float:
    x, y = data()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net(x), y))


def test_the_file_gives_back_the_draw(tmp_path: Path) -> None:
    small = compressed(seed=5)
    assert small.save(tmp_path / "n.bdl") == (tmp_path / "n.bdl").stat().st_size
    again = bdl.load_compressed(tmp_path / "n.bdl", network())
    for p, q in zip(again.parameters(), small.module.parameters(), strict=True):
        assert torch.equal(p, q)
    assert small.to_bytes() == compressed(seed=5).to_bytes() != compressed(seed=6).to_bytes()
    report = small.report()
    assert report.bytes_by_part["random code"] > 0
    assert sum(report.bytes_by_part.values()) == report.file_bytes == len(small.to_bytes())


def redundant() -> tuple[nn.Module, WeightPosterior, tuple[Tensor, Tensor]]:
    """Forty inputs that are nearly one: a draw is off by the sum of forty errors, which later weights can undo."""
    torch.manual_seed(2)
    x = torch.randn(300, 1) + 0.01 * torch.randn(300, 40)
    net = nn.Linear(40, 1, bias=False)
    mean = torch.randn(1, 40)
    with torch.no_grad():
        net.weight.copy_(mean)
    return net, WeightPosterior({"weight": mean}, {"weight": torch.full((1, 40), 0.01)}), (x, x @ mean.T)


def retraining(data: tuple[Tensor, Tensor], **options: Any) -> bdl.Retraining:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean() / 0.02

    return bdl.Retraining(data, loss=loss, **{"epochs": 60, "learning_rate": 0.02, "batch_size": 100} | options)


def errors_of_draws(seeds: int, **options: Any) -> list[float]:
    net, posterior, (x, y) = redundant()
    result = []
    for seed in range(seeds):
        draw = bdl.RandomDraw(seed=seed, bits=6, extra_bits=1.0)
        found, code = code_draw(net, posterior, draw, **options)
        result.append(float((x @ found["weight"].levels.T - y).square().mean()))
        if options:
            assert set(code.bits) == {6}
            assert max(code.sizes) - min(code.sizes) <= 1  # nothing is stored of the blocks
    return result


def test_retraining_makes_up_for_what_was_drawn() -> None:
    """Twenty draws as they are, with an error of about 40 posterior variances, and twenty to which the rest adapted.

    The median, as for the last block's error nothing makes up. It was a fifth.
    """
    _, _, data = redundant()
    plain, adapted = errors_of_draws(20), errors_of_draws(20, retraining=retraining(data))
    assert median(plain) > 0.1
    assert median(adapted) < median(plain) / 2


@pytest.mark.parametrize("mutant", ["nothing is held", "no training"])
def test_retraining_that_does_not_adapt_is_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, data = redundant()
    options = {}
    if mutant == "nothing is held":
        monkeypatch.setattr(BlockCoder, "hold", lambda self, weights: weights)
    else:
        options = {"learning_rate": 1e-9}
    plain, adapted = errors_of_draws(20), errors_of_draws(20, retraining=retraining(data, **options))
    assert not median(adapted) < median(plain) / 2


def test_retraining_tells_of_a_loss_that_is_not_finite_and_leaves_the_network_as_it_was() -> None:
    net, posterior, data = redundant()
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    options = bdl.Retraining(data, loss=lambda outputs, _: outputs.sum() / 0.0)
    with pytest.raises(NumericalError, match="retraining"):
        code_draw(net, posterior, bdl.RandomDraw(bits=6), retraining=options)
    assert torch.equal(net.weight, before["weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_a_network_that_was_retrained_comes_back_from_its_file(tmp_path: Path) -> None:
    x, y = data()
    options = bdl.Retraining((x, y), epochs=2, kl_weight=0.5)
    small = compressed(seed=1, retraining=options)
    small.save(tmp_path / "n.bdl")
    again = bdl.load_compressed(tmp_path / "n.bdl", network())
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), small.module.parameters(), strict=True))
    assert small.to_bytes() == compressed(seed=1, retraining=options).to_bytes()
    assert cross_entropy(small.module) < 0.6


def test_a_draw_has_the_law_of_the_posterior() -> None:
    """The squared deviations of 20 draws of 200 weights, in posterior variances, against their chi-squared law."""
    torch.manual_seed(0)
    net = nn.Linear(20, 10, bias=False)
    mean = 0.1 * torch.randn(10, 20)
    posterior = WeightPosterior({"weight": mean}, {"weight": torch.full((10, 20), 0.01)})
    total = 0.0
    for seed in range(20):
        drawn, _ = code_draw(net, posterior, bdl.RandomDraw(seed=seed, bits=12, extra_bits=5.0))
        total += float(((drawn["weight"].levels - mean).square() / 0.01).sum())
    count = 20 * 200
    assert abs(total / count - 1.0) < 6 * math.sqrt(2 / count) + 0.02  # a bias of 1% was measured at 4 spare bits


def test_parameters_that_are_not_random_are_integers(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    mean = {n: p.detach().clone() for n, p in net.named_parameters()}
    variance = {n: torch.full_like(m, 1e-3) if m.dim() > 1 else torch.zeros_like(m) for n, m in mean.items()}
    small = bdl.compress(
        net, WeightPosterior(mean, variance), example_input=torch.zeros(2, 4), draw=bdl.RandomDraw(bits=8)
    )
    small.save(tmp_path / "n.bdl")
    again = bdl.load_compressed(tmp_path / "n.bdl", copy.deepcopy(net))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), small.module.parameters(), strict=True))
    assert float((small.module[3].bias - net[3].bias).detach().abs().max()) < 2e-3
    priors = priors_of(WeightPosterior(mean, variance), bdl.RandomDraw())
    assert list(priors) == ["0.weight", "3.weight"]
    for n, p in priors.items():
        coded = kl_divergence(Normal(mean[n], variance[n].sqrt()), Normal(0.0, p.scales(mean[n])))
        assert bool((coded >= -1e-9).all())


def test_damage_is_told(tmp_path: Path) -> None:
    small, path = compressed(seed=0), tmp_path / "n.bdl"
    content = small.to_bytes()
    for at in range(0, 8 * len(content), 7):
        damaged = bytearray(content)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError):
            bdl.load_compressed(path, network())
    stream, code = (bytes(s) for s in unpack(content).sections)
    parsed = RandomCode.from_bytes(code)
    other = RandomCode(seed=0, count=parsed.count + 1, sizes=(parsed.count + 1,), bits=(8,), indices=(3,))
    for sections in ([stream], [stream, b""], [stream, code[:-1]], [stream, other.to_bytes()], [stream, code, code]):
        path.write_bytes(pack(sections, kind=DRAWN, architecture=small.architecture))
        with pytest.raises(CorruptFileError):
            bdl.load_compressed(path, network())


def test_bad_input() -> None:
    net, guide = fitted()
    x, y = data()
    for bad in ({"bits": 0}, {"bits": 25}, {"seed": -1}, {"extra_bits": 16.0}):
        with pytest.raises(InputError):
            bdl.RandomDraw(**bad)
    for wrong in ({"epochs": 0}, {"learning_rate": 0.0}, {"batch_size": -1}, {"kl_weight": math.nan}):
        with pytest.raises(InputError):
            bdl.Retraining((x, y), **wrong)
    with pytest.raises(InputError, match="draw"):
        bdl.compress(net, guide, example_input=x[:1], draw=bdl.RandomDraw(), trade=0.1)
    none = WeightPosterior({"weight": torch.ones(2, 2)}, {"weight": torch.tensor([[0.0, 1.0], [1.0, 1.0]])})
    with pytest.raises(UnsupportedModelError, match="random"):
        code_draw(nn.Linear(2, 2, bias=False), none, bdl.RandomDraw())
