"""SGLD as a kernel of `pyro.infer.MCMC`: batches, chains, thinning, initial values, constrained sites, records."""

import itertools
import subprocess
import sys
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pyro_bdl.sgmcmc import SGLD, Constant, PolynomialDecay
from tests import statistics
from tests.fresh_state import fresh_state  # noqa: F401
from tests.targets import ConjugateRegression

REGRESSION = ConjugateRegression.example()
X, Y = REGRESSION.x, REGRESSION.y


def run(kernel: SGLD, *args: Any, samples: int = 5, warmup: int = 2, seed: int | None = None, **options: Any) -> MCMC:
    if seed is not None:
        torch.manual_seed(seed)
    mcmc = MCMC(kernel, num_samples=samples, warmup_steps=warmup, disable_progbar=True, **options)
    mcmc.run(*args)
    return mcmc


def batches_of_a_loader() -> DataLoader:
    return DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True)


SOURCES = {
    "all data as arguments": lambda: (SGLD(REGRESSION.model), (X, Y)),
    "all data inside the model": lambda: (SGLD(REGRESSION.full_model), ()),
    "the model's own subsample": lambda: (SGLD(REGRESSION.subsampled_model(5)), ()),
    "tensors": lambda: (SGLD(REGRESSION.model, data=(X, Y), batch_size=7), ()),
    "all of the tensors": lambda: (SGLD(REGRESSION.model, data=(X, Y)), ()),
    "loader": lambda: (SGLD(REGRESSION.model, data=batches_of_a_loader()), ()),
    "list of batches": lambda: (SGLD(REGRESSION.model, data=[(X[:9], Y[:9]), (X[9:], Y[9:])]), ()),
}


@pytest.mark.filterwarnings("ignore::pyro_bdl.errors.StepSizeWarning")  # rightly, now and then, of batches of 5 or 7
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_of_data(source: str) -> None:
    """The chain runs, and ends up nearer to the posterior mean than the prior's draws are."""
    kernel, args = SOURCES[source]()
    mcmc = run(kernel, *args, samples=400, warmup=400)
    draws = mcmc.get_samples()["theta"]
    assert draws.shape == (400, 3)
    assert draws.dtype == torch.float64
    sd = REGRESSION.covariance.diag().sqrt()
    assert ((draws.mean(0) - REGRESSION.mean).abs() / sd).max() < 6  # a draw of the prior is typically 12 away


def test_the_default_step_size_knows_the_number_of_data() -> None:
    for make in SOURCES.values():
        kernel, args = make()
        kernel.setup(0, *args)
        assert kernel.schedule is not None
        assert kernel.schedule(0) == pytest.approx(0.05 / 40)
    prior_only = SGLD(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)))
    prior_only.setup(0)
    assert prior_only.schedule == Constant(0.05)


def test_the_plate_holds_the_batchs_own_indices() -> None:
    seen = []

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", size=20, subsample_size=len(x)) as indices:
            seen.append(indices.tolist())
            assert x.tolist() == indices.tolist()
            pyro.sample("y", dist.Normal(w.expand(len(x)), 1.0), obs=x)

    run(SGLD(model, step_size=1e-3, data=torch.arange(20.0), batch_size=5), samples=8, warmup=0)
    chain = list(dict.fromkeys(map(tuple, seen)))  # the model is learnt by the first, and one is looked at beforehand
    assert len(chain) == 8
    assert sorted(itertools.chain(*chain[:4])) == sorted(itertools.chain(*chain[4:])) == list(range(20))


def test_the_models_own_plate_draws_anew_at_each_step() -> None:
    seen = set()

    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", size=1000, subsample_size=5) as indices:
            seen.add(tuple(indices.tolist()))
            pyro.sample("y", dist.Normal(w, 1.0).expand([5]), obs=torch.zeros(5))

    run(SGLD(model), samples=10, warmup=0)
    assert len(seen) >= 11


