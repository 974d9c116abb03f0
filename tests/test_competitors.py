"""The competitors of the compression tables, on tiny problems whose answer is known, and their file."""

import copy
import doctest
import importlib
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.competitors import deep_compression as dc
from models.competitors import generalised_dropout as gd
from models.competitors import network_surgery as dns
from models.competitors import rows as tables
from models.competitors.deep_compression import DeepCompression, deep_compression
from models.competitors.generalised_dropout import GeneralisedDropout, generalised_dropout
from models.competitors.group_lasso import GroupLasso, group_lasso, group_norms
from models.competitors.network_surgery import NetworkSurgery, network_surgery
from models.competitors.outcome import Outcome, strongest
from models.competitors.rows import Row
from models.competitors.stored import SHARED, StoredNetwork, decode, load, store
from models.competitors.training import Training, error, fit_dense, standard_error, train
from models.networks import fully_connected
from pyro_bdl.compression.coding.codebook import Clustered, Codebook
from pyro_bdl.compression.coding.container import OtherArchitectureError, pack
from pyro_bdl.compression.compressed import architecture_of
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.errors import CorruptFileError, InputError, NumericalError, UnsupportedModelError
from tests import statistics
from tests.fresh_state import fresh_state  # noqa: F401

QUICK = Training(epochs=12, learning_rate=0.02, batch_size=50)
MOVED = Training(epochs=12, learning_rate=0.05, batch_size=50, momentum=0.9)
METHODS: dict[str, tuple[Callable[..., Outcome], Any]] = {
    "DC": (
        deep_compression,
        DeepCompression(dense=QUICK, retraining=QUICK, centroids=QUICK, rounds=4, fraction=0.4, bits=(2, 4)),
    ),
    "DNS": (network_surgery, NetworkSurgery(dense=QUICK, surgery=MOVED, strengths=(0.0, 1.0, 2.0))),
    "GL": (group_lasso, GroupLasso(dense=QUICK, penalised=QUICK, fine_tuning=QUICK, strengths=(0.003, 0.01))),
    "GD": (
        generalised_dropout,
        GeneralisedDropout(dense=QUICK, gated=QUICK, fine_tuning=QUICK, strengths=(4.0, 8.0)),
    ),
}
MODULES = ("training", "stored", "outcome", "deep_compression", "network_surgery", "group_lasso",
           "generalised_dropout", "rows")  # fmt: skip


def easy(seed: int = 0, points: int = 300) -> tuple[Tensor, Tensor]:
    """Two of six inputs tell the class."""
    x = torch.randn(points, 6, generator=torch.Generator().manual_seed(seed))
    return x, ((x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return fully_connected([6, 20, 12, 4])


def convolutional(classes: int) -> nn.Sequential:
    """Like LeNet-5, for images of 20 x 20."""
    layers = {
        "conv1": nn.Conv2d(1, 5, 5), "pool1": nn.MaxPool2d(2), "conv2": nn.Conv2d(5, 7, 5), "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(), "fc1": nn.Linear(28, 12), "relu1": nn.ReLU(), "fc2": nn.Linear(12, classes),
    }  # fmt: skip
    return nn.Sequential(OrderedDict(layers))


def shortened(how: Any) -> Any:
    """Every phase two epochs, one round or strength."""
    phases = {name: replace(v, epochs=2) for name, v in vars(how).items() if isinstance(v, Training)}
    less = {"rounds": 1} if hasattr(how, "rounds") else {"strengths": how.strengths[:1]}
    return replace(how, tolerance=0.5, **phases, **less)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[nn.Module, Outcome]]:
    found = {}
    with torch.random.fork_rng():
        for name, (method, how) in METHODS.items():
            net = network()
            found[name] = net, method(net, easy(0), easy(1), how, seed=0, progress=False)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"models.competitors.{module}"))
    assert found.failed == 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_prunes_and_its_file_gives_the_network_back(name: str, outcomes: Any, tmp_path: Any) -> None:
    net, found = outcomes[name]
    assert found.errors["dense"] < 0.1
    limit = found.errors["dense"] + standard_error(found.errors["dense"], 300)
    assert found.errors["coded"] <= limit + (0.02 if name in ("GL", "GD") else 0.0)  # chosen before fine-tuning
    size = found.stored.save(tmp_path / "n.bdl")
    assert size == len(found.stored.to_bytes()) == round(sum(found.stored.bytes_by_part().values()))
    again = load(tmp_path / "n.bdl", net)
    x, _ = easy(2)
    torch.testing.assert_close(again(x), found.stored.module(x), rtol=0, atol=0)
    assert error(again, easy(1)) == found.errors["coded"]
    row = tables.row_of(found, errors=dict.fromkeys(("dense", "pruned", "coded"), 0.1))
    assert row.method == name
    assert row.left < 60
    assert row.file_bytes == size
    assert row.maximum == pytest.approx(4 * sum(p.numel() for p in net.parameters()) / size)


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_file_and_nothing_of_the_callers_changes(name: str) -> None:
    method, how = METHODS[name]
    short = shortened(how)
    net = network()
    before, state = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    files = [method(net, easy(0), easy(1), short, seed=3, progress=False).stored.to_bytes() for _ in range(2)]
    assert files[0] == files[1]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_unit_methods_drop_the_inputs_that_say_nothing(outcomes: Any) -> None:
    for name in ("GL", "GD"):
        kept = outcomes[name][1].stored.kept["input"]
        assert bool(kept[:2].all()), name
        assert int(kept.sum()) < 6, name


