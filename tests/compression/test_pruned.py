"""Choices are tried on what is left of a network: the same outputs, at the cost of what is left."""

import copy
import math

import pytest
import torch
from torch import nn

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.pruned import Pruned
from pyro_bdl.compression.quantisation.choosing import choose_integers, values_of
from pyro_bdl.compression.quantisation.precision import fixed_point
from pyro_bdl.compression.quantisation.widths import choose_widths, errors_one_bit_below, rounded
from pyro_bdl.compression.units.cutting import zero
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.compression.units.probing import random_mask
from pyro_bdl.compression.validation import ROWS, error_function
from tests.compression.units.pruned_networks import make
from tests.fresh_state import fresh_state  # noqa: F401


@pytest.mark.parametrize("name", ["mlp", "lenet_5", "batch_norm", "resnet"])
def test_the_outputs_are_those_of_the_whole_network_with_zeros(name: str) -> None:
    net, inputs = make(name, torch.float64)
    net.eval()
    units = find_units(net, inputs)
    kept = units.complete(
        units.with_channels({n: random_mask(g.size, seed=i) for i, (n, g) in enumerate(units.groups.items())})
    )
    mean = {n: p.detach() for n, p in net.named_parameters()}
    posterior = WeightPosterior(mean, {n: torch.full_like(m, 1e-4) for n, m in mean.items()})
    pruned = Pruned.of(net, posterior, units, kept)
    masked = zero(copy.deepcopy(net), list(units.groups.values()), kept)
    with torch.no_grad():
        assert torch.allclose(pruned.module(*inputs), masked(*inputs), atol=1e-9)
    assert sum(p.numel() for p in pruned.module.parameters()) < sum(p.numel() for p in net.parameters())
    # What is chosen for what is left stands in the whole network where it was taken from.
    integers = choose_integers(pruned.posterior, pruned.gone, evaluate=None, limit=math.nan, spread=None, trade=None)
    whole = pruned.whole(integers)
    for parameter, values in values_of(whole, mean).items():
        assert values.shape == mean[parameter].shape
        assert float((values - masked.get_parameter(parameter)).detach().abs().max()) < 0.1
    with torch.no_grad():
        small, large = copy.deepcopy(pruned.module), copy.deepcopy(net)
        for n, p in small.named_parameters():
            p.copy_(integers[n].value(p))
        for n, p in large.named_parameters():
            p.copy_(whole[n].value(p))
        zero(large, list(units.groups.values()), kept)
        assert torch.allclose(small(*inputs), large(*inputs), atol=1e-9)


def test_an_error_beyond_the_limit_is_told_early() -> None:
    """Eight thousand points, all wrong: after one chunk it is sure that there are more than a tenth of them."""
    calls = []

    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return torch.stack([x[:, 0], -x[:, 0]], 1)

    error, _ = error_function((torch.ones(8 * ROWS, 1), torch.ones(8 * ROWS).long()))
    assert error(Wrong(), above=0.1) == 1 / 8
    assert calls == [ROWS]
    assert error(Wrong()) == error(Wrong(), above=1.0) == 1.0
    assert error(Wrong(), above=0.99) > 0.99
    given, points = error_function(lambda net: 0.3)
    assert (given(Wrong(), above=0.1), points) == (0.3, None)


def test_the_search_for_widths_is_no_more_than_linear_in_the_parameters() -> None:
    tried = {}
    for count in (10, 40):
        mean = {f"p{i}": torch.randn(30) for i in range(count)}
        p = WeightPosterior(
            mean, {n: torch.full_like(m, 4.0 ** -(i % 5) * 1e-2) for i, (n, m) in enumerate(mean.items())}
        )
        gone = {n: torch.zeros_like(m, dtype=torch.bool) for n, m in mean.items()}
        asked = 0

        def error(values: dict[str, torch.Tensor]) -> float:
            nonlocal asked
            asked += 1
            return max(float((values[n] - m).abs().max()) for n, m in mean.items())  # noqa: B023

        widths = choose_widths(p, gone, evaluate=error, limit=0.2, spread=None, rule=fixed_point)
        tried[count] = asked
        assert error(rounded(p, gone, widths)) <= 0.2
        assert all(e > 0.2 for e in errors_one_bit_below(p, gone, widths, evaluate=error).values())
    assert tried[40] < 6 * tried[10]  # it was sixteen times as many, and more