@pytest.mark.parametrize("step_size", [0.5, 0.1])
def test_exact_law_on_a_constrained_site(step_size: float) -> None:
    """log of a LogNormal(0.3, 1) site moves like a normal one, of variance 1 / (1 - e/4), if the Jacobian is right."""
    kernel = SGLD(
        lambda: pyro.sample("scale", dist.LogNormal(torch.full((20_000,), 0.3), 1.0).to_event(1)),
        step_size=step_size,
        thinning=round(40 / step_size),
    )
    mcmc = run(kernel, samples=1, warmup=0)
    (draws,) = mcmc.get_samples()["scale"]
    statistics.ks_normal(draws.log(), mean=0.3, sd=(1 - step_size / 4) ** -0.5)
    statistics.variance_is(draws.log(), 1 / (1 - step_size / 4), mean=0.3)


def test_constrained_draws_come_back_in_their_support() -> None:
    def model() -> None:
        pyro.sample("simplex", dist.Dirichlet(torch.ones(3)))
        pyro.sample("interval", dist.Uniform(torch.tensor([-1.0, 2.0]), 3.0).to_event(1))
        pyro.sample(
            "mixture", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), 1.0))
        )

    mcmc = run(SGLD(model, step_size=0.1), samples=50)
    draws = mcmc.get_samples()
    torch.testing.assert_close(draws["simplex"].sum(-1), torch.ones(50))
    assert (draws["interval"] > torch.tensor([-1.0, 2.0])).all()
    assert (draws["interval"] < 3).all()
    assert draws["mixture"].shape == (50,)


def test_records_of_the_draws() -> None:
    schedule = PolynomialDecay(a=1e-3, b=10.0, gamma=0.5)
    kernel = SGLD(REGRESSION.model, step_size=schedule, thinning=3)
    mcmc = run(kernel, X, Y, samples=6, warmup=4)
    stats = kernel.sample_stats()
    assert stats["step_size"].tolist() == [schedule(3 * draw + 2) for draw in range(4, 10)]
    assert stats["lp"].shape == (6,)
    assert mcmc.diagnostics()["sample_stats"]["chain 0"]["lp"].equal(stats["lp"])
    mcmc.summary()
    assert list(kernel.logging()) == ["step size", "log joint", "acceptance"]


def test_lp_is_the_log_joint_where_the_last_update_began() -> None:
    kernel = SGLD(REGRESSION.model, step_size=1e-3)
    draws = run(kernel, X, Y, samples=6, warmup=0).get_samples()["theta"]
    torch.testing.assert_close(kernel.sample_stats()["lp"][1:], REGRESSION.log_joint(draws[:-1]))


def test_thinning_keeps_every_third_update() -> None:
    thinned = run(SGLD(REGRESSION.model, data=(X, Y), batch_size=7, thinning=3), samples=4, warmup=2, seed=5)
    full = run(SGLD(REGRESSION.model, data=(X, Y), batch_size=7), samples=12, warmup=6, seed=5)
    assert thinned.get_samples()["theta"].equal(full.get_samples()["theta"][2::3])


def test_draws_stay_as_they_were() -> None:
    kernel = SGLD(REGRESSION.model)
    kernel.setup(0, X, Y)
    params = kernel.initial_params
    draws = []
    for _ in range(4):
        params = kernel.sample(params)
        draws.append((params["theta"], params["theta"].clone()))
    assert all(draw.equal(copy) for draw, copy in draws)
    assert len({draw.data_ptr() for draw, _ in draws}) == 4


def test_a_chain_goes_on_from_the_parameters_it_is_given() -> None:
    kernel = SGLD(REGRESSION.model, step_size=0.1, temperature=0.0)
    kernel.setup(0, X, Y)
    theta = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(kernel.sample({"theta": theta})["theta"], theta + 0.05 * REGRESSION.gradient(theta))


