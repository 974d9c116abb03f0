"""Gradient estimators: unbiased over all batches, of less variance near their point, the exact law with a sampler."""

import itertools
from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.minibatches import Batch, Minibatches
from pyro_bdl.sgmcmc import SGHMC, SGLD, SVRG, ControlVariate, Minibatch, gradients
from tests import statistics
from tests.fresh_state import fresh_state  # noqa: F401
from tests.statistics import Mismatch
from tests.targets import ConjugateRegression

TARGET = ConjugateRegression.example(8, 2)
FAR = torch.tensor([0.4, -0.7], dtype=torch.float64)


def logistic(x: Tensor, y: Tensor) -> None:
    """A posterior whose curvature is another one in each place."""
    theta = pyro.sample("theta", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("data", size=len(TARGET.x), subsample_size=len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ theta), obs=(y > 0).to(x.dtype))


MODELS: dict[str, Any] = {"regression": TARGET.model, "logistic": logistic}
ESTIMATORS = {"control variate": ControlVariate({"theta": FAR}), "SVRG": SVRG(every=3)}


def ready(model: str, estimator: Any, **options: Any) -> Any:
    kernel = SGLD(MODELS[model], step_size=1e-3, data=(TARGET.x, TARGET.y), batch_size=2, gradient=estimator, **options)
    kernel.setup(0)
    kernel.sample(kernel.initial_params)
    return kernel


def estimates(kernel: Any, position: Tensor) -> tuple[Tensor, Tensor]:
    """Log joint and gradient by each of the 28 batches of 2 of 8 points."""
    found = []
    for rows in itertools.combinations(range(8), 2):
        index = torch.tensor(rows)
        log_joint, gradient = kernel.chain.estimate(position, Batch((TARGET.x[index], TARGET.y[index]), index))
        found.append((log_joint, gradient.clone()))
    return torch.tensor([f[0] for f in found], dtype=torch.float64), torch.stack([f[1] for f in found])


def exact(model: str, position: Tensor) -> tuple[float, Tensor]:
    kernel = SGLD(MODELS[model], step_size=1e-3, data=(TARGET.x, TARGET.y))
    kernel.setup(0)
    log_joint, gradient = kernel.chain.density(position, kernel._first_batch())
    return log_joint, gradient.clone()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mean_over_all_batches_is_the_full_gradient(estimator: str, model: str) -> None:
    kernel, position = ready(model, ESTIMATORS[estimator]), torch.tensor([0.1, 0.9], dtype=torch.float64)
    log_joints, found = estimates(kernel, position)
    log_joint, gradient = exact(model, position)
    assert float(log_joints.mean()) == pytest.approx(log_joint, abs=1e-11)
    assert torch.allclose(found.mean(0), gradient, rtol=0, atol=1e-11)


