"""Likelihoods: each against its closed form, over shapes of observations and of a decoder's outputs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.latent import Bernoulli, Categorical, ContinuousBernoulli, Gaussian, Likelihood, Poisson


def log_c(o: np.ndarray) -> np.ndarray:
    """The normaliser of the continuous Bernoulli density, of logits not near 0."""
    return np.log(o / np.tanh(o / 2))


def softplus(o: Any) -> Any:
    return np.logaddexp(0.0, o)


@dataclass(frozen=True)
class Case:
    """A likelihood with its log-density (x, outputs (numbers, ...)), its mean, and what x can be."""

    make: Callable[[], Likelihood]
    log_prob: Callable[[np.ndarray, np.ndarray], np.ndarray]
    mean: Callable[[np.ndarray], np.ndarray]
    draw: Callable[[tuple[int, ...]], Tensor]
    values: tuple[float, ...] | None  # all values, or None where they are real numbers
    support: tuple[float, float] = (-math.inf, math.inf)
    outside: float | None = None


CASES = {
    "Bernoulli": Case(
        Bernoulli, lambda x, o: x * o[0] - softplus(o[0]), lambda o: special.expit(o[0]),
        lambda shape: torch.bernoulli(torch.full(shape, 0.5)), (0.0, 1.0), outside=0.5,
    ),
    "ContinuousBernoulli": Case(
        ContinuousBernoulli, lambda x, o: x * o[0] - softplus(o[0]) + log_c(o[0]),
        lambda o: 1 / (1 - np.exp(-o[0])) - 1 / o[0], torch.rand, None, (0.0, 1.0), outside=1.5,
    ),
    "Gaussian, known": Case(
        lambda: Gaussian(0.3), lambda x, o: stats.norm.logpdf(x, o[0], 0.3), lambda o: o[0], torch.randn, None,
    ),
    "Gaussian, learned": Case(
        Gaussian, lambda x, o: stats.norm.logpdf(x, o[0], softplus(o[1]) + 1e-3), lambda o: o[0], torch.randn, None,
    ),
    "Categorical": Case(
        lambda: Categorical(4), lambda x, o: np.take_along_axis(special.log_softmax(o, 0), x[None].astype(int), 0)[0],
        lambda o: (special.softmax(o, 0) * np.arange(4).reshape(-1, *[1] * (o.ndim - 1))).sum(0),
        lambda shape: torch.randint(4, shape).float(), (0.0, 1.0, 2.0, 3.0), outside=4.0,
    ),
    "Poisson": Case(
        Poisson, lambda x, o: stats.poisson.logpmf(x, softplus(o[0]) + 1e-6), lambda o: softplus(o[0]) + 1e-6,
        lambda shape: torch.poisson(torch.full(shape, 3.0)), tuple(map(float, range(60))), outside=-1.0,
    ),
}  # fmt: skip
SHAPES = {"vectors": (6,), "images": (1, 2, 3), "colour images": (3, 2, 2), "numbers": ()}
LEADING = {"batch": (5,), "one row": (1,), "particles": (3, 5), "particles of one row": (3, 1), "classes": (2, 3, 1)}


@pytest.mark.parametrize("leading", LEADING.values(), ids=list(LEADING))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("name", CASES)
def test_closed_form(name: str, shape: tuple[int, ...], leading: tuple[int, ...]) -> None:
    """Log-density and mean, from dense outputs and from convolutional ones."""
    case, rank = CASES[name], len(leading)
    likelihood = case.make()
    numbers = likelihood.numbers
    outputs = 2.0 * torch.randn(*leading, numbers, *shape, dtype=torch.float64)
    x = case.draw((leading[-1], *shape)).double()
    by_number = np.moveaxis(outputs.numpy(), rank, 0)
    expected = case.log_prob(np.broadcast_to(x.numpy(), by_number.shape[1:]), by_number)
    expected = expected.reshape(*leading, -1).sum(-1)
    ways = {"dense": outputs.flatten(rank)}
    if shape:
        ways["convolutional"] = outputs.flatten(rank, rank + 1)
    for way in ways.values():
        law = likelihood(way, shape, rank)
        assert (law.batch_shape, law.event_shape) == (leading, shape)
        np.testing.assert_allclose(law.log_prob(x).numpy(), expected, rtol=1e-9, atol=1e-9)
        mean = likelihood.mean(way, rank)
        np.testing.assert_allclose(mean.numpy().reshape(-1), case.mean(by_number).reshape(-1), rtol=1e-7, atol=1e-7)
    if shape:
        first = (shape[0], *shape[1:])
        assert likelihood.mean(ways["convolutional"], rank).shape == (*leading, *first)
        assert likelihood.mean(ways["dense"], rank).shape == (*leading, math.prod(shape))


@pytest.mark.parametrize("output", [-30.0, -3.0, -0.01, 0.0, 0.02, 1.0, 12.0, 17.0, 40.0])
@pytest.mark.parametrize("name", CASES)
def test_sums_to_one(name: str, output: float) -> None:
    """Whatever the decoder puts out; also where torch cuts probabilities near 0 and 1."""
    case = CASES[name]
    likelihood = case.make()
    outputs = torch.tensor([output, 0.5, -1.0, 0.3][: likelihood.numbers], dtype=torch.float64)

    def density(x: Any) -> np.ndarray:
        values = torch.as_tensor(np.atleast_1d(x))[:, None]
        law = likelihood(outputs.expand(len(values), -1), (1,))
        return law.log_prob(values).exp().numpy()

    if case.values is not None:
        top = 200.0 if name == "Poisson" else None
        values = np.arange(top) if top else np.array(case.values)
        assert density(values).sum() == pytest.approx(1.0, abs=1e-6)
    else:
        middle = output if name.startswith("Gaussian") else 0.0
        low, high = (max(end, middle - 30) if end < 0 else end for end in case.support)
        high = min(high, middle + 30)
        points = [middle, *np.linspace(low, high, 9)[1:-1]] if name.startswith("Gaussian") else [0.01, 0.99]
        total, _ = integrate.quad(lambda v: float(density(v)[0]), low, high, points=points, limit=200)
        assert total == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("output", [-300.0, -20.0, -1.0, -0.06, -0.04, 0.0, 0.04, 0.06, 1.0, 20.0, 300.0])
def test_the_mean_of_grey_values(output: float) -> None:
    """Of the continuous Bernoulli law, by integration, where torch's stops at 0.94."""
    got = float(ContinuousBernoulli().mean(torch.full((1, 1), output, dtype=torch.float64), 1))

    def weight(v: float) -> float:
        return math.exp(output * v - max(output, 0.0))

    points = [1e-3, 0.05, 0.95, 1 - 1e-3]
    (top, _), (total, _) = (
        integrate.quad(f, 0, 1, points=points) for f in (lambda v: v * weight(v), weight)
    )  # fmt: skip
    assert got == pytest.approx(top / total, rel=2e-5)


