"""Units without effect go, and only those."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pyro_bdl.compression.units.dead_units import without_dead_units
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.compression.units.shrinking import shrink
from pyro_bdl.errors import InputError
from tests.compression.units.pruned_networks import PRUNABLE, make
from tests.compression.units.test_shrinking import differ
from tests.fresh_state import fresh_state  # noqa: F401


def masked_weights(network: nn.Module, kept: dict[str, Tensor]) -> nn.Module:
    network = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter *= kept.get(name, torch.ones(()))
    return network


def random_weights(network: nn.Module, probability: float) -> dict[str, Tensor]:
    return {n: torch.rand_like(p) < probability for n, p in network.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize("name", PRUNABLE)
def test_outputs_do_not_change(name: str) -> None:
    network, inputs = make(name, torch.float64)
    units = find_units(network, inputs)
    more = tuple(torch.randn(7, *x.shape[1:], dtype=torch.float64) for x in inputs)
    for probability in (0.0, 0.02, 0.2, 1.0):
        weights = random_weights(network, probability)
        kept = without_dead_units(network, weights, inputs, units=units)
        sparse = masked_weights(network, weights)
        small = shrink(sparse, kept, inputs, units=units)
        assert differ(sparse, small, more) < 1e-11
        if probability == 1.0:
            assert all(mask.all() for mask in kept.values())


def test_a_chain_dies_to_its_beginning_and_end() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].bias.fill_(-1.0)
        network[2].bias.fill_(-1.0)
    weights = {name: torch.ones_like(p, dtype=torch.bool) for name, p in network.named_parameters() if p.dim() > 1}
    weights["0.weight"][:, 3] = False  # nobody reads the last input
    weights["0.weight"][2] = False  # the third unit is relu(-1) = 0
    weights["2.weight"][1, :2] = False  # so the second has no input left, and is relu(-1) = 0 too
    weights["4.weight"][:, 0] = False  # nobody reads the first
    weights["2.weight"][2, 0] = False  # so nobody reads the first of the layer before
    x = torch.randn(2, 4)
    units = find_units(network, x)
    kept = without_dead_units(network, weights, x, units=units)
    assert kept["input"].tolist() == [True, True, True, False]
    assert kept["0"].tolist() == [False, True, False]
    assert kept["2"].tolist() == [False, False, True]


def test_a_constant_unit_stays() -> None:
    """Without inputs left it is relu(1) = 1, which the next layer adds like a bias."""
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        network[0].bias.fill_(1.0)
    weights = {"0.weight": torch.tensor([[True, True], [False, False], [True, True]])}
    units = find_units(network, torch.zeros(1, 2))
    assert without_dead_units(network, weights, torch.zeros(1, 2), units=units)["0"].all()


def test_a_shift_of_batch_norm_counts() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3)).eval()
    weights = {"0.weight": torch.tensor([True, False, False]).reshape(3, 1, 1, 1).expand(3, 1, 3, 3)}
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([0.5, 0.5, -0.5]))
    x = torch.randn(1, 1, 6, 6)
    units = find_units(network, x)
    assert without_dead_units(network, weights, x, units=units)["0"].tolist() == [True, True, False]


def test_units_that_are_pruned_anyway() -> None:
    network, inputs = make("lenet_5")
    units = find_units(network, inputs)
    pruned = {"conv2": torch.arange(50) < 9, "fc1.input": torch.arange(800) >= 32}
    kept = without_dead_units(network, {}, inputs, units=units, kept=pruned)
    assert units.architecture(kept) == "20-7-112-500"
    assert not kept["conv2"][:2].any()  # none of their features is read


@pytest.mark.parametrize(
    "weights",
    [{"9.weight": torch.ones(3, dtype=torch.bool)}, {"0.weight": torch.ones(9, 7)}, {"0.weight": torch.ones(3) > 0}],
)
def test_bad_masks_are_refused(weights: dict[str, Tensor]) -> None:
    network, inputs = make("mlp")
    units = find_units(network, inputs)
    with pytest.raises(InputError, match="weights kept"):
        without_dead_units(network, weights, inputs, units=units)
