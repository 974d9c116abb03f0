"""Plain, local and flipout gradients: the same mean; whose variance is smaller, and how it falls."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_bdl.distributions import VarianceNormal
from pyro_bdl.estimators import flipout, local_reparameterization
from pyro_bdl.estimators.moments import LocalLinear
from tests.estimators.programs import inputs
from tests.statistics import FALSE_ALARM, Mismatch, means_agree

BUILDS = {"local": local_reparameterization, "flipout": flipout}


class Network:
    """Layers of given widths with tanh between them and the mean squared error.

    The mean and the variance of each weight are the leaves whose gradients are looked at.
    """

    def __init__(self, *widths: int, bias: bool = True) -> None:
        generator = torch.Generator().manual_seed(3)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            self.shapes |= {f"w{i}": (after, before)} | ({f"b{i}": (after,)} if bias else {})
        draw = {name: torch.randn(shape, generator=generator).double() for name, shape in self.shapes.items()}
        self.loc = {name: (value * 0.7).requires_grad_() for name, value in draw.items()}
        self.variance = {name: (value * 0.6 - 1.0).exp().requires_grad_() for name, value in draw.items()}
        self.leaves = [*self.loc.values(), *self.variance.values()]
        self.layers = len(widths) - 1

    def guide(self) -> None:
        for name, shape in self.shapes.items():
            pyro.sample(name, VarianceNormal(self.loc[name], self.variance[name]).to_event(len(shape)))

    def loss(self, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        for i in range(self.layers):
            x = torch.nn.functional.linear(x, weights[f"w{i}"], weights.get(f"b{i}"))
            x = x.tanh() if i < self.layers - 1 else x
        return (x - y).square().sum(-1).mean()

    def gradients(self, name: str, x: Tensor, y: Tensor, n: int) -> np.ndarray:
        """n gradients of the expected loss by all leaves, (n, leaves)."""
        estimator = None if name == "plain" else BUILDS[name](self.guide)
        rows = []
        for _ in range(n):
            if estimator is None:
                weights = {k: m + self.variance[k].sqrt() * torch.randn_like(m) for k, m in self.loc.items()}
            else:  # what the handler does at each site
                weights = {k: estimator.defer(k, m, self.variance[k]) for k, m in self.loc.items()}
            grads = torch.autograd.grad(self.loss(weights, x, y), self.leaves)
            rows.append(torch.cat([g.reshape(-1) for g in grads]))
        return torch.stack(rows).numpy()


def log_variance(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm of each component's variance and its standard error, from the fourth moment (delta method)."""
    centred = samples - samples.mean(0)
    variance = centred.var(0)
    error = np.sqrt(np.maximum((centred**4).mean(0) / variance**2 - 1.0, 0.0) / len(samples))
    return np.log(variance), error


def z_of_ratio(a: np.ndarray, b: np.ndarray, *, ratio: float | np.ndarray = 1.0) -> np.ndarray:
    """How many standard errors the log of var(a) / var(b) is from that of `ratio`."""
    (log_a, error_a), (log_b, error_b) = log_variance(a), log_variance(b)
    return (log_a - log_b - np.log(ratio)) / np.hypot(error_a, error_b)


def bound(comparisons: int) -> float:
    """The z that one of so many comparisons passes with probability FALSE_ALARM."""
    return float(stats.norm.isf(FALSE_ALARM / 2 / comparisons))


NETWORK, X, Y = Network(3, 4, 2), inputs(5, 3), inputs(5, 2, seed=9)


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    """Gradients with ordinary draws, to which the others are compared."""
    with torch.random.fork_rng(devices=[]):
        torch.seed()
        return NETWORK.gradients("plain", X, Y, 3_000)


@pytest.mark.parametrize("name", ["local", "flipout"])
def test_gradients_agree_in_mean_with_plain_ones(name: str, plain: np.ndarray) -> None:
    means_agree(NETWORK.gradients(name, X, Y, 1_500), plain)


class _Mutant:
    """`LocalLinear` with an error sown into its arguments."""

    def __init__(self, change: Callable[..., Any]) -> None:
        self.change = change

    def apply(self, x: Tensor, loc: Tensor, variance: Tensor, b: Any, bv: Any, noise: Tensor, _: bool) -> Tensor:
        return LocalLinear.apply(*self.change(x, loc, variance, b, bv, noise), False)


