"""Shrunk networks have the outputs of the masked ones."""

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pyro_bdl.compression.units import cutting
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.compression.units.selected_linear import SelectedLinear
from pyro_bdl.compression.units.shrinking import mask, shrink, shrink_tensors
from pyro_bdl.compression.units.unit_groups import UnitGroup
from pyro_bdl.errors import InputError
from tests.compression.units.pruned_networks import PRUNABLE, make
from tests.fresh_state import fresh_state  # noqa: F401

TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-11}


def random_kept(units: Units, probability: float) -> dict[str, Tensor]:
    """Random masks; whoever is kept, one is."""
    kept = {}
    for name, group in units.groups.items():
        kept[name] = torch.rand(group.size) < probability
        kept[name][int(torch.randint(group.size, ()))] = True
    for name, left in units.with_channels(kept).items():
        if not left.any():
            kept[name] = torch.ones(units.groups[name].size, dtype=torch.bool)
    return kept


def outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        result = network(*inputs)
    return list(result) if isinstance(result, tuple) else [result]


def differ(a: nn.Module, b: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """The largest difference of two networks' outputs, relative to the largest output."""
    pairs = list(zip(outputs(a, inputs), outputs(b, inputs), strict=True))
    return max(float((x - y).abs().max() / x.abs().max().clamp(min=1e-3)) for x, y in pairs)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", PRUNABLE)
def test_shrunk_equals_masked(name: str, dtype: torch.dtype) -> None:
    network, inputs = make(name, dtype)
    units = find_units(network, inputs)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for probability in (0.0, 0.5, 0.9):
        kept = random_kept(units, probability)
        masked, small = (f(network, kept, inputs, units=units) for f in (mask, shrink))
        more = tuple(torch.randn(5, *x.shape[1:], dtype=dtype) for x in inputs)
        assert differ(masked, small, more) < TOLERANCE[dtype]
        assert all(p.dtype == dtype for p in small.parameters())
        if not all(m.all() for m in kept.values()):
            assert parameters(small) < parameters(network)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", PRUNABLE)
def test_tensors_are_cut_as_the_networks_own(name: str) -> None:
    network, inputs = make(name)
    units = find_units(network, inputs)
    kept = random_kept(units, 0.5)
    small = shrink(network, kept, inputs, units=units).state_dict()
    state = shrink_tensors(dict(network.state_dict()), kept, units=units)
    assert all(torch.equal(value, small[key]) for key, value in state.items())
    assert {key for key in small if key not in state} == {key for key in small if key.endswith(".inputs")}


def test_tensors_of_another_network_are_refused() -> None:
    network, inputs = make("mlp")
    with pytest.raises(InputError, match=r"the tensor of 2\.weight"):
        shrink_tensors({"2.weight": torch.zeros(8, 5)}, {}, units=find_units(network, inputs))


@pytest.mark.parametrize("name", PRUNABLE)
def test_all_kept_is_the_same_network(name: str) -> None:
    network, inputs = make(name)
    small = shrink(network, {}, inputs)
    assert repr(small) == repr(network)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), network.parameters(), strict=True))
    assert not {id(p) for p in small.parameters()} & {id(p) for p in network.parameters()}


@pytest.mark.parametrize("name", PRUNABLE)
def test_a_shrunk_network_can_be_shrunk_again(name: str) -> None:
    network, inputs = make(name, torch.float64)
    units = find_units(network, inputs)
    small = shrink(network, random_kept(units, 0.7), inputs, units=units)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = find_units(small, inputs)
    kept = random_kept(again, 0.6)
    masked, smaller = (f(small, kept, inputs, units=again) for f in (mask, shrink))
    assert differ(masked, smaller, inputs) < TOLERANCE[torch.float64]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["mlp", "lenet_5", "mixed", "two_heads"]), st.data())
def test_any_masks(name: str, data: st.DataObject) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(data.draw(st.integers(0, 2**32 - 1), "seed"))
        network, inputs = make(name, torch.float64)
        units = find_units(network, inputs)
        kept = random_kept(units, data.draw(st.floats(0, 1), "probability"))
        masked, small = (f(network, kept, inputs, units=units) for f in (mask, shrink))
        assert differ(masked, small, inputs) < TOLERANCE[torch.float64]
        assert parameters(small) == sum(
            int(m.count_nonzero()) for m in _kept_entries(network, units, units.complete(kept)).values()
        )


def _kept_entries(network: nn.Module, units: Units, kept: dict[str, Tensor]) -> dict[str, Tensor]:
    ones = copy.deepcopy(network)
    with torch.no_grad():
        for p in ones.parameters():
            p.fill_(1)
    return dict(cutting.zero(ones, list(units.groups.values()), kept).named_parameters())


def test_flags_hooks_and_buffers_are_preserved() -> None:
    network, inputs = make("batch_norm", torch.float64)
    network.register_buffer("mine", torch.arange(3))
    network[0].weight.requires_grad_(False)
    network[7].bias.requires_grad_(False)
    network.train()
    network[1].eval()
    calls: list[str] = []
    network[7].register_forward_hook(lambda *_: calls.append("linear"))
    units = find_units(network, inputs)
    calls.clear()
    kept = {name: torch.arange(group.size) % 3 != 1 for name, group in units.groups.items()}
    small = shrink(network, kept, inputs, units=units)
    assert isinstance(small, nn.Sequential)
    assert isinstance(small[7], SelectedLinear)
    assert [m.training for m in small.modules()] == [m.training for m in network.modules()]
    assert {n: p.requires_grad for n, p in small.named_parameters()} == {
        n: p.requires_grad for n, p in network.named_parameters()
    }
    assert set(small.state_dict()) == set(network.state_dict()) | {"7.inputs"}
    assert torch.equal(small.get_buffer("mine"), torch.arange(3))
    assert torch.equal(small[1].running_var, network[1].running_var[kept["0"]])
    assert small[1].num_batches_tracked == network[1].num_batches_tracked
    small(*inputs)
    assert calls == ["linear"]


