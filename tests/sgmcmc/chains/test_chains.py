"""Many chains at once are the same chains as one after another."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.errors import InputError, NumericalError, UnsupportedModelError
from pyro_bdl.sgmcmc.chains.walk import Walk, set_up, walk
from tests.fresh_state import fresh_state  # noqa: F401
from tests.sgmcmc.chains.problems import KERNELS, NETWORK, X, Y, kernel, regression

# Chains of a few draws, far from where they will settle.
pytestmark = pytest.mark.filterwarnings("ignore::pyro_bdl.errors.StepSizeWarning")
DRAWS = 30
SHORT: dict[str, Any] = {"num_samples": DRAWS, "warmup_steps": 4, "num_chains": 3, "progress": False}


def everything(chains: bdl.Chains) -> dict[str, Tensor]:
    return {**chains.get_samples(group_by_chain=True), **chains.sample_stats()}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_the_same_at_once_and_in_turns(name: str, jit_compile: bool) -> None:
    """A mutant, the noise or the batch of another chain, would differ in every digit."""
    found = {
        method: everything(
            bdl.sample_chains(KERNELS[name](jit_compile=jit_compile), seed=3, chain_method=method, **SHORT)
        )
        for method in ("vectorized", "sequential")
    }
    for key, value in found["sequential"].items():
        torch.testing.assert_close(found["vectorized"][key], value, rtol=1e-6, atol=1e-9, equal_nan=True, msg=key)
    assert found["sequential"]["scale"].shape == (3, DRAWS)
    assert (found["sequential"]["scale"] > 0).all()
    first, second = found["sequential"]["scale"][:2]
    assert not (first == second).any()


@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_a_chain_does_not_depend_on_the_others(method: Any) -> None:
    one, five = (
        everything(bdl.sample_chains(KERNELS["SGHMC"](), seed=8, chain_method=method, **{**SHORT, "num_chains": n}))
        for n in (2, 5)
    )
    for key, value in one.items():
        torch.testing.assert_close(five[key][:2], value, rtol=1e-6, atol=1e-9, equal_nan=True, msg=key)


def test_compiled_it_is_what_it_was() -> None:
    """In Pyro's own MCMC."""
    draws = []
    for jit_compile in (False, True):
        pyro.set_rng_seed(5)
        mcmc = MCMC(KERNELS["SGLD"](jit_compile=jit_compile), num_samples=20, warmup_steps=3, disable_progbar=True)
        mcmc.run()
        draws.append(mcmc.get_samples()["scale"])
    torch.testing.assert_close(*draws, rtol=1e-8, atol=0.0)


