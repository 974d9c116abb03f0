"""The warning of steps that were too large: silent where the bias is as documented, told where it is large."""

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from scipy import stats
from torch import Tensor

from pyro_bdl.errors import StepSizeWarning
from pyro_bdl.sgmcmc import SGHMC, SGLD, SGNHT, Langevin, PolynomialDecay, large_steps
from pyro_bdl.sgmcmc.large_steps import BLOCKS, EXCESS, least_acceptance, warn_of_large_steps
from tests.fresh_state import fresh_state  # noqa: F401
from tests.sgmcmc.every_kernel import KERNELS
from tests.statistics import FALSE_ALARM, require
from tests.targets import ConjugateRegression, Mixture

REGRESSION = ConjugateRegression.example()


def normal(size: int = 20) -> None:
    pyro.sample("theta", dist.Normal(torch.zeros(size, dtype=torch.float64), 1.0).to_event(1))


def run(kernel: Any, *args: Any, draws: int, warmup: int = 100) -> list[str]:
    """What a run warns of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True).run(*args)
    assert all(issubclass(warning.category, StepSizeWarning) for warning in told)
    return [str(warning.message) for warning in told]


MODELS: dict[str, Any] = {
    "one normal number": lambda: normal(1),
    "20 normal numbers": normal,
    "a mixture": Mixture().model,
    "a regression": REGRESSION.full_model,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", KERNELS)
def test_nothing_is_said_at_the_default_step(name: str, model: str) -> None:
    """Where variances are 1.3 to 5% too large: each part of a chain is too hot with a probability of at most 1/2."""
    assert not run(KERNELS[name](MODELS[model]), draws=320)


def test_the_chance_of_a_false_alarm_is_stated() -> None:
    """Two rules, each with a binomial law of 32 parts that are wrong with a probability of 1/2 at most."""
    assert 2 * stats.binom.sf(BLOCKS - large_steps.SPARED - 1, BLOCKS, 0.5) < FALSE_ALARM / 4


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("name", ["SGLD", "SGHMC"])
def test_at_an_excess_of_a_tenth_a_part_is_as_often_too_hot_as_not_or_less(
    name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 parts of 10 draws each; were it 3 in 4, it would be found."""
    monkeypatch.setattr("pyro_bdl.sgmcmc.probe.EVERY", 1)
    kernel = KERNELS[name](lambda: normal(size), step_size=4 * EXCESS / (1 + EXCESS), thinning=5)
    kernel.setup(20)
    for _ in range(20 + 1200):
        kernel.sample(kernel.initial_params)
    records = kernel.sample_stats()
    hot = records["kinetic_temperature"].unfold(0, 10, 10).mean(1) > 1 + EXCESS
    refused = records["acceptance"].unfold(0, 10, 10).mean(1) < least_acceptance(size)
    for wrong in (hot, refused):
        require(stats.binomtest(int(wrong.sum()), len(wrong), 0.5, alternative="greater").pvalue, "too often")


@pytest.mark.parametrize("name", ["SGLD", "PreconditionedSGLD", "SGHMC", "Langevin without the test"])
def test_a_chain_that_is_too_hot_is_told(name: str) -> None:
    """e = 1.6 makes the variances 1.67 times too large; a part of 30 draws of 20 numbers has an error below 0.1."""
    step = 1.6 * (1e3 if name == "PreconditionedSGLD" else 1.0)
    (told,) = run(KERNELS[name](normal, step_size=step, thinning=10), draws=960)
    assert "kinetic temperature of 1." in told
    assert "where 1 is expected" in told
    assert "find_step_size" in told


def test_the_acceptance_tells_of_what_a_thermostat_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its temperature is right whatever the step, while the step is 2.5; the mean of 30 looks has an error of 0.08."""
    monkeypatch.setattr("pyro_bdl.sgmcmc.probe.EVERY", 1)
    (told,) = run(SGNHT(normal, step_size=2.5, thinning=5), draws=960)
    assert "would-be acceptance" in told
    assert "kinetic" not in told


def test_the_noise_of_gradients_is_told() -> None:
    """Of batches of one point, 7 of whose 8 in a row agree on nothing: SGHMC's variances are twice too large."""
    x, y = torch.ones(8, 1, dtype=torch.float64), torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)

    def model(x: Tensor, y: Tensor) -> None:
        theta = pyro.sample("theta", dist.Normal(torch.zeros(50, 1, dtype=torch.float64), 1.0).to_event(2))
        signs = 1 - 2 * torch.randint(2, (50, 1), dtype=torch.float64)
        with pyro.plate("data", size=8, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(theta @ x.T, 1.0), obs=signs * y)

    (told,) = run(SGHMC(model, data=(x, y), batch_size=1, step_size=0.02, thinning=5), draws=640)
    assert "kinetic temperature" in told


def test_a_metropolis_test_and_a_chain_without_noise_are_not_judged() -> None:
    assert not run(Langevin(normal, step_size=2.0), draws=320)
    assert not run(SGLD(normal, step_size=2.0, temperature=0.0), draws=320)


def test_a_temperature_is_compared_with_its_own() -> None:
    assert not run(SGLD(normal, temperature=4.0), draws=320)
    assert "where 4 is expected" in run(SGLD(normal, temperature=4.0, step_size=1.8), draws=960)[0]


def test_each_chain_is_judged_once_and_a_schedule_that_calms_down_is_right() -> None:
    kernel = SGLD(normal, step_size=1.8)
    for _ in range(2):
        assert len(run(kernel, draws=960)) == 1
    assert not run(SGLD(normal, step_size=PolynomialDecay(a=36.0, b=20.0, gamma=1.0)), draws=1600)


@pytest.mark.parametrize("draws", [0, 1, 31])
def test_too_few_draws_say_nothing(draws: int) -> None:
    records = {"kinetic_temperature": torch.full((draws,), 9.0), "acceptance": torch.zeros(draws)}
    warn_of_large_steps(records, temperature=1.0, parameters=1000, every=50)


@pytest.mark.parametrize(("calm", "told"), [(2, True), (3, False)])
def test_all_parts_but_two_must_be_too_hot(calm: int, told: bool) -> None:
    heat = torch.full((BLOCKS, 4), 1.2)
    heat[5 : 5 + calm] = 1.0
    heat[0] = 1e9
    records = {"kinetic_temperature": heat.flatten(), "acceptance": torch.full((BLOCKS * 4,), torch.nan)}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_large_steps(records, temperature=1.0, parameters=1000, every=50)
    assert bool(found) == told
    if told:
        assert "1.2 times" in str(found[0].message)
