"""What a chain's records say of its steps, against what theory says; and schedules that explore."""

import itertools
import math
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.sgmcmc import SGHMC, SGLD, SGNHT, Cyclical, PreconditionedSGLD, updates
from pyro_bdl.sgmcmc.probe import Probe
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import require
from tests.targets import ConjugateRegression

MANY = 20_000


def normal() -> None:
    pyro.sample("theta", dist.Normal(torch.zeros(MANY, dtype=torch.float64), 1.0).to_event(1))


KERNELS: dict[str, Any] = {
    "SGLD": SGLD,
    "PreconditionedSGLD": partial(PreconditionedSGLD, adapt=0, offset=1.0),
    "SGHMC": SGHMC,
    "SGNHT": SGNHT,
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("step_size", [0.1, 0.8])
def test_the_kinetic_temperature_is_that_of_the_draws(name: str, step_size: float) -> None:
    """With 20,000 copies of a mode its error is 0.01, and its value far from 1 for the larger step."""
    kernel = KERNELS[name](normal, step_size=step_size, thinning=200)
    kernel.setup(1)
    kernel.sample(kernel.initial_params)
    draws = kernel.sample(kernel.initial_params)["theta"]
    found, variance = float(kernel.sample_stats()["kinetic_temperature"]), float(draws.square().mean())
    assert found == pytest.approx(variance, abs=0.06)
    if name in ("SGLD", "SGHMC"):
        assert found == pytest.approx(1 / (1 - step_size / 4), abs=0.06)


@pytest.mark.parametrize("name", ["SGLD", "SGHMC", "SGNHT"])
def test_the_would_be_acceptance_falls_with_the_step(name: str) -> None:
    """Of nine standard normal variables a step of e = 0.01 is as good as always accepted, one of 2.5 is not."""
    found = []
    for step_size in (0.01, 2.5):
        kernel = KERNELS[name](
            lambda: pyro.sample("theta", dist.Normal(torch.zeros(9, dtype=torch.float64), 1.0).to_event(1)),
            step_size=step_size, thinning=51,
        )  # fmt: skip
        kernel.setup(0)
        for _ in range(40):
            kernel.sample(kernel.initial_params)
        acceptance = kernel.sample_stats()["acceptance"]
        assert ((acceptance >= 0) & (acceptance <= 1)).all()
        found.append(float(acceptance.mean()))
    assert found[0] > 0.98
    assert found[1] < 0.9


def test_the_would_be_acceptance_is_by_one_batch_before_and_after() -> None:
    """With the model's own subsample, too: a chain with tiny steps would be accepted always, whatever the noise."""
    target = ConjugateRegression.example()
    for kernel in (
        SGLD(target.subsampled_model(3), step_size=1e-7, thinning=50),
        SGLD(target.model, data=(target.x, target.y), batch_size=3, step_size=1e-7, thinning=50),
    ):
        kernel.setup(0)
        for _ in range(20):
            kernel.sample(kernel.initial_params)
        assert float(kernel.sample_stats()["acceptance"].min()) > 0.99


def test_the_would_be_acceptance_falls_with_the_noise_of_gradients() -> None:
    """50 numbers of precision 9, gradients' noise of variance 64: the log ratio has mean 0 and the deviation s = 0.137.

    Its mean min(1, ratio) is 0.950, in 400 looks with an error of 0.004. By an update's own batch it would be 1.
    """

    def noisy() -> None:
        theta = pyro.sample("theta", dist.Normal(torch.zeros(50, 1, dtype=torch.float64), 1.0).to_event(2))
        signs = 1 - 2 * torch.randint(2, (50, 1), dtype=torch.float64)
        with pyro.plate("data", size=8, subsample_size=1):
            pyro.sample("y", dist.Normal(theta, 1.0), obs=signs)

    kernel = SGLD(noisy, step_size=0.01, thinning=10)
    kernel.setup(10)
    kernel.chain.probe = Probe(every=1)
    for _ in range(410):
        kernel.sample(kernel.initial_params)
    assert float(kernel.sample_stats()["acceptance"].mean()) == pytest.approx(0.95, abs=0.025)


def test_the_noise_ratio_is_that_of_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the mode of a line whose points have a gradient of 1 or -1 apart from the prior's, in batches of one."""
    monkeypatch.setattr("pyro_bdl.sgmcmc.probe.EVERY", 1)
    x = torch.ones(8, 1, dtype=torch.float64)
    y = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)

    def model(x: Tensor, y: Tensor) -> None:
        theta = pyro.sample("theta", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
        with pyro.plate("data", size=8, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(x @ theta, 1.0), obs=y)

    kernel = SGLD(model, data=(x, y), batch_size=1, step_size=1e-6, temperature=0.5,
                  init={"theta": torch.zeros(1, dtype=torch.float64)})  # fmt: skip
    kernel.setup(0)
    for _ in range(600):
        kernel.sample(kernel.initial_params)
    ratios = kernel.sample_stats()["noise_ratio"]
    # The two batches are of one epoch or neighbours: without replacement they differ with probability 4/7 or 1/2.
    assert 0.3 < float(ratios.mean()) / (1e-6 * 64 / (4 * 0.5)) < 1.7
    whole = SGLD(model, data=(x, y), step_size=1e-6)
    whole.setup(0)
    whole.sample(whole.initial_params)
    assert float(whole.sample_stats()["noise_ratio"]) < 1e-20


def test_looking_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    target = ConjugateRegression.example()

    def chain() -> Tensor:
        torch.manual_seed(4)
        kernel = SGHMC(target.subsampled_model(5), step_size=1e-3)
        kernel.setup(0)
        return torch.stack([kernel.sample(kernel.initial_params)["theta"] for _ in range(120)])

    often = chain()
    monkeypatch.setattr("pyro_bdl.sgmcmc.probe.EVERY", 10**9)
    assert often.equal(chain())


def variance_by_batches_of_one(kernel: Any, *, noise_ratio: float, points: int) -> float:
    """Over the posterior's, the mean over 500 copies of a mode with precision `points` + 1 and independent noise."""
    x, y = torch.ones(points, 1, dtype=torch.float64), torch.ones(points, dtype=torch.float64)

    def model(x: Tensor, y: Tensor) -> None:
        theta = pyro.sample("theta", dist.Normal(torch.zeros(500, 1, dtype=torch.float64), 1.0).to_event(2))
        signs = 1 - 2 * torch.randint(2, (500, 1), dtype=torch.float64)
        with pyro.plate("data", size=points, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(theta @ x.T, 1.0), obs=signs * y)

    step_size = 4 * noise_ratio / points**2
    kernel = kernel(model, data=(x, y), batch_size=1, step_size=step_size, friction=0.1, thinning=10)
    kernel.setup(100)
    draws = [kernel.sample(kernel.initial_params)["theta"] for _ in range(150)][50:]
    return float(torch.stack(draws).square().mean()) * (points + 1)


def test_a_thermostat_takes_out_the_noise_of_gradients() -> None:
    """Noise that doubles SGHMC's variance and ten times as much, to a few errors of the estimate; not any amount."""
    assert variance_by_batches_of_one(SGHMC, noise_ratio=0.32, points=8) > 1.8
    assert variance_by_batches_of_one(SGNHT, noise_ratio=0.32, points=8) == pytest.approx(1.0, abs=0.1)
    assert variance_by_batches_of_one(SGNHT, noise_ratio=3.2, points=80) == pytest.approx(1.0, abs=0.1)
    assert 1.2 < variance_by_batches_of_one(SGNHT, noise_ratio=8.0, points=80) < 10.0  # beyond 4.3


@pytest.mark.parametrize("bounded", [True, False])
def test_a_thermostat_survives_the_heat_of_a_fall(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 50 deviations of the prior away, where without a bound on its friction it leaves the finite numbers."""
    if not bounded:
        monkeypatch.setattr(updates, "most_friction", lambda diffusion: math.inf)
    target = ConjugateRegression.example()
    far = target.mean + 50
    kernel = SGNHT(target.full_model, init={"theta": far}, thinning=500)
    kernel.setup(0)
    if not bounded:
        with pytest.raises(NumericalError):
            kernel.sample(kernel.initial_params)
        return
    away = kernel.sample(kernel.initial_params)["theta"] - target.mean
    require(float(stats.chi2.sf(away @ target.precision @ away, 3)), "a draw of the posterior")


def test_a_cycle_explores_without_noise_and_draws_while_it_samples() -> None:
    schedule = Cyclical(0.2, cycle=20, exploration=0.75)
    target = ConjugateRegression.example()
    kernel = SGLD(target.model, step_size=lambda t: 1e-2 * schedule(t))
    assert not kernel.sample_stats()["step_size"].numel()
    small = Cyclical(2e-3, cycle=20, exploration=0.75)
    kernel = SGLD(target.model, step_size=small)
    kernel.setup(0, target.x, target.y)
    theta = kernel.initial_params["theta"].clone()
    kernel.sample(kernel.initial_params)
    for _ in range(9):
        kernel.sample(kernel.initial_params)
    assert kernel.chain.step == 40
    assert kernel.sample_stats()["step_size"].tolist() == [small(t) for t in (15, 16, 17, 18, 19, 35, 36, 37, 38, 39)]
    again = SGLD(target.model, step_size=small, init={"theta": theta})
    again.setup(0, target.x, target.y)
    for _ in range(15):
        again._update(again.chain)
        theta = theta + 0.5 * small(again.chain.step - 1) * target.gradient(theta)
    torch.testing.assert_close(again.state["theta"], theta)


def visits(schedule: Any, updates: int, copies: int = 400) -> float:
    """The share of copies of a chain that have been in both modes, 8 deviations apart, after so many updates."""
    law = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2, dtype=torch.float64)),
        dist.Normal(torch.tensor([-4.0, 4.0], dtype=torch.float64), 1.0),
    )
    kernel = SGLD(
        lambda: pyro.sample("theta", law.expand([copies]).to_event(1)), step_size=schedule,
        init={"theta": torch.full((copies,), -4.0, dtype=torch.float64)},
    )  # fmt: skip
    kernel.setup(10**9)
    seen = torch.zeros(copies, dtype=torch.bool)
    while kernel.chain.step < updates:
        seen |= kernel.sample(kernel.initial_params)["theta"] > 2
    return float(seen.double().mean())


def test_a_cyclical_chain_gets_to_the_other_mode_more_often_at_the_same_cost() -> None:
    """Its steps are as large at first as they may be, and half of each cycle as small as those of the plain chain."""
    cyclical, plain = visits(Cyclical(3.5, cycle=50, exploration=0.0), 1000), visits(0.1, 1000)
    assert cyclical > 2 * plain
    assert cyclical > 0.5


@pytest.mark.parametrize(
    "bad", [{"step_size": 0.0}, {"cycle": 1}, {"cycle": 2.5}, {"exploration": 1.0}, {"exploration": -0.1},
            {"cycle": 4, "exploration": 0.9}],
)  # fmt: skip
def test_a_cycle_that_cannot_be(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Cyclical(**({"step_size": 0.1, "cycle": 10} | bad))


@pytest.mark.parametrize(
    ("kernel", "bad"),
    [(SGHMC, {"friction": 0.0}), (SGHMC, {"friction": 1.1}), (SGNHT, {"friction": -1.0}), (SGNHT, {"coupling": 0.0}),
     (SGNHT, {"coupling": 0.2}), (PreconditionedSGLD, {"decay": 1.0}), (PreconditionedSGLD, {"offset": 0.0}),
     (PreconditionedSGLD, {"adapt": -1}), (SGHMC, {"temperature": -1.0}), (SGNHT, {"thinning": 0})],
)  # fmt: skip
def test_arguments_out_of_range(kernel: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        kernel(normal, **bad)


def test_a_preconditioner_needs_updates_to_adapt_in() -> None:
    with pytest.raises(InputError, match="warm-up"):
        PreconditionedSGLD(normal).setup(0)
    kernel = PreconditionedSGLD(normal, step_size=1e-3)
    kernel.setup(3)
    metrics = []
    for _ in range(6):
        kernel.sample(kernel.initial_params)
        metrics.append(kernel.chain.carried["metric"])
    assert [not a.equal(b) for a, b in itertools.pairwise(metrics)] == [True, True, False, False, False]


def test_the_preconditioner_is_the_inverse_size_of_the_gradients() -> None:
    """Two scales a hundred apart: the gradients' mean square is about 1 / scale^2 each."""
    scales = torch.tensor([1.0, 0.01], dtype=torch.float64).repeat(2000)
    kernel = PreconditionedSGLD(
        lambda: pyro.sample("x", dist.Normal(torch.zeros(4000, dtype=torch.float64), scales).to_event(1)),
        step_size=1e-3, thinning=100, offset=0.1, init={"x": scales * torch.randn(4000, dtype=torch.float64)},
    )  # fmt: skip
    kernel.setup(4)
    for _ in range(5):
        draw = kernel.sample(kernel.initial_params)["x"]
    sizes = (1 / kernel.chain.carried["metric"] - 0.1) * scales
    # While G follows the gradients the law is not the posterior, so that their mean squares are but nearly right.
    assert sizes.square().reshape(-1, 2).mean(0).tolist() == pytest.approx([1.0, 1.0], abs=0.3)
    assert float((draw / scales).square().mean()) == pytest.approx(1.0, abs=0.3)


def test_the_default_step_of_a_preconditioned_chain_is_that_of_sgld_at_the_median() -> None:
    kernel = PreconditionedSGLD(normal)
    kernel.setup(5)
    metric = kernel.chain.carried["metric"]
    assert kernel.schedule is not None
    assert kernel.schedule(0) * float(metric.median()) == pytest.approx(0.05)
    assert math.isfinite(float(kernel.sample(kernel.initial_params)["theta"].sum()))