MUTANTS: dict[str, Callable[..., Any]] = {
    "sigma for its square": lambda x, m, v, b, bv, e: (x, m, v.sqrt(), b, bv, e),
    "log sigma for the variance": lambda x, m, v, b, bv, e: (x, m, v.log().abs(), b, bv, e),
    "noise x sqrt 2": lambda x, m, v, b, bv, e: (x, m, v, b, bv, e * 2**0.5),
    "no gradient through the variance": lambda x, m, v, b, bv, e: (x, m, v.detach() + 0.0 * v, b, bv, e),
    "no gradient of the inputs": lambda x, m, v, b, bv, e: (x.detach() + 0.0 * x, m, v, b, bv, e),
    "the bias is not random": lambda x, m, v, b, bv, e: (x, m, v, b, 0.0 * bv, e),
    "the same noise for all units": lambda x, m, v, b, bv, e: (x, m, v, b, bv, e[:, :1].expand_as(e).contiguous()),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_of_the_gradient_are_caught(mutant: str, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_bdl.estimators.local.LocalLinear", _Mutant(MUTANTS[mutant]))
    n = 1_500 if mutant == "sigma for its square" else 600  # 11 standard errors, or 15 and more
    with pytest.raises(Mismatch):
        means_agree(NETWORK.gradients("local", X, Y, n), plain)


def test_one_layer_and_one_data_point_has_smaller_local_variance() -> None:
    r"""The exact ratio of local to plain variance, smaller than one for each weight's variance.

    With the output's error :math:`e \sim N(d, v)`, of which the weight's share of the variance is
    :math:`p = x_i^2 \sigma_i^2 / v`, the plain gradient by :math:`\sigma_i^2` is :math:`e x_i \epsilon_i / \sigma_i`
    and the local one :math:`e x_i^2 \epsilon / \sqrt v`, so the ratio is :math:`p (d^2/v + 2) / (d^2/v + 1 + p)`, at
    most one. The gradient by a mean is :math:`2 e x_i` both times.
    """
    network, x, y = Network(4, 2), inputs(1, 4), inputs(1, 2, seed=9)
    z = {k: v.detach() for k, v in (network.loc | {f"v{k}": v for k, v in network.variance.items()}).items()}
    share = torch.cat([(x.square() * z["vw0"]), z["vb0"][:, None]], 1)  # (outputs, weights and bias)
    v = share.sum(1, keepdim=True)
    p, bias2 = share / v, (x @ z["w0"].T + z["b0"] - y).T.square() / v
    ratio = p * (bias2 + 2.0) / (bias2 + 1.0 + p)
    assert (ratio < 1.0).all()
    by_leaf = torch.cat([torch.ones(10), ratio[:, :4].reshape(-1), ratio[:, 4]]).numpy()
    local, plain_ = (network.gradients(name, x, y, 3_000) for name in ("local", "plain"))
    scores = z_of_ratio(local, plain_, ratio=by_leaf)
    assert (np.abs(scores) < bound(len(scores))).all(), scores
    assert (z_of_ratio(local, plain_)[10:].mean()) < -bound(1)  # the test can tell these ratios from one


def test_flipout_of_one_data_point_has_the_plain_variance() -> None:
    network, x, y = Network(4, 2, bias=False), inputs(1, 4), inputs(1, 2, seed=9)
    z = z_of_ratio(*(network.gradients(name, x, y, 2_000) for name in ("flipout", "plain")))
    assert (np.abs(z) < bound(len(z))).all(), z


@pytest.mark.parametrize("points", [4, 32])
def test_local_variance_falls_as_one_over_the_number_of_data_points(points: int) -> None:
    """The same data point M times: only the weights' noise is left, and the local one is averaged over M draws."""
    network, x, y = Network(4, 2), inputs(1, 4), inputs(1, 2, seed=9)
    one = network.gradients("local", x, y, 2_000)
    many = network.gradients("local", x.repeat(points, 1), y.repeat(points, 1), 2_000)
    z = z_of_ratio(many, one, ratio=1.0 / points)
    assert (np.abs(z) < bound(len(z))).all(), z
    plain = network.gradients("plain", x.repeat(points, 1), y.repeat(points, 1), 600)
    assert (z_of_ratio(plain, one, ratio=1.0 / points) > bound(len(z))).all()  # and the plain one is not


def test_the_same_noise_for_all_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x, y = Network(4, 2), inputs(1, 4), inputs(1, 2, seed=9)
    one = network.gradients("local", x, y, 2_000)
    same = _Mutant(lambda x, m, v, b, bv, e: (x, m, v, b, bv, e[:1].expand_as(e).contiguous()))
    monkeypatch.setattr("pyro_bdl.estimators.local.LocalLinear", same)
    many = network.gradients("local", x.repeat(4, 1), y.repeat(4, 1), 2_000)
    assert (np.abs(z_of_ratio(many, one, ratio=1.0 / 4)) > bound(1)).all()
