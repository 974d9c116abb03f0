"""Thresholds chosen on validation error."""

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_bdl.compression.thresholds import choose_thresholds
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.errors import InputError, NumericalError
from tests.compression.units.pruned_networks import make
from tests.fresh_state import fresh_state  # noqa: F401

SIZES = {"input": 784, "fc1": 300, "fc2": 100}


def scores_and_need() -> tuple[dict[str, Tensor], dict[str, int]]:
    """Shuffled scores of three groups on different scales, and how many of the lowest of each the network needs."""
    scales = {"input": 1.0, "fc1": 4.0, "fc2": 0.2}
    scores = {name: scales[name] * torch.linspace(-3, 8, size)[torch.randperm(size)] for name, size in SIZES.items()}
    return scores, {"input": 278, "fc1": 98, "fc2": 13}


class Error:
    """0.02, and 0.001 more for each unit that is missing though needed."""

    def __init__(self, scores: Mapping[str, Tensor], need: Mapping[str, int]) -> None:
        self.needed = {name: score.argsort()[: need[name]] for name, score in scores.items()}
        self.calls = 0

    def __call__(self, kept: Mapping[str, Tensor]) -> float:
        self.calls += 1
        return 0.02 + 0.001 * sum(int((~kept[name][needed]).sum()) for name, needed in self.needed.items())


def test_each_group_is_pruned_to_what_it_needs() -> None:
    scores, need = scores_and_need()
    evaluate = Error(scores, need)
    found = choose_thresholds(scores, evaluate, tolerance=0.0)
    assert {name: int(mask.sum()) for name, mask in found.kept.items()} == need
    assert found.evaluations == evaluate.calls <= 45
    assert found.error == found.unpruned == 0.02


def test_the_tolerance_is_used_and_kept() -> None:
    scores, need = scores_and_need()
    found = choose_thresholds(scores, Error(scores, need), tolerance=0.0105)
    missing = sum(need.values()) - sum(int(mask.sum()) for mask in found.kept.values())
    assert missing == 10
    assert found.error <= found.unpruned + found.tolerance


def test_the_default_tolerance_is_a_standard_error() -> None:
    scores, need = scores_and_need()
    found = choose_thresholds(scores, Error(scores, need), points=5000)
    p = 101 / 5002
    assert found.tolerance == pytest.approx(math.sqrt(p * (1 - p) / 5000))
    perfect = choose_thresholds(scores, lambda _: 0.0, points=5000)
    assert 0 < perfect.tolerance < 1e-3
    assert all(int(mask.sum()) == 1 for mask in perfect.kept.values())


def test_the_same_again() -> None:
    scores, need = scores_and_need()
    first, second = (choose_thresholds(scores, Error(scores, need), tolerance=0.003) for _ in range(2))
    assert first.by_name == second.by_name


def test_the_budget_is_kept() -> None:
    scores, need = scores_and_need()
    for budget in (1, 2, 5, 20):
        evaluate = Error(scores, need)
        found = choose_thresholds(scores, evaluate, tolerance=0.0, max_evaluations=budget)
        assert evaluate.calls == found.evaluations <= budget
        assert found.error <= 0.02


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.lists(st.floats(allow_nan=False), min_size=1, max_size=8),
        min_size=1,
    ),
    st.floats(0, 0.5),
    st.integers(0, 2**31),
)
def test_any_scores_and_any_error(scores: dict[str, list[float]], tolerance: float, seed: int) -> None:
    """Also where the error is no monotone function of what is pruned."""

    def evaluate(kept: Mapping[str, Tensor]) -> float:
        assert all(mask.any() for mask in kept.values())
        return hash((seed, *(tuple(mask.tolist()) for mask in kept.values()))) % 1000 / 1000

    tensors = {name: torch.tensor(score, dtype=torch.float64) for name, score in scores.items()}
    found = choose_thresholds(tensors, evaluate, tolerance=tolerance)
    assert found.error == evaluate(found.kept) <= found.unpruned + tolerance
    assert all(
        torch.equal(found.kept[name], score <= found.by_name[name])
        for name, score in tensors.items()
        if bool((score <= found.by_name[name]).any())
    )


def test_units_of_a_network() -> None:
    network, inputs = make("lenet_5")
    units = find_units(network, inputs)
    scores = {name: torch.arange(group.size).double() for name, group in units.groups.items()}

    def evaluate(kept: Mapping[str, Tensor]) -> float:
        units.complete(kept)
        return 0.0 if kept["conv2"][:10].all() and kept["fc1.input"][:40].all() else 0.5

    found = choose_thresholds(scores, evaluate, tolerance=0.1, units=units)
    assert units.architecture(found.kept) == "1-10-40-1"


@pytest.mark.parametrize(
    ("scores", "options"),
    [
        ({}, {"tolerance": 0.1}),
        ({"a": torch.zeros(0)}, {"tolerance": 0.1}),
        ({"a": torch.tensor([math.nan])}, {"tolerance": 0.1}),
        ({"a": torch.zeros(2)}, {}),
        ({"a": torch.zeros(2)}, {"points": 0}),
        ({"a": torch.zeros(2)}, {"tolerance": -0.1}),
        ({"a": torch.zeros(2)}, {"tolerance": math.nan}),
        ({"a": torch.zeros(2)}, {"tolerance": 0.1, "max_evaluations": 0}),
    ],
)
def test_bad_input_is_refused(scores: dict[str, Tensor], options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        choose_thresholds(scores, lambda _: 0.0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [math.nan, -0.1, 1.5, math.inf])
def test_an_error_that_is_no_fraction_is_refused(error: float) -> None:
    with pytest.raises(NumericalError, match="validation error"):
        choose_thresholds({"a": torch.zeros(2)}, lambda _: error, tolerance=0.1)
