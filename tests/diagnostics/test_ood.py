"""Entropies and out-of-distribution scores against definitions written out and against limits."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, mannwhitneyu
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from pyro_bdl.diagnostics import ood
from pyro_bdl.errors import InputError

DRAWS = np.random.default_rng(0).dirichlet(np.full(4, 0.3), size=(6, 9))


def test_entropies_are_those_of_scipy() -> None:
    np.testing.assert_allclose(ood.predictive_entropy(DRAWS), entropy(DRAWS.mean(0), axis=-1))
    np.testing.assert_allclose(ood.predictive_entropy(DRAWS.mean(0)), entropy(DRAWS.mean(0), axis=-1))
    np.testing.assert_allclose(ood.expected_entropy(DRAWS), entropy(DRAWS, axis=-1).mean(0))
    divergence = entropy(DRAWS, DRAWS.mean(0, keepdims=True), axis=-1).mean(0)  # KL from each draw to their mean
    np.testing.assert_allclose(ood.mutual_information(DRAWS), divergence, atol=1e-12)
    np.testing.assert_allclose(ood.mutual_information(torch.tensor(DRAWS)), divergence, atol=1e-12)


def test_limits() -> None:
    same, certain = np.full((3, 2, 5), 0.2), np.eye(4)[:, None, :]
    np.testing.assert_allclose(ood.predictive_entropy(same), np.log(5))
    np.testing.assert_allclose(ood.mutual_information(same), 0, atol=1e-12)
    np.testing.assert_allclose(ood.expected_entropy(certain), 0)
    np.testing.assert_allclose(ood.mutual_information(certain), np.log(4))


scores = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 3.0]), min_size=1, max_size=15)


@settings(deadline=None)  # the first example pays for an import
@given(inside=scores, outside=scores)
def test_areas_agree_with_definitions(inside: list[float], outside: list[float]) -> None:
    pairs = [(o > i) + 0.5 * (o == i) for i in inside for o in outside]
    assert ood.auroc(inside, outside) == pytest.approx(np.mean(pairs))
    assert ood.auroc(outside, inside) == pytest.approx(1 - np.mean(pairs))
    target = torch.tensor([0] * len(inside) + [1] * len(outside))
    preds = torch.tensor(inside + outside, dtype=torch.float64)
    squashed = preds / 4  # torchmetrics takes scores beyond [0, 1] for logits
    assert ood.auroc(inside, outside) == pytest.approx(binary_auroc(squashed, target).item(), abs=1e-6)
    assert ood.aupr(inside, outside) == pytest.approx(binary_average_precision(squashed, target).item(), abs=1e-6)


def test_area_is_the_rank_statistic() -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(size=300), rng.normal(1.0, size=200)
    statistic = mannwhitneyu(outside, inside).statistic / (300 * 200)
    assert ood.auroc(inside, outside) == pytest.approx(statistic)


def test_perfect_and_hopeless() -> None:
    assert ood.auroc([0, 1], [2, 3]) == ood.aupr([0, 1], [2, 3]) == 1.0
    assert ood.false_positive_rate([0, 1], [2, 3]) == 0.0
    assert ood.auroc([2, 3], [0, 1]) == 0.0
    assert ood.false_positive_rate([2, 3], [0, 1]) == 1.0


def test_false_positive_rate_by_hand() -> None:
    inside = np.arange(100) / 100  # 95% of them are at most 0.94
    assert ood.false_positive_rate(inside, [0.93, 0.94, 0.945, 2.0]) == 0.5
    assert ood.false_positive_rate(inside, [0.93, 0.94, 0.945, 2.0], accepted=0.5) == 0.0


@pytest.mark.parametrize("function", [ood.auroc, ood.aupr, ood.false_positive_rate])
@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        ([], [1.0], "inside"),
        ([1.0], [], "outside"),
        ([1.0, np.nan], [1.0], "inside: expected finite"),
        ([1.0], [np.inf], "outside: expected finite"),
        ([[1.0]], [1.0], "inside: expected shape"),
        (["a"], [1.0], "inside: expected numbers"),
    ],
)
def test_bad_scores(function: Any, inside: Any, outside: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(inside, outside)


@pytest.mark.parametrize("accepted", [0, 1, 95, -0.1])
def test_bad_share(accepted: float) -> None:
    with pytest.raises(InputError, match="accepted"):
        ood.false_positive_rate([0.0], [1.0], accepted=accepted)


@pytest.mark.parametrize("function", [ood.expected_entropy, ood.mutual_information])
def test_draws_are_asked_for(function: Any) -> None:
    with pytest.raises(InputError, match=r"\(draws, N, classes\)"):
        function(DRAWS[0])