def test_temperature_zero_climbs_to_the_mode() -> None:
    kernel = SGLD(REGRESSION.model, step_size=5e-3, temperature=0.0)
    draws = run(kernel, X, Y, samples=1, warmup=300).get_samples()["theta"]
    torch.testing.assert_close(draws[0], REGRESSION.mean, rtol=0, atol=1e-6)


def test_initial_values_from_a_dictionary() -> None:
    init = {"theta": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)}
    kernel = SGLD(REGRESSION.model, init=init, data=(X, Y))
    kernel.setup(0)
    assert kernel.initial_params["theta"].equal(init["theta"])
    kernel.sample(kernel.initial_params)
    assert init["theta"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("guide", [AutoNormal, AutoDiagonalNormal])
def test_initial_values_from_a_guide_of_pyro(guide: Any) -> None:
    guide = guide(
        REGRESSION.model, init_loc_fn=lambda site: torch.full((3,), 7.0, dtype=torch.float64), init_scale=1e-6
    )
    kernel = SGLD(REGRESSION.model, init=guide, data=(X, Y), batch_size=7)
    kernel.setup(0)
    torch.testing.assert_close(
        kernel.initial_params["theta"], torch.full((3,), 7.0, dtype=torch.float64), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("returns", [True, False])
def test_initial_values_from_any_guide(returns: bool) -> None:
    def guide() -> dict[str, Tensor] | None:
        if returns:
            return {"scale": torch.tensor(2.0)}
        pyro.sample("scale", dist.Delta(torch.tensor(2.0)))
        return None

    kernel = SGLD(lambda: pyro.sample("scale", dist.HalfNormal(1.0)), init=guide)
    kernel.setup(0)
    torch.testing.assert_close(kernel.state["scale"], torch.tensor(2.0))
    torch.testing.assert_close(kernel.initial_params["scale"], torch.tensor(2.0).log())


def test_initial_params_of_mcmc_are_unconstrained() -> None:
    kernel = SGLD(lambda: pyro.sample("scale", dist.HalfNormal(1.0)), step_size=1e-9)
    mcmc = run(kernel, samples=1, warmup=0, initial_params={"scale": torch.tensor(3.0)})
    assert float(mcmc.get_samples()["scale"]) == pytest.approx(torch.tensor(3.0).exp().item(), rel=1e-3)


def test_chains_one_after_the_other_differ() -> None:
    with pytest.warns(UserWarning, match="sequentially"):
        mcmc = run(SGLD(REGRESSION.model, data=(X, Y), batch_size=7), num_chains=200, samples=4)
    draws = mcmc.get_samples(group_by_chain=True)["theta"]
    assert draws.shape == (200, 4, 3)
    assert len(torch.unique(draws[:, 0, 0])) == 200
    assert len(mcmc.diagnostics()["sample_stats"]) == 200


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_chains_in_processes(monkeypatch: pytest.MonkeyPatch, context: str) -> None:
    monkeypatch.setattr("torch.multiprocessing.cpu_count", lambda: 8)
    kernel = SGLD(REGRESSION.model, data=(X, Y), batch_size=7)
    mcmc = run(kernel, samples=5, num_chains=2, mp_context=context)
    draws = mcmc.get_samples(group_by_chain=True)["theta"]
    assert draws.shape == (2, 5, 3)
    assert not draws[0].equal(draws[1])
    stats = mcmc.diagnostics()["sample_stats"]
    assert {chain: tuple(s["lp"].shape) for chain, s in stats.items()} == {"chain 0": (5,), "chain 1": (5,)}


def seeded_draws() -> Tensor:
    return run(SGLD(REGRESSION.model, data=(X, Y), batch_size=7), samples=30, seed=11).get_samples()["theta"]


def test_the_same_seed_gives_the_same_bits() -> None:
    assert seeded_draws().equal(seeded_draws())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_ten_processes() -> None:
    program = "from tests.sgmcmc.test_kernels import seeded_draws; print(seeded_draws().numpy().tobytes().hex())"
    outputs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
        for _ in range(10)
    }
    assert outputs == {seeded_draws().numpy().tobytes().hex() + "\n"}
