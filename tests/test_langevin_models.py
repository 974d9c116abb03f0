"""The Langevin problems: their exact answers are exact, chains come near to them, and each command runs."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch

import pyro_bdl as bdl
from models.langevin import __main__ as command
from models.langevin import logistic, mixture, mnist, risk
from models.langevin.mixture_target import BINS, BOX, Exact, draw_data, histogram, log_joint, model, score
from pyro_bdl.errors import InputError, NumericalError
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import FALSE_ALARM, mean_is

PRIOR = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), torch.tensor([10.0, 1.0]).double().sqrt())
X = draw_data(100, mixture.Settings().data_seed)


def log_likelihood(theta: torch.Tensor) -> torch.Tensor:
    return log_joint(theta, X) - PRIOR.log_prob(theta.T).sum(-1)


def test_mixture_is_that_of_the_pyro_program() -> None:
    theta = PRIOR.sample().requires_grad_()
    trace: Any = pyro.poutine.trace(pyro.poutine.condition(model, {"theta": theta})).get_trace(X, len(X))
    assert torch.allclose(log_joint(theta, X), trace.log_prob_sum())
    scores = score(theta[:, None].expand(-1, len(X)), X)
    gradient = scores.sum(-1) - theta / PRIOR.variance
    assert torch.allclose(gradient, torch.autograd.grad(log_joint(theta, X), theta)[0])


def test_exact_mixture_integrates_to_one() -> None:
    """Over the whole plane, by draws of the prior: the mean of posterior over prior density, which is below 50."""
    theta = PRIOR.sample((200_000,)).T
    mean_is((log_likelihood(theta) - Exact.of(X).log_evidence).exp(), 1.0)


def test_exact_mixture_does_not_depend_on_the_grid() -> None:
    fine, coarse = Exact.of(X), Exact.of(X, cells=5)
    assert abs(fine.log_evidence - coarse.log_evidence) < 1e-6
    assert (fine.masses - coarse.masses).abs().max() < 0.005 * fine.masses.max()
    assert abs(float(fine.masses.sum()) - 1) < 1e-9


def test_exact_mixture_has_two_symmetric_modes() -> None:
    theta = PRIOR.sample((1000,)).T
    image = torch.stack((theta[0] + theta[1], -theta[1]))
    assert torch.allclose(log_likelihood(theta), log_likelihood(image))
    exact = Exact.of(X)
    half = exact.density.shape[1] // 2
    modes = []
    for part, offset in ((exact.density[:, :half], 0), (exact.density[:, half:], half)):
        row, column = divmod(int(part.argmax()), half)
        modes.append((float(exact.axes[0][row]), float(exact.axes[1][offset + column])))
        assert part.max() > 2 * exact.density[:, half].max()  # theta_2 = 0 is the valley between them
    (first, below), (second, above) = modes
    assert below < 0 < above
    assert abs(second + above - first) < 0.1  # but for the prior
    assert abs(above + below) < 0.1


def test_distance() -> None:
    exact = Exact.of(X)
    width = (BOX[0][1] - BOX[0][0]) / BINS
    one = torch.ones(1, dtype=torch.float64)
    inside = torch.tensor([[BOX[0][0] + 0.5 * width], [0.01]], dtype=torch.float64)
    assert float(histogram(inside, one)[0, BINS // 2]) == 1
    assert exact.distance(inside, one) == pytest.approx(1 - float(exact.masses[0, BINS // 2]), abs=1e-6)
    assert exact.distance(inside + 100, one) == pytest.approx(1, abs=1e-6)
    centres = exact.draw(1000)
    assert exact.distance(centres, torch.ones(1000)) < 0.5


def test_sgld_finds_both_modes() -> None:
    """Of 400 chains together the total variation is at most 0.25.

    Its mean over runs is 0.09 to 0.10 (measured). A chain can change it by at most 1/400, so that it is 0.14 above its
    mean with a probability of at most exp(-2 * 400 * 0.14^2) = 2e-7 (McDiarmid). One mode alone is at 0.5;
    without the injected noise it is 0.83, with twice as much 0.42, with the gradient of a data point unscaled 0.80.
    """
    assert math.exp(-2 * 400 * 0.14**2) < FALSE_ALARM
    settings = mixture.Settings(sweeps=300, last_step=3e-4, chains=400)
    schedules = {"decaying": mixture.schedules_of(settings)["decaying"]}
    found = mixture.sample(X, schedules, sweeps=300, chains=400, progress=False)["decaying"]
    weights = found.weights.repeat_interleave(400)
    distance = Exact.of(X).distance(found.theta.flatten(1), weights)
    print(distance)
    assert distance < 0.25


def test_schedules_pass_through_their_ends() -> None:
    decaying = mixture.schedules_of(mixture.Settings())["decaying"]
    assert decaying(0) == pytest.approx(0.01)
    assert decaying(1_000_000) == pytest.approx(0.0001)
    with pytest.raises(InputError, match="last_step"):
        mixture.schedules_of(mixture.Settings(last_step=1.0))


def test_visits() -> None:
    theta_2 = torch.tensor([1.0, 0.2, -0.4, 1.1, -0.9, -0.1, 0.3, 2.0])
    assert mixture.visits(theta_2) == 2


@pytest.mark.parametrize("batch_size", [None, 10])
def test_law_of_the_estimates(batch_size: int | None) -> None:
    posterior = risk.Posterior(200, 0)
    given: dict[str, Any] = {
        "step_size": 0.3 / float(posterior.precision.max()),
        "updates": 20,
        "batch_size": batch_size,
    }
    bias, variance = risk.exact_moments(posterior, **given)
    found = risk.estimates(posterior, chains=20_000, **given)
    mean_is(found, 1 + bias)
    if batch_size is None:
        mean_is((found - 1 - bias) ** 2, variance)
    else:  # the mean of ten data points of two coordinates is not quite normal
        assert float(found.var()) == pytest.approx(variance, rel=0.3)


@pytest.mark.parametrize("batch_size", [None, 10])
def test_risk_is_least_inside(batch_size: int | None) -> None:
    """By the law, and by 1,000 chains.

    Their risk at the smallest step is 1 with a standard error of 0.09 and no tail below: six of them and of the
    least risk's, 0.4 +- 0.05, together.
    """
    settings = risk.Settings(points=200, chains=1000, step_sizes=7)
    curve = risk.curve_of(risk.Posterior(settings.points, 0), settings, batch_size, progress=False)
    assert curve.exact_risk.min() < 0.5 * min(curve.exact_risk[0], curve.exact_risk[-1])
    for values in (curve.exact_risk, curve.risk):
        assert 0 < int(values.argmin()) < len(values) - 1
    assert curve.exact_bias[0].abs() < 0.01  # small steps: all variance; large ones: all bias
    assert curve.exact_bias[-1] ** 2 > curve.exact_variance[-1]


def test_mode_of_the_logistic_regression() -> None:
    problem = logistic.Problem(logistic.Settings())
    misfit = problem.x.T @ (problem.y - (problem.x @ problem.mode).sigmoid())
    gradient = misfit - problem.mode / problem.settings.prior_scale**2
    assert gradient.abs().max() < 1e-2  # the posterior precision is 4 or more: within 0.0025


def test_step_sizes_are_chosen_by_what_pilots_say() -> None:
    settings = logistic.Settings(pilot=50, acceptance=0.5)
    problem = logistic.Problem(settings)
    problem.x_test.fill_(math.nan)  # never looked at
    options: Any = {"data": (problem.x, problem.y), "init": {"weights": problem.mode}}

    def make(step_size: float) -> Any:
        return bdl.Langevin(problem.model, step_size=step_size, **options)

    chosen = logistic.choose_step_size(logistic.Step("MALA", "", 10.0, make, tested=True), settings)
    assert 1e-3 < chosen < 1


def test_no_step_size_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pilot = SimpleNamespace(run=lambda: None)
    pilot.kernel = SimpleNamespace(sample_stats=lambda: {"kinetic_temperature": torch.tensor([2.0])})
    monkeypatch.setattr(logistic, "MCMC", lambda *_, **__: pilot)
    with pytest.raises(NumericalError, match="no step size"):
        logistic.choose_step_size(logistic.Step("SGLD", "", 1.0, lambda _: None), logistic.Settings())


SMALL: dict[str, Any] = {
    "mixture": mixture.Settings(sweeps=60, chains=2, cycles=3),
    "risk": risk.Settings(chains=20, step_sizes=5, points=50),
    "mnist": mnist.Settings(
        data="digits", hidden=(16,), chains=2, cycles=2, cycle_epochs=4, exploration=0.5, cycle_draws=3, batch_size=64
    ),
    "logistic": logistic.Settings(updates=100, warmup=20, thinning=5, pilot=20, nuts_draws=20, nuts_warmup=20),
}


@pytest.mark.parametrize("problem", SMALL)
def test_command(problem: Any, tmp_path: Path) -> None:
    options = command.Options(problem=problem, out=tmp_path, progress=False)
    setattr(options, problem, SMALL[problem])
    rows = command.main(options)
    written = json.loads((tmp_path / f"{problem}.json").read_text())
    assert written["rows"] == rows
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    figures = {path.name for path in tmp_path.glob("*.png")}
    assert figures, problem
    if problem == "logistic":
        names = ["NUTS", "MH", "MALA", "ULA", "SGLD", "pSGLD", "SGHMC", "SGNHT"]
        assert [row["kernel"] for row in rows] == names
        assert {f"logistic_{name.lower()}.nc" for name in names} <= {path.name for path in tmp_path.iterdir()}
