"""EM: the bound is the log of the sum and never falls, the M-step is right, and mistakes are caught."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_bdl import fit_em
from pyro_bdl.errors import InputError, NumericalError, UnsupportedModelError
from pyro_bdl.exact import factors_of
from pyro_bdl.inference import em
from pyro_bdl.inference.expectation import expect

DOUBLE = torch.float64


def simplex(*shape: int) -> Tensor:
    return dist.Dirichlet(torch.ones(shape[-1], dtype=DOUBLE)).sample(shape[:-1])


def normals(x: Tensor) -> None:
    """A mixture with priors: sites."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((3,), 2.0, dtype=DOUBLE)))
    with pyro.plate("components", 3):
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=DOUBLE), 3.0))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=DOUBLE), 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


def counts(x: Tensor) -> None:
    """A mixture without priors: parameters."""
    weight = pyro.param("weight", lambda: torch.rand((), dtype=DOUBLE), constraint=constraints.unit_interval)
    rate = pyro.param("rate", lambda: 5 * torch.rand(2, dtype=DOUBLE), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(weight)).long()
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def markov_chain(x: Tensor, *, markov: bool = False) -> None:
    """A hidden Markov model: each factor has two discrete sites."""
    first = pyro.param("first", lambda: simplex(2), constraint=constraints.simplex)
    move = pyro.param("move", lambda: simplex(2, 2), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: torch.randn(2, dtype=DOUBLE))
    z: Any = None
    for t in pyro.markov(range(len(x))) if markov else range(len(x)):
        z = pyro.sample(f"z{t}", dist.Categorical(first if t == 0 else move[z]))
        pyro.sample(f"x{t}", dist.Normal(loc[z], 1.0), obs=x[t])


def groups(x: Tensor) -> None:
    """A site above a plate and one within it, two plates deep."""
    share = pyro.param("share", lambda: torch.rand(2, dtype=DOUBLE), constraint=constraints.unit_interval)
    with pyro.plate("groups", x.shape[0], dim=-2):
        kind = pyro.sample("kind", dist.Bernoulli(torch.tensor(0.4, dtype=DOUBLE))).long()
        with pyro.plate("items", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Bernoulli(share[kind]))
            pyro.sample("x", dist.Normal(3 * z, 1.0), obs=x)


