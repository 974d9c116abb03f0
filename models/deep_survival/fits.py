"""The fits: modes of the linear models and of the plain network, a mean-field guide, chains."""

import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

import pyro_bdl as bdl
from models.deep_survival.problem import Problem
from models.schedules import falling
from pyro_bdl.data import Subjects

Method = Literal["cox", "linear", "plain", "svi", "chains"]
Draws = dict[str, Tensor]
FUNCTION_POINTS = 4
LINEAR_EPOCHS = 500


@dataclass
class Fitted:
    """A model with draws of its posterior; one draw where it is a point.

    Attributes:
        name: as the table and the figures call it.
        file: the name of its ArviZ data.
        curves: for covariates (N, D) and times (T,) the survival curves (draws, N, T).
        log_likelihood: of subjects, (draws, N); None where the model has no likelihood of a subject.
        seconds: what the fit took.
        arviz: makes its ArviZ data, if it has any.
    """

    name: str
    file: str
    curves: Callable[[Tensor, Tensor], Tensor]
    log_likelihood: Callable[[Subjects], Tensor] | None
    seconds: float
    arviz: Callable[[], Any] | None = None

    def survival_at_own_times(self, subjects: Subjects) -> Tensor:
        """S(t_n | x_n) of the posterior predictive, (N,)."""
        if self.log_likelihood is not None:
            censored = subjects._replace(event=torch.zeros_like(subjects.event))  # whose likelihood is S
            return self.log_likelihood(censored).exp().mean(0)
        rows, columns = subjects.time.unique(return_inverse=True)
        return self.curves(subjects.x, rows).mean(0).gather(1, columns[:, None])[:, 0]

    def save_arviz(self, out: Path) -> None:
        """Write its ArviZ data, if it has any."""
        if self.arviz is not None:
            self.arviz().to_netcdf(str(out / f"{self.file}.nc"))


def mode(problem: Problem, model: Any, *, epochs: int, batch_size: int, seed: int) -> Draws:
    """Near a mode of the posterior, by Adam; values by site."""
    guide = AutoDelta(model, init_loc_fn=bdl.guides.init_to_network)
    rate = problem.settings.learning_rate
    with torch.enable_grad(), pyro.poutine.block(), pyro.get_param_store().scope():
        bdl.fit_svi(
            model, guide, tuple(problem.train), epochs=epochs, batch_size=min(batch_size, len(problem.train.time)),
            optimizer=functools.partial(torch.optim.Adam, lr=rate, fused=True), schedule=falling, estimator="plain",
            progress=False, seed=seed,
        )  # fmt: skip
        return {name: value.detach() for name, value in guide.median().items()}


def fit_cox(problem: Problem) -> Fitted:
    """Cox's linear model by the partial likelihood of all subjects at once, with Breslow's baseline."""
    begin = time.perf_counter()
    model = problem.cox()
    x_train, times_train, events_train = problem.train
    found = mode(problem, model, epochs=LINEAR_EPOCHS, batch_size=len(problem.train.time), seed=problem.seed)
    draws = {name: value[None] for name, value in found.items()}

    def curves(x: Tensor, times: Tensor) -> Tensor:
        return bdl.predict(model.curves((x_train, times_train, events_train), times), draws, x)

    return Fitted("Cox, linear", "cox", curves, None, time.perf_counter() - begin)


def fit_linear(problem: Problem) -> Fitted:
    """The linear model with the piecewise constant baseline."""
    begin = time.perf_counter()
    model, size = problem.linear(), problem.settings.batch_size
    found = mode(problem, model, epochs=problem.settings.plain_epochs, batch_size=size, seed=problem.seed)
    return _fitted("linear, full likelihood", "linear", model, _single(found), begin)


def fit_plain(problem: Problem) -> Fitted:
    """One network, the mode under its prior: weight decay."""
    begin, settings = time.perf_counter(), problem.settings
    model = problem.deep(problem.seed, settings.plain_scale)
    found = mode(
        problem, model, epochs=settings.plain_epochs, batch_size=settings.batch_size, seed=problem.seed
    )  # fmt: skip
    return _fitted("plain network", "plain", model, _single(found), begin)


