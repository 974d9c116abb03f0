"""Which units are found, under which names, and what is kept whole."""

import itertools
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_bdl.compression.units.dependencies import Candidate, candidates
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.compression.units.unit_groups import Member
from pyro_bdl.errors import InputError
from tests.compression.units.pruned_networks import make
from tests.compression.units.unprunable_networks import UNPRUNABLE, sequential
from tests.fresh_state import fresh_state  # noqa: F401

ARCHITECTURES = {
    "mlp": "7-9-8",
    "lenet_300_100": "784-300-100",
    "lenet_5": "20-50-800-500",
    "batch_norm": "6-8-128-10",
    "resnet": "8-8-12-12-12",
    "unet": "6-8-10-8-7-6",
    "depthwise": "8-6-24",
    "grouped": "4-6-4-5",  # four units of three channels each, one of each group
    "transposed": "6-7-4",
    "one_dimension": "6-4-12",
    "two_heads": "9-6-5",
    "mixed": "4-67-9",
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture(name: str) -> None:
    network, inputs = make(name)
    units = find_units(network, inputs)
    assert units.architecture() == ARCHITECTURES[name]
    assert not units.whole


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_position_belongs_to_at_most_one_unit(name: str) -> None:
    network, inputs = make(name)
    units = find_units(network, inputs)
    tensors = dict(itertools.chain(network.named_parameters(), network.named_buffers()))
    channels: dict[tuple[str, int], list[int]] = {}
    for group in units.groups.values():
        for member in group.members:
            assert len(member.index) == len(member.unit)
            assert set(member.unit.tolist()) <= set(range(group.size))
            if member.role != "size":
                assert int(member.index.max()) < tensors[member.name].shape[member.dim]
            if not group.is_selection:
                channels.setdefault((member.name, member.dim), []).extend(member.index.tolist())
    assert all(len(set(index)) == len(index) for index in channels.values())


def test_published_architectures_are_counted_as_published() -> None:
    for name, counts in (("lenet_300_100", "278-98-13"), ("lenet_5", "8-13-88-13")):
        network, inputs = make(name)
        units = find_units(network, inputs)
        kept = {
            group.name: torch.arange(group.size) < int(count)
            for group, count in zip(units.groups.values(), counts.split("-"), strict=True)
        }
        assert units.architecture(kept) == counts


def test_roles() -> None:
    network, inputs = make("batch_norm")
    units = find_units(network, inputs)
    roles = {member.name: member.role for member in units.groups["0"].members if member.role != "size"}
    assert roles == {
        "0.weight": "producer", "0.bias": "bias", "1.weight": "channel", "1.bias": "channel",
        "1.running_mean": "channel", "1.running_var": "channel", "2.weight": "channel", "3.weight": "consumer",
    }  # fmt: skip
    assert [m.name for m in units.groups["3"].of("consumer")] == ["7.weight"]
    assert torch.equal(units.groups["3"].of("consumer")[0].unit.bincount(), torch.full((8,), 16))
    assert units.groups["7.input"].is_selection


def test_a_residual_stream_is_one_group() -> None:
    network, inputs = make("resnet")
    units = find_units(network, inputs)
    makers = {name: {m.layer for m in group.of("producer")} for name, group in units.groups.items()}
    assert makers["0"] == {"0", "3.conv2"}
    assert {"4.conv2", "4.short.0", "5.conv2"} in makers.values()


@pytest.mark.parametrize("name", UNPRUNABLE)
def test_what_cannot_be_pruned_is_kept_whole_and_named(name: str) -> None:
    network, shape, whole, architecture = UNPRUNABLE[name]
    with pytest.warns(UserWarning, match="kept whole") as caught:
        units = find_units(network, torch.randn(shape))
    assert set(units.whole) == whole
    assert all(layer in str(caught[0].message) and reason for layer, reason in units.whole.items())
    assert units.architecture() == architecture


def test_an_input_that_something_else_reads_is_not_the_networks_input() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.out(self.fc(x).relu())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        units = find_units(Skip(), torch.randn(2, 4))
    assert list(units.groups) == ["fc.input", "fc"]


def test_the_network_and_the_random_state_are_left_alone() -> None:
    network, inputs = make("batch_norm")
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    find_units(network, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(module.training and not module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("example", [torch.zeros(2, 5), "an image", (torch.zeros(2, 7), torch.zeros(2, 7)), None])
def test_bad_examples_are_refused(example: Any) -> None:
    network, _ = make("mlp")
    with pytest.raises(InputError, match="the example input"):
        find_units(network, example)


def test_dead_and_frozen_weights_do_not_matter() -> None:
    network, inputs = make("lenet_5")
    for parameter in network.parameters():
        parameter.requires_grad_(False).zero_()
    assert find_units(network, inputs).architecture() == "20-50-800-500"


BAD_MASKS: dict[str, dict[str, Tensor]] = {
    "unknown group": {"fc9": torch.ones(3, dtype=torch.bool)},
    "wrong shape": {"fc1": torch.ones(3, dtype=torch.bool)},
    "numbers": {"fc1": torch.ones(500)},
    "nothing": {"fc1": torch.zeros(500, dtype=torch.bool)},
    "only features of a channel that goes": {
        "conv2": torch.arange(50) > 0,
        "fc1.input": torch.arange(800) < 16,
    },
}


@pytest.fixture(scope="module")
def lenet_5_units() -> Units:
    network, inputs = make("lenet_5")
    return find_units(network, inputs)


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_masks_are_refused(case: str, lenet_5_units: Units) -> None:
    with pytest.raises(InputError, match="units kept"):
        lenet_5_units.complete(BAD_MASKS[case])


def test_features_go_with_their_channel(lenet_5_units: Units) -> None:
    complete = lenet_5_units.complete({"conv2": torch.arange(50) != 3})
    assert complete["fc1.input"].nonzero().flatten().tolist() == [i for i in range(800) if i // 16 != 3]


def test_a_network_that_runs_in_its_own_precision_only() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.first(x.float()).relu())

    assert find_units(Single(), torch.randn(2, 4)).architecture() == "4-6"


def test_parametrized_layers_are_kept_whole() -> None:
    network = sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))
    with pytest.warns(UserWarning, match="kept whole"):
        units = find_units(network, torch.randn(2, 4))
    assert "0" not in units.groups


@pytest.mark.parametrize("wrong", ["shifted", "missing consumer", "missing bias"])
def test_a_wrong_graph_is_not_believed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded bugs in what the tracer proposes: the group is kept whole."""
    network, inputs = make("lenet_5")

    def mutate(member: Member) -> Member:
        if wrong == "shifted" and member.role == "consumer":
            return replace(member, index=(member.index + 1) % (int(member.index.max()) + 1))
        return member

    def proposed(*args: Any, **options: Any) -> list[Candidate]:
        role = {"missing consumer": "consumer", "missing bias": "bias"}.get(wrong)
        return [
            replace(c, group=replace(c.group, members=tuple(mutate(m) for m in c.group.members if m.role != role)))
            if c.group is not None
            else c
            for c in candidates(*args, **options)
        ]

    monkeypatch.setattr("pyro_bdl.compression.units.finding.candidates", proposed)
    with pytest.warns(UserWarning, match="kept whole"):
        units = find_units(network, inputs)
    assert {"conv1", "conv2", "fc1"} <= set(units.whole)
    assert all(group.is_selection for group in units.groups.values())


def test_one_bad_group_does_not_spoil_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = make("mlp")

    def proposed(*args: Any, **options: Any) -> list[Candidate]:
        return [
            replace(c, group=replace(c.group, members=c.group.members[1:])) if c.makers == ("0",) and c.group else c
            for c in candidates(*args, **options)
        ]

    monkeypatch.setattr("pyro_bdl.compression.units.finding.candidates", proposed)
    with pytest.warns(UserWarning, match="kept whole: 0:"):
        units = find_units(network, inputs)
    assert units.architecture() == "7-9-8"
    assert list(units.groups) == ["input", "2.input", "2"]


def test_a_graph_that_no_trial_can_tell_of_is_not_believed() -> None:
    class Label(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.first(x).relu()).argmax(-1)

    with pytest.warns(UserWarning, match="kept whole"):
        units = find_units(Label(), torch.randn(2, 4))
    assert all(group.is_selection for group in units.groups.values())


@pytest.mark.parametrize("width", [3, 4, 5, 6, 7, 8])
def test_a_wrong_graph_behind_a_rectifier_is_not_believed(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One output, which is zero for half of all weights."""
    network = sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1), nn.ReLU())
    assert find_units(network, torch.randn(1, 4)).architecture() == f"4-{width}"

    def shifted(*args: Any, **options: Any) -> list[Candidate]:
        moved = []
        for c in candidates(*args, **options):
            if c.group is not None and c.group.of("consumer"):
                members = tuple(
                    replace(m, index=(m.index + 1) % width) if m.role == "consumer" else m for m in c.group.members
                )
                c = replace(c, group=replace(c.group, members=members))
            moved.append(c)
        return moved

    monkeypatch.setattr("pyro_bdl.compression.units.finding.candidates", shifted)
    with pytest.warns(UserWarning, match="kept whole: 0:"):
        assert "0" not in find_units(network, torch.randn(1, 4)).groups
