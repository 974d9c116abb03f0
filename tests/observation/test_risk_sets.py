"""The partial likelihood by brute force, with and without ties; Breslow's baseline; the library's coefficients."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyro_bdl.observation.risk_sets import Ties, breslow_cumulative_hazard, partial_log_likelihood

TIES: tuple[Ties, ...] = ("efron", "breslow")


def by_hand(eta: Tensor, time: Tensor, event: Tensor, ties: Ties) -> float:
    """The formula as it stands, one time after the other."""
    total = 0.0
    for t in sorted(set(time[event].tolist())):
        died = [i for i in range(len(time)) if event[i] and time[i] == t]
        at_risk = sum(math.exp(eta[k]) for k in range(len(time)) if time[k] >= t)
        dying = sum(math.exp(eta[k]) for k in died)
        for number, i in enumerate(died):
            share = number / len(died) if ties == "efron" else 0.0
            total += float(eta[i]) - math.log(at_risk - share * dying)
    return total


def subjects(seed: int, *, tied: bool, n: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    eta = torch.randn(n, generator=source, dtype=torch.float64)
    time = torch.rand(n, generator=source, dtype=torch.float64) + 0.01
    if tied:
        time = (time * 6).ceil()
    return eta, time, torch.rand(n, generator=source) < 0.6


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_brute_force(seed: int, tied: bool, ties: Ties) -> None:
    eta, time, event = subjects(seed, tied=tied)
    terms = partial_log_likelihood(eta, time, event, ties=ties)
    assert float(terms.sum()) == pytest.approx(by_hand(eta, time, event, ties), abs=1e-10)
    assert bool((terms[~event] == 0).all())
    if not tied:
        torch.testing.assert_close(terms, partial_log_likelihood(eta, time, event, ties="breslow"))


def test_the_rules_for_ties_differ_as_they_should() -> None:
    """Efron's lies between Breslow's and the exact likelihood of unknown order, the mean over all orders."""
    eta, time, event = torch.tensor([0.5, -1.0, 0.3, 0.0]).double(), torch.ones(4).double(), torch.ones(4).bool()
    orders = []
    for order in itertools.permutations(range(3)):
        late = time.clone()
        late[list(order)] += torch.arange(3) * 1e-3
        late[3] = 2.0
        orders.append(partial_log_likelihood(eta, late, event & (late < 2)).sum())
    tied = torch.tensor([1.0, 1.0, 1.0, 2.0]).double()
    exact = torch.stack(orders).logsumexp(0) - math.log(6)
    efron, breslow = (
        partial_log_likelihood(eta, tied, event & (tied < 2), ties=ties).sum() for ties in TIES
    )  # fmt: skip
    assert float(breslow) < float(efron)
    assert abs(float(efron - exact)) < abs(float(breslow - exact))


@pytest.mark.parametrize("ties", TIES)
def test_gradients(ties: Ties) -> None:
    eta, time, event = subjects(3, tied=True)
    assert torch.autograd.gradcheck(lambda e: partial_log_likelihood(e, time, event, ties=ties), eta.requires_grad_())


@given(scale=st.floats(0, 300), shift=st.floats(-1e4, 1e4), seed=st.integers(0, 10), tied=st.booleans())
def test_edges(scale: float, shift: float, seed: int, tied: bool) -> None:
    """Finite whatever the ratios, and a constant added to all of them changes nothing."""
    eta, time, event = subjects(seed, tied=tied)
    for ties in TIES:
        terms = partial_log_likelihood(scale * eta, time, event, ties=ties)
        assert bool(torch.isfinite(terms).all())
        shifted = partial_log_likelihood(scale * eta + shift, time, event, ties=ties)
        torch.testing.assert_close(terms, shifted, atol=1e-6, rtol=1e-6)


def test_breslow_by_hand() -> None:
    eta, time, event = subjects(1, tied=True)
    at = torch.tensor([0.0, 1.0, 2.5, 6.0, 9.0]).double()
    expected = [
        sum(
            1 / sum(math.exp(eta[k]) for k in range(len(time)) if time[k] >= time[i])
            for i in range(len(time))
            if event[i] and time[i] <= t
        )
        for t in at.tolist()
    ]
    found = breslow_cumulative_hazard(eta, time, event, at)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_under_vmap() -> None:
    """Many chains at once: each has its own ratios, or its own batch too."""
    eta, time, event = subjects(2, tied=True)
    many = torch.stack([eta, 2 * eta])
    found = torch.vmap(lambda e: partial_log_likelihood(e, time, event))(many)
    torch.testing.assert_close(found[1], partial_log_likelihood(2 * eta, time, event))
    batches = torch.stack([time, time.flip(0)]), torch.stack([event, event.flip(0)])
    found = torch.vmap(partial_log_likelihood)(many, *batches)
    torch.testing.assert_close(found[1], partial_log_likelihood(2 * eta, batches[0][1], batches[1][1]))


@pytest.mark.parametrize("ties", TIES)
def test_the_maximum_is_the_librarys(ties: Ties) -> None:
    """Cox's coefficients of scikit-survival, by Newton's method on ours."""
    linear_model = pytest.importorskip("sksurv.linear_model")
    from sksurv.util import Surv

    source = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=source, dtype=torch.float64)
    _, time, event = subjects(4, tied=True, n=200)
    reference = linear_model.CoxPHSurvivalAnalysis(ties=ties, tol=1e-12)
    reference.fit(x.numpy(), Surv.from_arrays(event.numpy(), time.numpy()))

    def objective(w: Tensor) -> Tensor:
        return partial_log_likelihood(x @ w, time, event, ties=ties).sum()

    w = torch.zeros(3, dtype=torch.float64)
    for _ in range(20):
        gradient, hessian = torch.func.grad(objective)(w), torch.autograd.functional.hessian(objective, w)
        w = w - torch.linalg.solve(hessian, gradient)
    np.testing.assert_allclose(w.numpy(), reference.coef_, atol=1e-8)
    hazard = breslow_cumulative_hazard(x @ w, time, event, torch.tensor([1.0, 3.0, 6.0]).double())
    if ties == "breslow":
        np.testing.assert_allclose(hazard.numpy(), reference.cum_baseline_hazard_(np.array([1.0, 3.0, 6.0])), rtol=1e-6)