def fit_by_svi(problem: Problem) -> Fitted:
    """A Bayesian network by a mean-field guide, with local reparameterisation."""
    begin, settings = time.perf_counter(), problem.settings
    model = problem.deep(problem.seed, settings.svi_scale)
    guide = bdl.guides.AutoMeanField(model)
    data: Any = tuple(problem.train)
    bdl.fit_svi(
        model, guide, data, epochs=settings.svi_epochs, schedule=falling, progress=problem.progress,
        batch_size=min(settings.batch_size, len(data[1])), seed=problem.seed,
        optimizer=functools.partial(torch.optim.Adam, lr=settings.learning_rate, fused=True),
    )  # fmt: skip
    draws = bdl.guide_draws(guide, *data, num_samples=settings.svi_draws, seed=problem.seed)

    def arviz() -> Any:
        return bdl.from_pyro_svi(
            model, guide, num_samples=settings.svi_draws, model_args=data, seed=problem.seed, var_names=[],
            functions=functions(problem, model), log_likelihood=True, batch_size=None,
        )  # fmt: skip

    return _fitted("Bayesian network, SVI", "svi", model, draws, begin, arviz)


def fit_by_chains(problem: Problem) -> Fitted:
    """A Bayesian network by chains of SGHMC, each from a mode of its own."""
    begin, settings, count = time.perf_counter(), problem.settings, len(problem.train.time)
    model = problem.deep(problem.seed, settings.chain_scale)
    starts = [problem.deep(1000 * problem.seed + k, settings.chain_scale) for k in range(settings.chains)]
    size = settings.batch_size
    modes = iter(
        [mode(problem, start, epochs=settings.mode_epochs, batch_size=size, seed=k) for k, start in enumerate(starts)]
    )
    kernel = bdl.SGHMC(
        model, data=tuple(problem.train), batch_size=min(settings.chain_batch_size, count),
        step_size=settings.step_size / count, friction=settings.friction, thinning=settings.thinning,
        init=lambda *_: next(modes), jit_compile=True,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        chains = bdl.sample_chains(
            kernel, num_samples=settings.updates // settings.thinning, num_chains=settings.chains,
            warmup_steps=settings.warmup // settings.thinning, chain_method="vectorized", seed=problem.seed,
            progress=problem.progress,
        )  # fmt: skip

    def arviz() -> Any:
        return bdl.from_pyro(
            chains, var_names=[], functions=functions(problem, model), log_likelihood=True, batch_size=None,
            model_args=tuple(problem.train),
        )  # fmt: skip

    return _fitted("Bayesian network, chains", "chains", model, chains.get_samples(), begin, arviz)


def functions(problem: Problem, model: Any) -> dict[str, Any]:
    """The survival curves of a few held-out subjects: what R-hat and effective sample sizes are about."""
    return {"survival": (model.curves(problem.times), problem.held.x[:FUNCTION_POINTS])}


def _single(values: Draws) -> Draws:
    return {name: value[None] for name, value in values.items()}


def _fitted(
    name: str, file: str, model: Any, draws: Draws, begin: float, arviz: Callable[[], Any] | None = None
) -> Fitted:
    def curves(x: Tensor, times: Tensor) -> Tensor:
        return bdl.predict(model.curves(times), draws, x)

    def log_likelihood(subjects: Subjects) -> Tensor:
        pointwise = bdl.diagnostics.pointwise_log_likelihood(model, draws, *subjects, batch_size=None)
        return pointwise[model.site]

    return Fitted(name, file, curves, log_likelihood, time.perf_counter() - begin, arviz)


FITS: dict[Method, Callable[[Problem], Fitted]] = {
    "cox": fit_cox,
    "linear": fit_linear,
    "plain": fit_plain,
    "svi": fit_by_svi,
    "chains": fit_by_chains,
}
