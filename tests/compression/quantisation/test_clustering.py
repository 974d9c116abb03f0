"""k-means on a line with a cluster at zero, against all partitions."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from pyro_bdl.compression.quantisation.clustering import GROUPS, k_means
from pyro_bdl.errors import InputError
from tests.fresh_state import fresh_state  # noqa: F401

Floats = NDArray[np.float64]


def cost(x: Floats, a: Floats, centres: Floats) -> float:
    return float((a * ((x[:, None] - np.concatenate([[0.0], centres])) ** 2).min(1)).sum())


def least_of_all(x: Floats, a: Floats, clusters: int) -> float:
    """Over all ways to give each value to zero or to one of the clusters, whatever stands beside what."""
    best = math.inf
    for labels in itertools.product(range(clusters + 1), repeat=len(x)):
        which = np.array(labels)
        total = float((a * x * x)[which == 0].sum())
        for k in range(1, clusters + 1):
            own, weights = x[which == k], a[which == k]
            if weights.sum() > 0:
                total += float((weights * (own - (weights * own).sum() / weights.sum()) ** 2).sum())
        best = min(best, total)
    return best


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**31))
def test_it_is_the_best_of_all_partitions(size: int, clusters: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal() + rng.normal(size=size)).round(int(rng.integers(0, 4)))  # ties and zeros among them
    a = rng.exponential(size=size) ** rng.integers(0, 5)
    centres = k_means(torch.from_numpy(x), torch.from_numpy(a), clusters).numpy()
    assert len(centres) <= clusters
    assert bool((np.diff(centres) > 0).all())
    assert bool((centres != 0).all())
    scale = (a * x * x).sum()
    assert cost(x, a, centres) == pytest.approx(least_of_all(x, a, clusters), rel=1e-9, abs=1e-12 * scale)


def test_exact_up_to_the_groups_and_not_worse_than_scikit_learn_beyond() -> None:
    for size, clusters in ((GROUPS // 2, 5), (20 * GROUPS, 8)):
        x, a = torch.randn(size).double() ** 3, torch.rand(size).double() ** 2
        ours = cost(x.numpy(), a.numpy(), k_means(x, a, clusters).numpy())
        free = KMeans(clusters, n_init=3, random_state=0).fit(x[:, None].numpy(), sample_weight=a.numpy())
        theirs = cost(x.numpy(), a.numpy(), free.cluster_centers_[:, 0])
        assert ours <= theirs * (1 + 1e-9)
        assert ours < cost(x.numpy(), a.numpy(), k_means(x, a, clusters - 1).numpy())


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e150])
def test_it_knows_no_scale(scale: float) -> None:
    x, a = torch.tensor([-1.1, -0.9, 0.01, 0.0, 2.0]).double(), torch.tensor([1.0, 1.0, 9.0, 9.0, 1.0]).double()
    expected = torch.tensor([-1.0, 2.0]).double()
    torch.testing.assert_close(k_means(x * scale, a, 2) / scale, expected)
    torch.testing.assert_close(k_means(x, a * scale, 2), expected)


def test_members_without_weight_get_no_centre() -> None:
    assert k_means(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([1.0, 0.0, 0.0]), 3).tolist() == [1.0]
    assert k_means(torch.ones(4), torch.zeros(4), 2).tolist() == []
    assert k_means(torch.zeros(4), torch.ones(4), 2).tolist() == []
    assert k_means(torch.ones(0), torch.ones(0), 2).tolist() == []
    assert k_means(torch.ones(3), torch.ones(3), 0).tolist() == []


@pytest.mark.parametrize(("x", "a", "clusters"), [
    (torch.ones(3), torch.ones(2), 1), (torch.tensor([math.nan]), torch.ones(1), 1),
    (torch.ones(1), torch.tensor([math.inf]), 1), (torch.ones(1), -torch.ones(1), 1),
    *((torch.ones(1), torch.ones(1), clusters) for clusters in (-1, 1.5, True)),
])  # fmt: skip
def test_bad_input(x: Any, a: Any, clusters: Any) -> None:
    with pytest.raises(InputError):
        k_means(x, a, clusters)