class AllButTheLast(Minibatches):
    """Batches of which an epoch lacks one."""

    def __iter__(self) -> Iterator[Batch]:
        return iter(list(super().__iter__())[:-1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("mutant", ["the full gradient is not added", "a batch's own point", "a chunk too few"])
def test_biased_estimates_are_caught(monkeypatch: pytest.MonkeyPatch, mutant: str, estimator: str) -> None:
    call = gradients.Anchor.__call__
    if mutant == "the full gradient is not added":
        monkeypatch.setattr(
            gradients.Anchor, "__call__", lambda self, p, b: (0.0, call(self, p, b)[1] - self._gradient)
        )
    elif mutant == "a batch's own point":
        monkeypatch.setattr(gradients.Anchor, "__call__", lambda self, p, b: call(self, self.position, b))
    else:
        monkeypatch.setattr(gradients, "CHUNK", 3)
        monkeypatch.setattr(gradients, "Minibatches", AllButTheLast)
    kernel, position = ready("logistic", ESTIMATORS[estimator]), torch.tensor([0.1, 0.9], dtype=torch.float64)
    _, found = estimates(kernel, position)
    assert not torch.allclose(found.mean(0), exact("logistic", position)[1], atol=1e-3)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_all_data_are_gone_through_in_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "CHUNK", chunk)
    kernel = ready("logistic", ESTIMATORS["control variate"])
    log_joint, gradient = exact("logistic", FAR)
    assert torch.allclose(kernel.chain.anchor._gradient, gradient, atol=1e-12)
    assert kernel.chain.anchor._log_joint == pytest.approx(log_joint)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_less_variance_than_of_a_plain_minibatch_near_the_point(estimator: str) -> None:
    """Of the curved posterior by far; of the regression, whose curvature the batches differ in, too."""
    kernel = ready("logistic", ESTIMATORS[estimator])
    near = kernel.chain.anchor.position + 0.05
    plain, reduced = (estimates(k, near)[1].var(0).sum() for k in (ready("logistic", Minibatch()), kernel))
    assert reduced < 0.02 * plain
    assert estimates(kernel, kernel.chain.anchor.position)[1].var(0).sum() < 1e-20


def test_svrg_moves_its_point_at_each_multiple() -> None:
    kernel = ready("regression", SVRG(every=3))
    points = []
    for _ in range(6):
        kernel.sample(kernel.initial_params)
        points.append(kernel.chain.anchor.position)
    changes = [not torch.equal(a, b) for a, b in itertools.pairwise(points)]
    assert changes == [False, True, False, False, True]  # the first of these draws was update 1


REPLICATES = 20_000
X, Y = torch.tensor([[-1.0], [1.0]] * 4, dtype=torch.float64), torch.tensor([3.0, 3.4] * 4, dtype=torch.float64)
LINE = ConjugateRegression(X, Y)  # whose batches of one point disagree by far


def line(x: Tensor, y: Tensor) -> None:
    zeros = torch.zeros(REPLICATES, 1, dtype=torch.float64)
    theta = pyro.sample("theta", dist.Normal(zeros, LINE.prior_sd).to_event(2))
    with pyro.plate("data", size=8, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(theta @ x.T, LINE.noise_sd), obs=y.expand(REPLICATES, -1))


def check_law_with(estimator: Any) -> None:
    """Draws of SGHMC from batches of one point have the law of the full gradient."""
    kernel = SGHMC(
        line, step_size=0.05 / float(LINE.precision), friction=0.5, data=(X, Y), batch_size=1, gradient=estimator,
        thinning=400,
    )  # fmt: skip
    kernel.setup(1)
    draws = kernel.sample(kernel.initial_params)["theta"]
    covariance = LINE.covariance.numpy() / (1 - 0.05 / 4)
    statistics.mean_is(draws, LINE.mean, sd=covariance[0] ** 0.5)
    statistics.chi_squared_covariance(draws, mean=LINE.mean, covariance=covariance)


def test_the_law_with_a_control_variate_is_that_of_the_full_gradient() -> None:
    """On a line whose mode is the point: all points have the same curvature, so nothing of the noise is left."""
    check_law_with(ControlVariate({"theta": LINE.mean.expand(REPLICATES, 1)}))


def check_law_often(estimator: Any) -> None:
    for _ in range(5):
        check_law_with(estimator)


def test_that_with_plain_minibatches_is_caught() -> None:
    """All replicates see the same batches: what is found is a common shift, small in a few of a hundred runs."""
    with pytest.raises(Mismatch):
        check_law_often(Minibatch())


def test_what_cannot_be_estimated_is_refused() -> None:
    for options in ({"data": [(TARGET.x, TARGET.y)]}, {}):
        kernel = SGLD(TARGET.model if options else TARGET.full_model, gradient=SVRG(2), **options)
        with pytest.raises(UnsupportedModelError, match="tensors"):
            kernel.setup(0)
    with pytest.raises(InputError, match="theta"):
        ready("regression", ControlVariate({"theta": torch.zeros(3)}))
    with pytest.raises(InputError, match="gradient"):
        SGLD(TARGET.model, gradient="svrg")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="every"):
        SVRG(every=0)