def test_convolutions(tmp_path: Any) -> None:
    torch.manual_seed(1)
    net = convolutional(2)
    y = torch.arange(60) % 2
    x = torch.randn(60, 1, 20, 20) * 0.1
    x[y == 1, :, 4:12, 4:12] += 1.0
    once = Training(epochs=3, learning_rate=5e-3, batch_size=20)
    hows: list[tuple[Any, Any]] = [
        (
            deep_compression,
            DeepCompression(dense=once, retraining=once, centroids=once, rounds=1, fraction=0.6, bits=(4,)),
        ),
        (generalised_dropout, GeneralisedDropout(dense=once, gated=once, fine_tuning=once, strengths=(2.0,))),
        (group_lasso, GroupLasso(dense=once, penalised=once, fine_tuning=once, strengths=(0.001,))),
    ]
    for method, how in hows:
        found = method(net, (x, y), (x, y), replace(how, tolerance=0.2), progress=False)
        found.stored.save(tmp_path / "n.bdl")
        torch.testing.assert_close(load(tmp_path / "n.bdl", net)(x), found.stored.module(x), rtol=0, atol=0)
        assert len(found.stored.units.architecture(found.stored.kept).split("-")) == 4
        assert tables.row_of(found, errors=dict(found.errors)).left < 60


# the parts, against their definitions


def test_pruning_by_magnitude_takes_the_least() -> None:
    net = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))
    with torch.no_grad():
        net[2].weight.mul_(100)  # relative to its layer: the scale makes no difference
    masks = {name: torch.ones_like(net.get_parameter(name)).bool() for name in ("0.weight", "2.weight")}
    found = dc.prune_smallest(net, masks, 0.25)
    assert sum(int((~m).sum()) for m in found.values()) == round(0.25 * 700)
    scores = {
        n: net.get_parameter(n).detach().abs() / net.get_parameter(n).detach().square().mean().sqrt() for n in masks
    }
    lost = max(float(scores[n][~found[n]].max()) for n in masks)
    left = min(float(scores[n][found[n]].min()) for n in masks)
    assert lost < left
    again = dc.prune_smallest(net, found, 0.5)
    assert all(bool((found[n] | ~again[n]).all()) for n in masks)  # nothing comes back


def test_a_layer_is_never_cut_to_nothing() -> None:
    net = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 1, bias=False))
    with torch.no_grad():
        net[1].weight.fill_(1.0)
        net[0].weight.copy_(torch.cat([torch.full((10, 100), 3.0), torch.full((90, 100), 0.01)]))
    masks = {name: torch.ones_like(p).bool() for name, p in net.named_parameters()}
    with pytest.warns(UserWarning, match=r"1\.weight"):
        found = dc.prune_smallest(net, masks, 0.95)
    assert int(found["1.weight"].sum()) == 1


def test_centroids_get_the_sum_of_their_weights_gradients() -> None:
    x, y = easy()
    net = network().double()
    name = "fc1.weight"
    found = dc.cluster(net.get_parameter(name), 4)
    book = Codebook(found.book.below.double().requires_grad_(), found.book.above.double().requires_grad_())
    values = {name: Clustered(found.levels, book).value(torch.zeros(1, dtype=torch.float64))}
    F.cross_entropy(torch.func.functional_call(net, values, (x.double(),)), y).backward()
    with torch.no_grad():
        net.get_parameter(name).copy_(values[name])
    net.zero_grad()
    F.cross_entropy(net(x.double()), y).backward()
    full = net.get_parameter(name).grad
    for k in range(1, len(book.above) + 1):
        torch.testing.assert_close(book.above.grad[k - 1], full[found.levels == k].sum())
    for k in range(1, len(book.below) + 1):
        torch.testing.assert_close(book.below.grad[-k], full[found.levels == -k].sum())