def test_what_a_trace_cannot_follow() -> None:
    calls = []

    def counts() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        calls.append(1)
        pyro.sample("y", dist.Normal(w.sum() * len(calls), 1.0), obs=torch.tensor(1.0))

    def branches() -> None:
        w = pyro.sample("w", dist.Cauchy(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(w if w > 0 else 2 * w, 1.0), obs=torch.tensor(1.0))

    for model in (counts, branches):
        sampler = bdl.SGLD(model, step_size=1e-3, jit_compile=True)
        sampler.setup(0)
        again = sampler.sample(sampler.initial_params)  # the first update is with all checks, not traced
        with pytest.raises(UnsupportedModelError, match="jit_compile"):
            sampler.sample(again)


def branching(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Cauchy(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
    f = x @ w if w.sum() > 0 else x @ w.tanh()
    with pyro.plate("data", size=len(X), subsample_size=len(x)):
        pyro.sample("y", dist.Normal(f, 1.0), obs=y)


def own_batch() -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
    with pyro.plate("data", size=len(X), subsample_size=10) as rows:
        pyro.sample("y", dist.Normal(X[rows] @ w, 1.0), obs=Y[rows])


def counting(x: Tensor, y: Tensor) -> None:
    """Its batch normalisation changes with each run."""
    norm(x)
    w = pyro.sample("w", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
    with pyro.plate("data", size=len(X), subsample_size=len(x)):
        pyro.sample("y", dist.Normal(x @ w * norm.running_var.mean(), 1.0), obs=y)


norm = nn.BatchNorm1d(3).double()


@pytest.mark.parametrize("model", [branching, own_batch, counting])
def test_in_turns_where_it_cannot_be_at_once(model: Any) -> None:
    data = {} if model is own_batch else {"data": (X, Y), "batch_size": 20}
    sampler = bdl.SGLD(model, step_size=1e-3, **data)
    if model is not counting:  # whose buffers may or may not follow vmap: then the results decide
        with pytest.raises(UnsupportedModelError):
            bdl.sample_chains(sampler, chain_method="vectorized", **SHORT)
    with pytest.warns(UserWarning, match="one after another"):
        chains = bdl.sample_chains(sampler, **SHORT)
    assert chains.chain_method == "sequential"
    assert chains.get_samples()["w"].shape == (3 * DRAWS, 3)


def test_it_is_said_whether_the_density_or_its_gradient_differs() -> None:
    def model(kind: str) -> None:
        w = pyro.sample("w", dist.Cauchy(torch.zeros(3), 1.0).to_event(1))
        if torch._C._functorch.is_batchedtensor(w):
            w = 2 * w - w.detach() if kind == "gradient" else 2 * w
        pyro.sample("y", dist.Normal(w, 1.0).to_event(1), obs=torch.full((3,), 9.0))

    for kind in ("gradient", "log joint density"):
        with pytest.raises(UnsupportedModelError, match=f"got a {kind}"):
            bdl.sample_chains(bdl.SGLD(model, step_size=1e-3), model_args=(kind,), chain_method="vectorized", **SHORT)


def test_many_chains_have_the_posterior() -> None:
    """200 chains of a normal posterior, at once. A chain's mean over its draws is normal with a known variance."""
    precision = 1.0 + (X[:, 0] ** 2).sum()
    mean = (X[:, 0] * Y).sum() / precision

    def line(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
        with pyro.plate("data", size=len(X), subsample_size=len(x)):
            pyro.sample("y", dist.Normal(x[:, 0] * w, 1.0), obs=y)

    step = 0.02 / float(precision)
    start = {"w": mean}
    sampler = bdl.SGLD(line, step_size=step, data=(X, Y), init=start, thinning=200)
    draws = bdl.sample_chains(sampler, num_samples=4, warmup_steps=1, num_chains=200, progress=False)
    w = draws.get_samples(group_by_chain=True)["w"]
    # Draws are 200 updates apart, over which correlations fall to (1 - e P / 2)^200 = 0.13.
    independent = w[:, ::2].flatten()
    z = (independent - mean) * precision.sqrt()
    assert abs(float(z.mean())) < 5 * (1.1 / len(z)) ** 0.5
    assert abs(float((z**2).mean()) - 1.005) < 5 * (2.2 / len(z)) ** 0.5


def test_what_is_kept() -> None:
    functions = {"f": (NETWORK, X[:4])}
    for method in ("vectorized", "sequential"):
        chains = bdl.sample_chains(
            KERNELS["SGLD"](),
            chain_method=method,
            var_names=["scale"],
            functions=functions,
            moments=True,
            seed=1,
            **SHORT,
        )
        whole = bdl.sample_chains(KERNELS["SGLD"](), chain_method=method, seed=1, **SHORT)
        samples = whole.get_samples(group_by_chain=True)
        assert list(chains.get_samples()) == ["scale"]
        torch.testing.assert_close(chains.get_samples(group_by_chain=True)["scale"], samples["scale"])
        assert chains.moments is not None
        for name, value in samples.items():
            torch.testing.assert_close(chains.moments.mean[name], value.mean(1))
            torch.testing.assert_close(chains.moments.variance[name], value.var(1))
        f = chains.get_functions()["f"]
        torch.testing.assert_close(
            f, bdl.predict(NETWORK, whole.get_samples(), X[:4], progress=False), rtol=1e-9, atol=1e-12
        )
        groups = bdl.from_chains(chains, container="datatree")
        assert set(groups["posterior"].data_vars) == {"scale", "f"}
        assert dict(bdl.from_pyro(whole, log_likelihood=True, container="datatree")["log_likelihood"].sizes) == {
            "chain": 3, "draw": DRAWS, "data": len(X),
        }  # fmt: skip


def test_each_chain_starts_from_a_draw_of_its_own() -> None:
    """Of the prior or of a guide; and the seed decides it, or torch's generator."""
    first = [bdl.sample_chains(KERNELS["SGLD"](), **SHORT, seed=s).get_samples()["scale"][0] for s in (1, 1, 2)]
    assert first[0] == first[1] != first[2]
    for _ in range(2):
        pyro.set_rng_seed(0)
        first.append(bdl.sample_chains(KERNELS["SGLD"](), **SHORT).get_samples()["scale"][0])
    assert first[3] == first[4]
    before = torch.get_rng_state()
    bdl.sample_chains(KERNELS["SGLD"](), seed=1, **SHORT)
    assert torch.equal(before, torch.get_rng_state())


BAD: dict[str, dict[str, Any]] = {
    "num_samples": {"num_samples": 0},
    "num_chains": {"num_chains": 0},
    "thinning": {"thinning": 0},
    "chain_method": {"chain_method": "parallel"},
    "var_names": {"var_names": ["slope"]},
    "functions": {"functions": {"scale": (NETWORK, X)}},
    "seed": {"seed": -1},
    "record of the sampler": {"functions": {"energy": (NETWORK, X)}},
    "the function 'f'": {"functions": {"f": NETWORK}},
    "resume": {"resume": True},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    with pytest.raises(InputError, match=name):
        bdl.sample_chains(KERNELS["SGLD"](), **{**SHORT, **BAD[name]})


def test_batches_that_are_no_tensors() -> None:
    loader = [(X[:20], Y[:20]), (X[20:40], Y[20:40]), (X[40:], Y[40:])]
    with pytest.raises(InputError, match=r"tensors.*MCMC"):
        bdl.sample_chains(bdl.SGLD(regression, step_size=1e-4, data=loader), **SHORT)


@pytest.mark.parametrize("estimator", [bdl.Minibatch(), bdl.SVRG(7)])
@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_a_chain_that_leaves_the_numbers(method: Any, estimator: Any) -> None:
    with pytest.raises(NumericalError, match=r"update [1-9]\d* of chain \d.*step size"):
        bdl.sample_chains(kernel(bdl.SGLD, step_size=1e6, gradient=estimator), chain_method=method, **SHORT)


@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_the_chain_that_leaves_the_numbers_is_named(method: Any) -> None:
    """By its number among all, which of one of several processes is not its place."""
    walls = torch.tensor([0.0, 0.0, 0.0])

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.factor("wall", torch.where(w[0] == walls[0], torch.inf, 0.0) * w.sum().abs())

    numbers, kernels, random = [4, 5, 6], [], []
    for number in numbers:
        one, state = set_up(bdl.SGLD(model, step_size=1e-3), seed=1, chain=number, warmup_steps=0, args=(), kwargs={})
        kernels.append(one)
        random.append(state)
    for each in kernels:
        each.chain.share(kernels[0].chain.density)
    walls[0] = kernels[1].chain.position[0]
    chains = walk(kernels, random, method)[0]
    with pytest.raises(NumericalError, match=r"update 0 of chain 5: the log density of wall"):
        chains.sample()


def test_one_trace_of_the_model_for_all_chains() -> None:
    """Also where the gradients' anchors stand. A chain more runs it twice to begin, and three times in its first epoch,
    which is checked."""
    runs: list[int] = []

    def model(x: Tensor, y: Tensor) -> None:
        runs.append(1)
        regression(x, y)

    def count(chains: int) -> int:
        runs.clear()
        sampler = bdl.SGLD(model, step_size=1e-4, data=(X, Y), batch_size=20, gradient=bdl.SVRG(7), jit_compile=True)
        bdl.sample_chains(sampler, chain_method="sequential", **{**SHORT, "num_chains": chains})
        return len(runs)

    assert count(3) - count(2) == count(2) - count(1) == 2 + 3


FUNCTIONS: dict[str, Any] = {
    "vmap": lambda x: (f := NETWORK(x)) * (1.0 if f.sum() > 0 else 2.0),
    "random": lambda x: torch.nn.functional.dropout(NETWORK(x)),
    "drawn": lambda x: pyro.sample("new", dist.Normal(NETWORK(x), 1.0)),
    "tensor": lambda x: 3.0,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_functions_that_cannot_be_kept(name: str, method: Any) -> None:
    options = {**SHORT, "chain_method": method, "functions": {"mine": (FUNCTIONS[name], X[:4])}, "seed": 2}
    before = torch.get_rng_state()
    if name == "vmap" and method == "sequential":
        assert bdl.sample_chains(KERNELS["SGLD"](), **options).get_functions()["mine"].shape == (3 * DRAWS, 4, 1)
    else:
        with pytest.raises(InputError, match=r"the function 'mine'.*(predict|a tensor)"):
            bdl.sample_chains(KERNELS["SGLD"](), **options)
    assert torch.equal(before, torch.get_rng_state())


def test_threads_end_also_where_a_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(Walk, "close", lambda walk: closed.append(walk))
    with pytest.raises(NumericalError):
        bdl.sample_chains(kernel(bdl.SGLD, step_size=1e6), **SHORT)
    assert len(closed) == 1


def test_labels_that_no_batch_has_seen_yet() -> None:
    """All observations are looked at before many chains begin."""
    labels = torch.zeros(60)
    labels[-1] = 5.0

    def logistic(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
        with pyro.plate("data", size=60, subsample_size=len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    sampler = bdl.SGLD(logistic, step_size=1e-3, data=(X, labels), batch_size=1)
    with pytest.raises(InputError, match=r"5\.0"):
        bdl.sample_chains(sampler, chain_method="vectorized", **SHORT)
