"""The report and the file of a compressed network, without a guide."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from pyro_bdl.compression.codec import Quantised
from pyro_bdl.compression.compressed import CompressedNetwork, architecture_of, count, load_compressed
from pyro_bdl.compression.example_inputs import ExampleInputs
from pyro_bdl.compression.quantisation.precision import FixedPoint, SmallFloat
from pyro_bdl.compression.quantisation.widths import Widths
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.compression.units.shrinking import shrink
from tests.fresh_state import fresh_state  # noqa: F401


def example() -> tuple[nn.Module, CompressedNetwork]:
    """Two of four units left, at known widths: 4-4-2 with 30 parameters to 4-2-2 with 16, two of them zero."""
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 4)
    units = find_units(net, x)
    kept = units.complete({"0": torch.tensor([True, False, True, False])})
    small = shrink(net, kept, x, units=units).eval()
    parameters = {name: Quantised(torch.ones_like(p).long(), -3) for name, p in small.named_parameters()}
    parameters["2.bias"].levels.zero_()
    with torch.no_grad():
        for name, p in small.named_parameters():
            p.copy_(parameters[name].value(p))
    widths = Widths(
        fixed={name: FixedPoint(bits, 0) for name, bits in zip(parameters, (5, 3, 2, 0), strict=True)},
        floats={name: SmallFloat(2, bits, 0) for name, bits in zip(parameters, (3, 2, 1, 0), strict=True)},
        units={"0.weight": tuple(FixedPoint(b, 0) for b in (6, 0, 1, 0)), "2.weight": (FixedPoint(2, 0),) * 2},
    )
    return net, CompressedNetwork(
        variants={"coded": small}, kept=kept, units=units, parameters=parameters, code=None, widths=widths,
        errors={"coded": 0.25}, errors_one_bit_below={"0.weight": 0.5}, architecture=architecture_of(net),
        weights=count(net), inputs=ExampleInputs.of(x),
    )  # fmt: skip


def test_rates_are_those_of_the_tables() -> None:
    _, small = example()
    report = small.report()
    assert (report.weights, report.dense, report.nonzero) == (30, 16, 14)
    assert report.architecture == "4-2"
    assert report.pruning == 30 / 16
    assert report.pruning_sparse == 30 / 14
    assert report.fast == 32 * 30 / (8 * 5 + 2 * 3 + 4 * 2)
    assert report.fast_in_floats == 32 * 30 / (8 * 6 + 2 * 5 + 4 * 4 + 2 * 3)
    assert report.fast_by_unit == 32 * 30 / (4 * (6 + 1) + 2 * 3 + 2 * (2 + 2))
    assert report.maximum == 4 * 30 / report.file_bytes
    assert sum(report.bytes_by_part.values()) == report.file_bytes == len(small.to_bytes())
    assert list(report.bytes_by_part)[:2] == ["shape", "input units"]


def test_tables() -> None:
    _, small = example()
    text = str(small.report())
    assert "46.67%" in text
    assert "5-2" in text
    assert "e2m3-e2m1" in text
    assert "1 to 6, 2 to 2" in text
    assert "25.00%" in text
    assert "0.weight at 4 bits" in text
    numbers = small.report().as_dict()
    assert numbers["errors"] == {"coded": 0.25}
    assert set(numbers) == {f.name for f in dataclasses.fields(small.report())}


def test_a_network_without_anything_left() -> None:
    _, small = example()
    nothing = {name: Quantised(torch.zeros_like(q.levels), 0) for name, q in small.parameters.items()}
    widths = Widths({n: FixedPoint(0, 0) for n in small.parameters}, small.widths.floats, {})
    report = dataclasses.replace(small, parameters=nothing, widths=widths).report()
    assert report.nonzero == 0
    assert report.fast == 32 * 30
    assert report.file_bytes < 40


def test_the_file(tmp_path: Any) -> None:
    net, small = example()
    path = tmp_path / "folder" / "n.bdl"
    assert small.save(path) == path.stat().st_size
    assert path.read_bytes() == small.to_bytes()
    again = load_compressed(path, net)
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), small.module.parameters(), strict=True))
    for dtype in (torch.float64, torch.bfloat16):  # of the network that is handed over
        other = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)
        assert {p.dtype for p in load_compressed(path, other).parameters()} == {dtype}


def test_a_file_that_cannot_be_written(tmp_path: Any) -> None:
    _, small = example()
    (tmp_path / "n.bdl").mkdir()
    with pytest.raises(OSError, match=r"n\.bdl"):
        small.save(tmp_path / "n.bdl")


def test_architectures() -> None:
    a = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    assert architecture_of(a) == architecture_of(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double())
    assert architecture_of(a) != architecture_of(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)))
    assert count(a) == 28