def test_training_centroids_moves_them_and_nothing_else() -> None:
    net = network()
    books = {"fc1.weight": dc.cluster(net.fc1.weight, 4)}
    before = books["fc1.weight"].book.above.clone()
    state = copy.deepcopy(net.state_dict())
    dc.train_centroids(net, books, easy(), QUICK, progress=False)
    assert not torch.equal(books["fc1.weight"].book.above, before)
    assert not books["fc1.weight"].book.above.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("wrong", [False, True])
def test_surgery_keeps_the_gradient_of_pruned_weights(wrong: bool) -> None:
    weight = torch.tensor([1.0, 0.1], requires_grad=True)
    mask = torch.tensor([True, False])
    masked = weight * mask if wrong else dns.straight_through(weight, mask)
    assert masked.tolist() == [1.0, 0.0]
    (masked * torch.tensor([2.0, 3.0])).sum().backward()
    assert (weight.grad.tolist() == [2.0, 3.0]) != wrong


def test_surgery_splices_a_weight_that_matters() -> None:
    """The only useful weight begins below the threshold: masking alone would never find it again."""
    x, y = easy()
    y = (x[:, 0] > 0).long()
    net = nn.Sequential(nn.Linear(6, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].weight[:, 0] = torch.tensor([0.01, -0.01])
    how = NetworkSurgery(dense=QUICK, surgery=MOVED, strengths=(0.0,))
    found, spliced = dns.operate(net, (x, y), how, 0.0, seed=0, progress=False)
    assert spliced > 0
    assert bool((found[0].weight[:, 0] != 0).all())
    assert error(found, (x, y)) < 0.05


def test_group_norms_of_convolutions_by_hand() -> None:
    net = convolutional(3)
    units = find_units(net, torch.zeros(1, 1, 20, 20))
    made = net.conv1.weight.flatten(1).norm(dim=1).sum() + net.conv2.weight.flatten(1).norm(dim=1).sum()
    made = made + net.fc1.weight.norm(dim=1).sum()
    read = net.conv2.weight.transpose(0, 1).flatten(1).norm(dim=1).sum() + net.fc2.weight.norm(dim=0).sum()
    flat = net.fc1.weight.reshape(12, 7, -1)
    read = read + flat.transpose(0, 1).flatten(1).norm(dim=1).sum() + net.fc1.weight.norm(dim=0).sum()
    torch.testing.assert_close(group_norms(net, units), made + read, rtol=1e-5, atol=1e-4)
    dead = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        dead[0].weight.zero_()
    group_norms(dead, find_units(dead, torch.zeros(1, 2))).backward()
    assert bool(torch.isfinite(dead[0].weight.grad).all())


@pytest.mark.parametrize("mutant", ["", "a draw for the batch", "kept with the wrong probability"])
def test_gates_are_independent_draws_with_the_learned_probability(mutant: str) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(1.0)
        net[1].weight.copy_(torch.eye(3))
    gates = gd.Gates(net, find_units(net, torch.zeros(1, 2)), start=0.7, scale=10.0)
    net.eval()
    with gates.applied(net), torch.no_grad():
        drawn = net(torch.ones(20_000, 2))
    if mutant == "a draw for the batch":
        drawn = drawn[:1].expand(20_000, -1)
    keep = 0.75 if mutant else 0.7

    def check() -> None:
        for unit in range(3):
            statistics.proportion_is(int(drawn[:, unit].sum()), 20_000, keep)

    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    if mutant:
        with pytest.raises(statistics.Mismatch):
            check()
        return
    check()
    both = int((drawn[:, 0] * drawn[:, 1]).sum())  # units are independent
    statistics.proportion_is(both, 20_000, keep * keep)
    torch.testing.assert_close(net(torch.ones(1, 2)), torch.ones(1, 3))  # outside, no gates
    torch.testing.assert_close(gates.folded(net)(torch.ones(1, 2)), torch.full((1, 3), 0.7))


def test_gates_penalty_is_the_beta_density() -> None:
    net = network()
    gates = gd.Gates(net, find_units(net, torch.zeros(1, 6)), start=0.3, scale=2.0)
    a, b, count = 0.5, 4.0, sum(len(v) for v in gates.learned.values())
    prior = torch.distributions.Beta(torch.tensor(a), torch.tensor(b))
    constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    expected = -count * (float(prior.log_prob(torch.tensor(0.3))) - constant)
    assert gates.penalty(a, b).item() == pytest.approx(expected, rel=1e-5)
    (scores, *_) = gates.scores().values()
    torch.testing.assert_close(scores, torch.full_like(scores, math.log(0.7 / 0.3)), rtol=1e-5, atol=1e-5)


def test_gates_of_convolutions_equal_masked_weights() -> None:
    """With probabilities of 0 and 1 a gated network is the one without the units."""
    net = convolutional(3).eval()
    units = find_units(net, torch.zeros(1, 1, 20, 20))
    gates = gd.Gates(net, units, start=0.5, scale=1.0)
    for values in gates.learned.values():
        values.data.copy_(torch.where(torch.rand(len(values)) < 0.5, -200.0, 200.0))
    x = torch.randn(4, 1, 20, 20)
    with gates.applied(net):
        found = net(x)
    torch.testing.assert_close(found, gates.folded(net)(x), rtol=1e-4, atol=1e-5)


# the file


def codebook_network() -> tuple[nn.Module, StoredNetwork]:
    torch.manual_seed(0)
    net = fully_connected([6, 10, 4])
    with torch.no_grad():
        for weight in (net.fc1.weight, net.fc2.weight):
            weight.mul_(torch.rand(weight.shape) < 0.6)
    books = {n: b for n, p in net.named_parameters() if (b := dc.cluster(p, 4)) is not None}
    return net, store(net, net, torch.zeros(1, 6), codebooks=books)


def test_damaged_and_hostile_files() -> None:
    net, found = codebook_network()
    content = found.to_bytes()
    stream, architecture = found._stream()[0], architecture_of(net)
    assert content == pack([stream], kind=SHARED, architecture=architecture)
    torch.testing.assert_close(decode(stream, net)(torch.ones(1, 6)), found.module(torch.ones(1, 6)))
    for place in range(0, 8 * len(stream), 8 * len(stream) // 40):  # behind the digest: whoever writes his own
        damaged = bytearray(stream)
        damaged[place >> 3] ^= 1 << (place & 7)
        refused_or_finite(bytes(damaged), net)
    for size in range(0, len(stream), len(stream) // 10):
        refused_or_finite(stream[:size], net)
    with pytest.raises(CorruptFileError):
        decode(stream + b"a", net)


def refused_or_finite(stream: bytes, net: nn.Module) -> None:
    """Some damage gives another network; none gives another error, or NaN."""
    try:
        again = decode(stream, net)
    except CorruptFileError:
        return
    assert all(bool(torch.isfinite(p).all()) for p in again.parameters())


def test_files_of_others_are_refused(tmp_path: Any) -> None:
    net, found = codebook_network()
    found.save(tmp_path / "n.bdl")
    with pytest.raises(OtherArchitectureError):
        load(tmp_path / "n.bdl", fully_connected([6, 11, 4]))
    content = bytearray((tmp_path / "n.bdl").read_bytes())
    content[20] ^= 1
    (tmp_path / "n.bdl").write_bytes(content)
    with pytest.raises(CorruptFileError):
        load(tmp_path / "n.bdl", net)


def test_a_codebook_is_smaller_than_floats_and_unused_centroids_go() -> None:
    net, found = codebook_network()
    floats = store(net, with_shared_values(net), torch.zeros(1, 6))
    assert len(found.to_bytes()) < 0.6 * len(floats.to_bytes())
    for shared in found.codebooks.values():
        used = shared.levels[shared.levels != 0].unique().tolist()
        assert used == [*range(-len(shared.book.below), 0), *range(1, len(shared.book.above) + 1)]


def with_shared_values(net: nn.Module) -> nn.Module:
    """A copy with the values that its codebooks give."""
    result = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in result.parameters():
            book = dc.cluster(parameter, 4)
            if book is not None:
                parameter.copy_(book.value(parameter))
    return result


def test_batch_normalisation_is_in_the_file(tmp_path: Any) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    net(torch.randn(50, 6))
    found = store(net, net, torch.zeros(1, 6))
    found.save(tmp_path / "n.bdl")
    fresh = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(5, 6)
    torch.testing.assert_close(load(tmp_path / "n.bdl", fresh)(x), net.eval()(x))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40),
    st.integers(1, 20),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_clusters_are_near_their_weights(values: list[float], size: int, dtype: torch.dtype) -> None:
    weights = torch.tensor(values, dtype=dtype)
    book = dc.cluster(weights, size)
    if book is None:
        assert len(weights[weights != 0].unique()) <= size
        return
    found = book.value(weights)
    assert bool(torch.isfinite(found).all())
    assert bool((found[weights == 0] == 0).all())
    assert 1 <= len(book.book) <= size
    spread = float(weights.max().double() - weights.min().double())
    assert float((found.double() - weights.double()).abs().max()) <= spread * (1 + 1e-6)


# errors and limits


def test_bad_input() -> None:
    x, y = easy()
    net = network()
    how = METHODS["DC"][1]
    wrong: list[tuple[Any, Any]] = [
        ((x[:0], y[:0]), (x, y)), ((x, y.float()), (x, y)), ((x, y[:-1]), (x, y)), ((x, y), (x * math.nan, y)),
    ]  # fmt: skip
    for training, validation in wrong:
        with pytest.raises(InputError):
            deep_compression(net, training, validation, how, progress=False)
    with pytest.raises(InputError, match="tolerance"):
        deep_compression(net, (x, y), (x, y), replace(how, tolerance=-0.1), progress=False)
    for bad in ({"fraction": 1.0}, {"bits": ()}, {"bits": (0,)}):
        with pytest.raises(InputError):
            replace(how, **bad)
    for name, bad in (("DNS", {"strengths": (2.0, 1.0)}), ("DNS", {"settled": 2.0}), ("GL", {"strengths": (-1.0,)}),
                      ("GD", {"strengths": ()}), ("GD", {"start": 1.0})):  # fmt: skip
        with pytest.raises(InputError):
            replace(METHODS[name][1], **bad)
    with pytest.raises(UnsupportedModelError), pytest.warns(UserWarning, match="kept whole"):
        group_lasso(Squared(), (x, y), (x, y), METHODS["GL"][1])


class Squared(nn.Module):
    """A network without units."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x.square() @ self.weight


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    x, y = easy()
    net = network()
    with pytest.raises(NumericalError, match="epoch 1"):
        train(net.parameters(), net, (x, y), QUICK, penalty=lambda: torch.tensor(math.inf), progress=False)


def test_the_strongest_within_the_limit() -> None:
    class Found:
        def __init__(self, strength: float) -> None:
            self.strength, self.error = strength, strength / 10

    tried: list[float] = []

    def attempt(strength: float) -> Found:
        tried.append(strength)
        return Found(strength)

    assert strongest((1.0, 2.0, 3.0, 4.0), attempt, 0.25, what="c").strength == 2.0
    assert tried == [1.0, 2.0, 3.0]
    with pytest.warns(UserWarning, match="Even the least c"):
        assert strongest((5.0, 6.0), attempt, 0.25, what="c").strength == 5.0


def test_the_limit_is_one_standard_error() -> None:
    dense = fit_dense(network(), easy(0), easy(1), QUICK, tolerance=None, seed=0, progress=False)
    p = (300 * dense.error + 1) / 302
    assert dense.limit == pytest.approx(dense.error + math.sqrt(p * (1 - p) / 300))
    assert fit_dense(network(), easy(0), easy(1), QUICK, tolerance=0.05, seed=0, progress=False).limit == pytest.approx(
        dense.error + 0.05
    )


# the tables


def test_published_rates_count_indices() -> None:
    """The rule by which rows are counted gives back the published rates from the published shares, to rounding."""
    for rows in tables.PUBLISHED.values():
        for row in rows:
            if row.left is None or row.pruning is None or row.method.startswith("BC"):
                continue
            found = tables.pruning_rate(1000, dense=1000, nonzero=round(10 * row.left))
            assert row.pruning == pytest.approx(found, rel=0.15), row.method  # the share has one or two digits


def test_a_table_with_gaps_and_rows_of_ours() -> None:
    shown = tables.side_by_side([Row("DC", pruning=7.51, pruning_error=1.71, file_bytes=12345)], "lenet-5-caffe")
    cells = [list(column.cells) for column in shown.columns]
    assert cells[0][0] == "DC"
    assert cells[5][0] == "7.5 (1.71)"
    assert cells[8][0] == "12,345"
    assert len(cells[0]) == 1 + len(tables.PUBLISHED["lenet-5-caffe"])
    assert np.array_equal(tables.side_by_side([], "digits").row_count, 0)