def test_the_shrunk_network_trains() -> None:
    network, inputs = make("resnet")
    units = find_units(network, inputs)
    small = shrink(network, random_kept(units, 0.5), inputs, units=units).train()
    small(*inputs).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())


def test_bfloat16() -> None:
    network, inputs = make("mlp", torch.bfloat16)
    units = find_units(network, inputs)
    kept = random_kept(units, 0.5)
    masked, small = (f(network, kept, inputs, units=units) for f in (mask, shrink))
    assert all(p.dtype == torch.bfloat16 for p in small.parameters())
    assert differ(masked, small, inputs) < 0.05


def test_the_state_of_a_shrunk_network_fits_one_that_was_built_anew() -> None:
    network, inputs = make("lenet_300_100")
    small = shrink(network, {"input": torch.arange(784) % 7 == 0, "fc1": torch.arange(300) < 20}, inputs)
    anew = nn.Sequential(
        nn.Flatten(),
        SelectedLinear(torch.arange(112), source_features=784, out_features=20), nn.ReLU(),
        nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    names = dict(zip(anew.state_dict(), small.state_dict(), strict=True))
    state = small.state_dict()
    anew.load_state_dict({key: state[name] for key, name in names.items()})
    assert torch.equal(anew(*inputs), small(*inputs))


@pytest.mark.parametrize("inputs", [[], [2, 1], [0, 0], [-1, 2], [0, 3], [[0, 1]]])
def test_bad_selections_are_refused(inputs: list[Any]) -> None:
    with pytest.raises(InputError, match="the inputs of a SelectedLinear"):
        SelectedLinear(torch.tensor(inputs, dtype=torch.long), source_features=3, out_features=2)


# Seeded bugs: each must make some shrunk network differ from its masked one, or fail.
def _off_by_one(groups: list[UnitGroup]) -> list[UnitGroup]:
    def moved(group: UnitGroup) -> UnitGroup:
        members = tuple(
            replace(m, index=(m.index + 1) % (int(m.index.max()) + 1)) if m.role == "consumer" else m
            for m in group.members
        )
        return replace(group, members=members)

    return [moved(group) for group in groups]


def _forgets(*suffixes: str) -> Callable[[list[UnitGroup]], list[UnitGroup]]:
    def forget(groups: list[UnitGroup]) -> list[UnitGroup]:
        return [replace(g, members=tuple(m for m in g.members if not m.name.endswith(suffixes))) for g in groups]

    return forget


MUTANTS: dict[str, tuple[str, Callable[[list[UnitGroup]], list[UnitGroup]]]] = {
    "column off by one": ("batch_norm", _off_by_one),
    "column off by one, linear": ("mlp", _off_by_one),
    "batch norm forgotten": ("resnet", _forgets("bn1.weight", "bn1.bias", "running_mean", "running_var")),
    "running mean forgotten": ("batch_norm", _forgets("running_mean")),
    "bias forgotten": ("mlp", _forgets("bias")),
    "size forgotten": ("grouped", _forgets("groups", "in_channels", "out_channels")),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_seeded_bugs_are_caught(mutant: str) -> None:
    name, mutate = MUTANTS[mutant]
    network, inputs = make(name, torch.float64)
    units = find_units(network, inputs)
    kept = units.complete({n: torch.arange(g.size) % 3 != 1 for n, g in units.groups.items()})
    masked = mask(network, kept, inputs, units=units)
    right = cutting.cut(copy.deepcopy(network), list(units.groups.values()), kept)
    assert differ(masked, right, inputs) < TOLERANCE[torch.float64]
    with pytest.raises((AssertionError, RuntimeError, ValueError)):  # noqa: PT012
        wrong = cutting.cut(copy.deepcopy(network), mutate(list(units.groups.values())), kept)
        consistent = all(
            layer.weight.shape[1] * layer.groups == layer.in_channels
            for layer in wrong.modules()
            if type(layer) is nn.Conv2d
        )
        assert consistent
        assert differ(masked, wrong, inputs) < TOLERANCE[torch.float64]


@pytest.fixture
def quiet() -> Iterator[None]:
    """The exporters' own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", ["lenet_5", "resnet", "unet", "two_heads"])
def test_export(name: str) -> None:
    network, inputs = make(name)
    units = find_units(network, inputs)
    small = shrink(network, random_kept(units, 0.4), inputs, units=units)
    exported = torch.export.export(small, inputs).module()
    assert differ(small, exported, inputs) < TOLERANCE[torch.float32]


@pytest.mark.usefixtures("quiet")
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")), reason="onnx is not installed"
)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet_5", "resnet", "unet"])
def test_onnx(name: str, tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    network, inputs = make(name)
    units = find_units(network, inputs)
    small = shrink(network, random_kept(units, 0.4), inputs, units=units)
    path = tmp_path / "small.onnx"
    torch.onnx.export(small, inputs, path, dynamo=True, verbose=False)
    session = ReferenceEvaluator(str(path))
    got = session.run(None, {session.input_names[0]: inputs[0].numpy()})
    expected = small(*inputs).detach().numpy()
    np.testing.assert_allclose(got[0], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
