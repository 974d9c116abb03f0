"""VGG with batch normalisation from its plain fit through the variational one into a file and back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import pyro_bdl as bdl
from models import bayesian_compression as job
from models import compression_problem as problems
from models import compression_settings as recipes
from models.augmentation import FlipsAndCrops
from models.batch_norm import absorb_statistics
from models.competitors.training import error
from models.networks import vgg
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.data.dataset import Dataset
from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Minibatches
from pyro_bdl.weight_moments import weight_posterior
from tests.fresh_state import fresh_state  # noqa: F401


def striped(count: int) -> tuple[Tensor, Tensor]:
    """Images of 3 x 8 x 8 in two classes: stripes along one axis or the other, in noise."""
    y = torch.arange(count) % 2
    stripes = torch.tensor([1.0, -1.0]).repeat(4)[:, None].expand(8, 8)
    x = torch.stack([stripes.T if label else stripes for label in y.tolist()])
    return x[:, None] * torch.tensor([1.0, -0.5, 2.0])[:, None, None] + 0.5 * torch.randn(count, 3, 8, 8), y


def test_the_architecture_is_the_published_one() -> None:
    net = vgg((3, 32, 32), 10)
    convolutions = [layer for layer in net if isinstance(layer, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128, *[256] * 3, *[512] * 6]
    assert net.fc1.weight.shape == (512, 512)
    assert 4 * sum(p.numel() for p in net.parameters()) == pytest.approx(60e6, rel=0.002)
    narrow = vgg((3, 32, 32), 10, width=1 / 32)
    units = find_units(narrow, torch.zeros(1, 3, 32, 32))
    assert units.architecture() == "2-2-4-4-8-8-8-16-16-16-16-16-16-16"
    assert not units.whole
    assert vgg((1, 9, 40), 3, width=1e-9)(torch.zeros(2, 1, 9, 40)).shape == (2, 3)
    for width in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="width"):
            vgg((3, 32, 32), 10, width=width)


def test_versions_of_images_are_all_shifts_and_mirrors() -> None:
    x = torch.zeros(6000, 2, 5, 5)
    x[:, 0, 2, 1], x[:, 1, 2, 3] = 1.0, 2.0  # a point in one channel, its mirror image in the other
    ids = torch.arange(6000)
    found, seen = [], []
    for images, rows in FlipsAndCrops(x, ids, batch_size=700, seed=0, shift=1):
        found.append(images)
        seen.append(rows)
    assert torch.equal(torch.cat(seen).sort().values, ids)
    images = torch.cat(found)
    places, counts = images[:, 0].flatten(1).argmax(1).unique(return_counts=True)
    # Rows 1 to 3; columns 0 to 2, and 2 to 4 mirrored: column 2 both ways.
    assert places.tolist() == [5 * r + c for r in (1, 2, 3) for c in range(5)]
    expected = torch.tensor([1, 1, 2, 1, 1] * 3) * 6000 / 18
    assert float(((counts - expected) ** 2 / expected).sum()) < 70  # chi-squared of 14 degrees: beyond with 2e-9
    point, other = images[:, 0].flatten(1).argmax(1), images[:, 1].flatten(1).argmax(1)
    assert set((other - point).tolist()) == {2, -2}  # both channels move together, and a mirror turns their order
    with pytest.raises(InputError, match="with a label each"):
        FlipsAndCrops(x, ids[:5], batch_size=3, seed=0)
    with pytest.raises(InputError, match="batch_size"):
        FlipsAndCrops(x, ids, batch_size=0, seed=0)


def test_a_place_in_the_augmented_data_is_found_again() -> None:
    x, y = striped(20)
    one = Minibatches(FlipsAndCrops(x, y, batch_size=6, seed=3))
    for _ in range(6):  # into the second epoch
        one.next()
    state = one.state_dict()
    two = Minibatches(FlipsAndCrops(x, y, batch_size=6, seed=9))
    two.load_state_dict(state)
    for _ in range(5):
        assert all(map(torch.equal, one.next().args, two.next().args))


def test_absorbed_statistics_leave_the_function_and_stay_in_a_fit() -> None:
    x, y = striped(40)
    net = vgg((3, 8, 8), 2, width=1 / 32)
    for _ in range(5):
        net(x)
    before = net.eval()(x).detach()
    absorb_statistics(net)
    assert torch.allclose(net(x), before, atol=1e-4 * float(before.abs().max()))
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    model = bdl.Classifier(bdl.BayesianModule(net, bdl.priors.LogUniform()))
    guide = bdl.guides.AutoMeanField(model, init_scale=0.01)
    data = FlipsAndCrops(x, y, batch_size=20, seed=0)
    weights = guide_values(net, guide, x[:1], y[:1])
    bdl.fit_svi(model, guide, data, epochs=1, progress=False, seed=0)  # warnings, as of coupled points, are errors
    assert all(torch.equal(buffers[name], b) for name, b in net.named_buffers())
    after = guide_values(net, guide, x[:1], y[:1])
    assert all(not torch.equal(weights[name], after[name]) for name in ("conv1.weight", "norm3.weight", "norm14.bias"))


def guide_values(net: nn.Module, guide: Any, *batch: Tensor) -> dict[str, Tensor]:
    return {name: m.clone() for name, m in weight_posterior(net, guide, *batch).mean.items()}


@pytest.mark.parametrize(
    "prior", [pytest.param(p, marks=pytest.mark.slow if p[0] != "l" else ()) for p in recipes.PRIORS]
)
def test_the_job_trains_shrinks_codes_and_reloads(prior: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = striped(400)
    parts = Dataset("striped", ("along", "across"), x[:200], y[:200], x[200:300], y[200:300], x[300:], y[300:])
    monkeypatch.setattr(bdl.data, "load", lambda *_, **__: parts)
    few = replace(
        recipes.COLOUR,
        pretraining=15,
        epochs=4,
        batch_size=40,
        kl_warmup=1,
        pretraining_rates=(1e-2, 0.0),
        init_scale=0.02,
    )
    monkeypatch.setitem(recipes.SETTINGS, ("vgg", prior), few)
    for figure in ("thinning_animation", "weight_histograms", "sparsity_patterns"):  # have tests of their own
        monkeypatch.setattr(job, figure, lambda *_, **__: Figure())
    shrink = prior != "soft-weight-sharing"  # which learns a mixture of the whole network's weights
    row = job.main(recipes.Options(net="vgg", width=1 / 32, prior=prior, out=tmp_path, progress=False, shrink=shrink))
    assert row["errors"]["coded"] <= 0.25  # half are wrong by chance: 100 points, beyond with 2e-7
    assert len(row["matrices"]) == 15  # the normalisation's weights are none
    assert row["file_bytes"] == (tmp_path / "net.bdl").stat().st_size
    net = vgg((3, 8, 8), 2, width=1 / 32)
    small = bdl.load_compressed(tmp_path / "net.bdl", net)
    test_x = problems.standardised(parts).x_test
    assert 100 * error(small, (test_x, parts.y_test)) == pytest.approx(row["test error %"]["coded"])
    statistics = {name: bits for name, bits in row["bytes_by_part"].items() if "running" in name}
    assert len(statistics) == 28
    assert all(size <= 9 for size in statistics.values())  # one number each, whatever is left


def test_standardised_by_the_training_images() -> None:
    x, y = striped(30)
    parts = Dataset("striped", ("a", "b"), x[:20], y[:20], x[20:25], y[20:25], x[25:], y[25:])
    z = problems.standardised(parts)
    assert torch.allclose(z.x_train.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(z.x_train.std((0, 2, 3)), torch.ones(3), atol=1e-4)
    scale, shift = parts.x_train.std((0, 2, 3)), parts.x_train.mean((0, 2, 3))
    assert torch.allclose(z.x_test * scale[:, None, None] + shift[:, None, None], x[25:], atol=1e-4)


def test_width_is_for_vgg() -> None:
    with pytest.raises(InputError, match="--width"):
        problems.Problem(recipes.Options(net="digits", width=0.5))