EXTREME = st.floats(-1e4, 1e4, width=32)


@settings(deadline=None, max_examples=60)
@given(outputs=st.lists(EXTREME, min_size=4, max_size=4), double=st.booleans(), name=st.sampled_from(list(CASES)))
def test_extreme_outputs_are_finite(outputs: list[float], double: bool, name: str) -> None:
    """Log-density, its gradient and the mean of any outputs within 1e4."""
    case, dtype = CASES[name], torch.float64 if double else torch.float32
    likelihood = case.make()
    o = torch.tensor(outputs[: likelihood.numbers], dtype=dtype, requires_grad=True)
    ends = case.values[:4] if case.values else (0.0, 0.3, 1.0)
    x = torch.tensor(ends, dtype=dtype)[:, None]
    law = likelihood(o.expand(len(x), -1), (1,))
    log_prob = law.log_prob(x)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(o.grad).all()
    assert torch.isfinite(likelihood.mean(o[None], 1)).all()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.outside is not None])
def test_the_support_is_said(name: str) -> None:
    case = CASES[name]
    likelihood = case.make()
    law = likelihood(torch.zeros(1, likelihood.numbers * 3), (3,))
    x = case.draw((1, 3))
    assert bool(law.support.check(x).all())
    x[0, 1] = case.outside
    assert not bool(law.support.check(x).all())


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "too few units": (lambda: Bernoulli()(torch.zeros(5, 5), (6,)), r"6 numbers a row: 1 .*got rows of shape \(5,\)"),
    "no scales": (lambda: Gaussian()(torch.zeros(5, 6), (6,)), r"12 numbers a row: 2 .* got rows of shape \(6,\)"),
    "no classes": (lambda: Categorical(3)(torch.zeros(5, 1, 2, 3), (1, 2, 3)), r"18 .*got rows of shape \(1, 2, 3\)"),
    "mean of odd outputs": (lambda: Gaussian().mean(torch.zeros(5, 7), 1), "a multiple of 2 units .* got 7"),
    "scale 0": (lambda: Gaussian(0.0), 'a positive number or "learned", got 0.0'),
    "scale nan": (lambda: Gaussian(math.nan), "got nan"),
    "scale True": (lambda: Gaussian(True), "got True"),
    "another scale": (lambda: Gaussian("known"), "got 'known'"),
    "one class": (lambda: Categorical(1), "at least 2, got 1"),
    "half a class": (lambda: Categorical(2.5), "an integer"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    run, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        run()


def test_mutants_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own continuous Bernoulli law, which is no density beyond a logit of 16."""
    import pyro.distributions as dist

    monkeypatch.setattr("pyro_bdl.latent.likelihoods._ContinuousBernoulli", dist.ContinuousBernoulli)
    with pytest.raises(AssertionError):
        test_sums_to_one("ContinuousBernoulli", 40.0)
    with pytest.raises(AssertionError):
        test_the_mean_of_grey_values(300.0)