MODELS: dict[str, tuple[Callable[..., None], Callable[[], Tensor]]] = {
    "normals": (normals, lambda: torch.randn(40, dtype=DOUBLE) + 3 * torch.randint(0, 2, (40,))),
    "counts": (counts, lambda: torch.poisson(torch.full((30,), 4.0, dtype=DOUBLE))),
    "markov chain": (markov_chain, lambda: torch.randn(6, dtype=DOUBLE)),
    "groups": (groups, lambda: torch.randn(3, 4, dtype=DOUBLE) + 3 * torch.randint(0, 2, (3, 4))),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("_start", range(3))
def test_bound_never_falls(name: str, _start: int) -> None:
    model, data = MODELS[name]
    fit = fit_em(model, data(), steps=5, progress=False)
    assert len(fit.bounds) == len(fit.path) > 1
    gains = np.diff(fit.bounds)
    assert (gains >= -1e-12 * np.abs(fit.bounds[:-1])).all()
    assert gains.sum() > 0


def chain_by_hand(x: Tensor, values: dict[str, Tensor]) -> tuple[float, np.ndarray]:
    """log p(x), and p(z_t = 1 | x) by t: all state sequences, one by one."""
    total, ones = 0.0, np.zeros(len(x))
    emit = dist.Normal(values["loc"], 1.0).log_prob(x[:, None]).exp().numpy()
    first, move = values["first"].numpy(), values["move"].numpy()
    for states in itertools.product((0, 1), repeat=len(x)):
        p = first[states[0]] * math.prod(move[a, b] for a, b in itertools.pairwise(states))
        p *= math.prod(emit[t, s] for t, s in enumerate(states))
        total += p
        ones += p * np.array(states)
    return math.log(total), ones / total


def test_markov_chain_by_hand() -> None:
    x = torch.randn(6, dtype=DOUBLE)
    fit = fit_em(markov_chain, x, steps=3, tolerance=0.0, progress=False)
    bound, ones = chain_by_hand(x, fit.values)
    assert fit.bounds[-1] == pytest.approx(bound, abs=1e-10)
    found = [float(fit.responsibilities[f"z{t}"][1]) for t in range(6)]
    assert np.abs(np.array(found) - ones).max() < 1e-10


def forward_backward(x: Tensor, values: dict[str, Tensor]) -> tuple[float, Tensor]:
    """log p(x), and p(z_t | x), (T, 2)."""
    emit, move = dist.Normal(values["loc"], 1.0).log_prob(x[:, None]), values["move"].log()
    forward, backward = [values["first"].log() + emit[0]], [torch.zeros(2, dtype=DOUBLE)]
    for t in range(1, len(x)):
        forward.append((forward[-1][:, None] + move).logsumexp(0) + emit[t])
        backward.insert(0, (move + emit[-t] + backward[0]).logsumexp(1))
    joint = torch.stack(forward) + torch.stack(backward)
    return float(joint[0].logsumexp(0)), joint.softmax(-1)


@pytest.mark.parametrize("length", [27, 40])
@pytest.mark.parametrize("markov", [False, True])
def test_long_markov_chain(length: int, markov: bool) -> None:
    """More sites than there are letters."""
    x = torch.randn(length, dtype=DOUBLE)
    fit = fit_em(partial(markov_chain, markov=markov), x, steps=1, progress=False)
    bound, states = forward_backward(x, fit.values)
    assert fit.bounds[-1] == pytest.approx(bound, abs=1e-9)
    found = torch.stack([fit.responsibilities[f"z{t}"].reshape(2) for t in range(length)])
    torch.testing.assert_close(found, states)


def test_a_chain_too_long_for_a_dimension_each() -> None:
    with pytest.raises(UnsupportedModelError, match=r"up to 64 dims .* by pyro.markov"):
        fit_em(markov_chain, torch.randn(70, dtype=DOUBLE), progress=False)


def test_mixture_by_hand() -> None:
    x = MODELS["normals"][1]()
    fit = fit_em(normals, x, steps=2, progress=False)
    v = fit.values
    log = v["weights"].log() + dist.Normal(v["loc"], v["scale"]).log_prob(x[:, None])
    prior = dist.Dirichlet(torch.full((3,), 2.0, dtype=DOUBLE)).log_prob(v["weights"])
    zero = torch.zeros((), dtype=DOUBLE)
    prior = prior + dist.Normal(zero, 3.0).log_prob(v["loc"]).sum()
    prior = prior + dist.LogNormal(zero, 1.0).log_prob(v["scale"]).sum()
    assert fit.bounds[-1] == pytest.approx(float(log.logsumexp(-1).sum() + prior), abs=1e-9)
    assert torch.allclose(fit.responsibilities["z"], log.softmax(-1), atol=1e-10)


@pytest.mark.parametrize("name", ["counts", "groups", "markov chain"])
def test_bound_is_energy_plus_entropy(name: str) -> None:
    """Each factor's weights are a law; and Q(theta, theta) + H(q) = log p(x, theta), where H is that of one plate."""
    model, data = MODELS[name]
    factors = factors_of(model, data())
    found = expect(factors)
    for site, weight in found.weights.items():
        enumerated = [i for i, symbol in enumerate(factors.dims[site]) if symbol in factors.symbols.values()]
        sums = weight.sum(enumerated) if enumerated else weight
        assert torch.allclose(sums, torch.ones_like(sums)), site
    if name == "counts":
        q = found.responsibilities["z"]
        assert float(found.complete(factors).detach() - torch.xlogy(q, q).sum()) == pytest.approx(found.bound)


def test_climb_finds_the_maximum() -> None:
    """Of the counts, where the M-step is known."""
    x = MODELS["counts"][1]()

    def maximise(responsibilities: Any, values: Any) -> dict[str, Tensor]:
        r = responsibilities["z"]
        return {"weight": r[:, 1].mean(), "rate": (r * x[:, None]).sum(0) / r.sum(0)}

    start = {"weight": torch.tensor(0.4, dtype=DOUBLE), "rate": torch.tensor([2.0, 6.0], dtype=DOUBLE)}
    exact = fit_em(counts, x, start=start, maximise=maximise, steps=5, tolerance=0.0, progress=False)
    climbed = fit_em(counts, x, start=start, steps=5, tolerance=0.0, progress=False)
    assert climbed.bounds == pytest.approx(exact.bounds, abs=1e-5)


def no_responsibilities(r: Tensor, x: Tensor) -> dict[str, Tensor]:
    return {"weight": r[:, 1].mean(), "rate": x.mean() * torch.ones(2, dtype=DOUBLE)}


def swapped(r: Tensor, x: Tensor) -> dict[str, Tensor]:
    return {"weight": r[:, 0].mean(), "rate": (r * x[:, None]).sum(0) / r.sum(0)}


def unnormalised(r: Tensor, x: Tensor) -> dict[str, Tensor]:
    return {"weight": r[:, 1].mean(), "rate": (r * x[:, None]).sum(0) / len(x) + 0.01}


@pytest.mark.parametrize("mutant", [no_responsibilities, swapped, unnormalised])
def test_wrong_m_steps_are_caught(mutant: Any) -> None:
    x = torch.cat([torch.poisson(torch.full((40,), rate, dtype=DOUBLE)) for rate in (1.0, 1.0, 20.0)])
    start = {"weight": torch.tensor(0.34, dtype=DOUBLE), "rate": torch.tensor([1.0, 20.0], dtype=DOUBLE)}
    with pytest.raises(NumericalError, match="step 1: `maximise` lowered the bound"):
        fit_em(counts, x, start=start, maximise=lambda r, _: mutant(r["z"], x), progress=False)


def test_a_wrong_e_step_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant takes the prior for the posterior; a right M-step then lowers the bound."""
    x = torch.cat([torch.poisson(torch.full((40,), rate, dtype=DOUBLE)) for rate in (1.0, 20.0)])

    def wrong(factors: Any) -> Any:
        found = expect(factors)
        r = torch.full_like(found.responsibilities["z"], 0.5)
        return type(found)(found.bound, found.weights, {"z": r})

    monkeypatch.setattr(em, "expect", wrong)
    start = {"weight": torch.tensor(0.5, dtype=DOUBLE), "rate": torch.tensor([1.0, 20.0], dtype=DOUBLE)}

    def maximise(responsibilities: Any, _: Any) -> dict[str, Tensor]:
        r = responsibilities["z"]
        return {"weight": r[:, 1].mean(), "rate": (r * x[:, None]).sum(0) / r.sum(0)}

    with pytest.raises(NumericalError, match="lowered the bound"):
        fit_em(counts, x, start=start, maximise=maximise, progress=False)


def test_nothing_outside_is_changed() -> None:
    pyro.param("rate", torch.ones(3))
    before = pyro.param("rate").clone()
    with pyro.get_param_store().scope(), pyro.poutine.trace() as outer:
        fit_em(counts, MODELS["counts"][1](), steps=2, progress=False)
    assert not [name for name, site in outer.trace.nodes.items() if site["type"] == "sample"]
    assert torch.equal(pyro.param("rate"), before)
    assert list(pyro.get_param_store().keys()) == ["rate"]


GOOD = {"weight": torch.tensor(0.5, dtype=DOUBLE), "rate": torch.ones(2, dtype=DOUBLE)}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "steps": ({"steps": 0}, "steps: expected at least 1, got 0"),
    "tolerance": ({"tolerance": -1.0}, "tolerance: expected a finite number, 0 or more"),
    "name": ({"start": {"ratio": torch.ones(2)}}, r"start: expected values for \['rate', 'weight'\], got for .*ratio"),
    "shape": ({"start": {"rate": torch.ones(3, dtype=DOUBLE)}}, r'start, "rate": expected .*\(2,\), .* got \(3,\)'),
    "dtype": ({"start": {"rate": torch.ones(2)}}, r'start, "rate": expected .* got \(2,\), torch.float32'),
    "support": ({"start": {"rate": -GOOD["rate"]}}, 'start, "rate": expected finite numbers in GreaterThan'),
    "nan": ({"start": {"rate": GOOD["rate"] * math.nan}}, 'start, "rate": expected finite numbers'),
    "maximise": ({"maximise": lambda r, v: {"rate": v["rate"]}}, "what maximise gave: expected values for"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        fit_em(counts, MODELS["counts"][1](), **({"progress": False} | options))


def test_models_that_em_cannot_fit() -> None:
    def no_parameters(x: Tensor) -> None:
        pyro.sample("z", dist.Bernoulli(0.5))

    def no_discrete(x: Tensor) -> None:
        pyro.sample("m", dist.Normal(0.0, 1.0))

    def subsampled(x: Tensor) -> None:
        weight = pyro.param("weight", torch.tensor(0.5), constraint=constraints.unit_interval)
        with pyro.plate("data", 10, subsample_size=5):
            pyro.sample("z", dist.Bernoulli(weight))

    for model, message in ((no_parameters, "a pyro.param or"), (no_discrete, "at least one discrete latent site")):
        with pytest.raises(InputError, match=message):
            fit_em(model, torch.zeros(1), progress=False)
    with pytest.raises(UnsupportedModelError, match="all of its 10 elements"):
        fit_em(subsampled, torch.zeros(1), progress=False)


def test_data_that_are_not_finite() -> None:
    x = torch.full((5,), math.nan, dtype=DOUBLE)
    with pytest.raises(NumericalError, match="the log density of x is not finite"):
        fit_em(normals, x, progress=False)
