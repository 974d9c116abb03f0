"""The fit loop."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_bdl.compression.random_code.kl_budget import KLBudget
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import InputError
from pyro_bdl.estimators import Estimator, flipout, local_reparameterization
from pyro_bdl.estimators.estimator import Use
from pyro_bdl.guides import AutoMeanField
from pyro_bdl.inference.checkpoint import Checkpoint
from pyro_bdl.inference.collapse import warn_of_collapse
from pyro_bdl.inference.elbo import MeanFieldELBO
from pyro_bdl.inference.guide_step import GuideStep
from pyro_bdl.inference.loop import Loop, readable
from pyro_bdl.inference.options import KLWeight, budget_of, check, shrink_options, told, weight_of
from pyro_bdl.inference.preparation import batches_of, first_of, seeded, way_back
from pyro_bdl.inference.shrink import Shrink
from pyro_bdl.inference.shrinking import Shrinking
from pyro_bdl.inference.steps import FlatStep, Step
from pyro_bdl.minibatches import Batch, Data

Optimizer = Callable[[Sequence[Tensor]], torch.optim.Optimizer]
EstimatorName = Literal["local", "flipout", "plain"]


class Progress(NamedTuple):
    """What a callback is told at the end of each epoch."""

    epoch: int
    loss: float
    kl: float
    kl_weight: float
    guide: Any
    architecture: str = ""  # with `shrink=`: the units left, `278-98-13`


@dataclass
class Fit:
    """A fitted guide and how it got there.

    Attributes:
        model, guide: as they were handed over; the guide is fitted in place.
        losses: the negative bound in nats of each epoch, averaged over its steps; during `kl_warmup` with the weight
            that the KL then had.
        kls: its KL part, without the warm-up weight (nan where another `elbo=` has no KL apart).
        seconds: wall-clock time of the training steps.
        coverage: which weight was drawn how (empty for the plain estimator).
        kept: with `shrink=`, which units were left at the end: masks by group of `find_units`; else empty.
    """

    model: Callable[..., Any]
    guide: Any
    losses: list[float] = field(default_factory=list)
    kls: list[float] = field(default_factory=list)
    seconds: float = 0.0
    coverage: list[Use] = field(default_factory=list)
    kept: Mapping[str, Tensor] = field(default_factory=dict)


def fit_svi(
    model: Callable[..., Any],
    guide: Any,
    data: Data,
    *,
    epochs: int,
    batch_size: int | None = None,
    optimizer: Optimizer | None = None,
    schedule: Callable[[float], float] | None = None,
    kl_weight: KLWeight = 1.0,
    kl_warmup: float = 0.0,
    estimator: EstimatorName = "local",
    elbo: Any = None,
    num_particles: int = 1,
    data_plate: str | None = None,
    callbacks: Iterable[Callable[[Progress], Any]] = (),
    progress: bool = True,
    seed: int | None = None,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    shrink: Shrink | bool = False,
) -> Fit:
    r"""Fit a guide by stochastic variational inference.

    Minimises the negative evidence lower bound on minibatches,

    .. math:: -\frac NB \sum_{n \in batch} E_q[\log p(y_n \mid x_n, w)] + \beta\, KL(q, p)

    where N/B comes from the model's data plate. For `AutoMeanField` the step works on flat buffers that are allocated
    once and costs what hand-written PyTorch costs; any other guide goes through `MeanFieldELBO` and autograd.

    Args:
        model: a Pyro model, called with the tensors of a batch.
        guide: its guide, fitted in place; a plain one, which `estimator` decides how to draw from.
        data: a tensor or a tuple of tensors; a `DataLoader`; or any iterable of batches that can be gone through again
            (it is, once, to count the data).
        epochs: how many times the data are gone through.
        batch_size: B, for tensors. Default 128, or all of fewer data.
        optimizer: makes the optimizer from the list of parameters. Default: Adam with learning rate 0.001, fused.
        schedule: the factor of the learning rate as a function of the fraction of steps done; `lambda t: 1 - t` falls
            linearly to zero. Default: constant.
        kl_weight: beta at the end. Default 1, the bound itself; less gives a "cold" posterior, which fits the data
            closer than Bayes' rule asks for (Wenzel et al. 2020), 0 a fit by maximum likelihood. Or a function of the
            fraction of steps done: `lambda t: 1.0 if t < 0.5 else 0.2` finds what can be switched off first and fits
            what is left closer. Or a `KLBudget`, which drives it until the KL has so many bits, in all or block by
            block: only for `AutoMeanField`, without `kl_warmup` and `shrink`; the callbacks are told the mean of its
            multipliers.
        kl_warmup: epochs over which beta rises linearly from 0 to `kl_weight`. Default 0.
        estimator: "local" reparameterisation, "flipout" or "plain" draws. Default "local", the least variance. With an
            `ImportanceWeightedELBO` all draws are plain.
        elbo: a `MeanFieldELBO` with options of its own, by whose `kl_weight` that of the fit is multiplied; or another
            Pyro ELBO, for guides that are no mean field, which needs `kl_weight=1` and `kl_warmup=0`. Default:
            `MeanFieldELBO`.
        num_particles: draws per step, averaged. `AutoMeanField` with the local estimator takes them in one pass, on the
            batch repeated, if all observations stand in the data plate. Default 1.
        data_plate: the name of the data plate. Default: each plate with a `subsample_size`.
        callbacks: called with a `Progress` at the end of each epoch; one that returns True ends the fit.
        progress: show a bar.
        seed: seeds the fit's random numbers (order, noise); the global generator is left as it was. Default: none,
            the global generator is used.
        device: where the batches are put; the network's parameters must be there. Default: where they are.
        checkpoint: a file, written after each epoch, from which the same call goes on if it exists. It holds
            parameters, optimizer, place in the data and torch's random state; not a network's buffers (the running
            statistics of batch normalisation).
        shrink: cut units that are off out of the network, the guide and the optimizer's state while the fit runs, see
            `Shrink`; True for its defaults. Afterwards, at an error too, and for callbacks all is whole again: the
            weights of a cut unit have the mean 0 and the variance that they had, so that `compress` cuts it, too. What
            it adds to the KL is a constant from then on, included in what is reported (an estimate from one draw where
            the KL has no closed form). Only for `AutoMeanField` and a model that calls one `BayesianModule`. Default
            False.

    Returns:
        Fit: losses by epoch, time, coverage report.

    Raises:
        InputError: arguments out of range, empty or non-finite data, a data plate whose numbers are not the data's,
            labels that do not fit. The parameters are as before the fit, if it is found in the first epoch (in a later
            one, which only data that change can bring about, they are those of the last good step).
        NumericalError: a loss or gradient that is not finite; the message names the site and the step. The parameters
            are those of the last good step, and the checkpoint is that of the last good epoch.

    Warns:
        PosteriorCollapseWarning: at the end no latent variable of a data point differs from its prior.

    >>> import torch, pyro_bdl as bdl
    >>> x = torch.linspace(-1, 1, 50)[:, None]
    >>> model = bdl.Regressor(bdl.BayesianModule(torch.nn.Linear(1, 1)), noise=0.1)
    >>> guide = bdl.guides.AutoMeanField(model)
    >>> adam = lambda p: torch.optim.Adam(p, lr=0.05)
    >>> fit = bdl.fit_svi(model, guide, (x, 2 * x[:, 0]), epochs=200, optimizer=adam, progress=False, seed=0)
    >>> fit.losses[-1] < fit.losses[0]
    True
    >>> print(f"{guide.median()['weight'].item():.1f}")
    2.0
    """
    check(epochs, num_particles, kl_weight, kl_warmup, estimator, elbo)
    options = shrink_options(shrink, guide, elbo)
    budget = budget_of(kl_weight, guide, elbo, options)
    with seeded(seed):
        batches = batches_of(data, batch_size, device)
        plate = SubsampleIndices(size=batches.size, plate=data_plate)
        first = first_of(batches)
        wrapped = _estimator(model, guide, estimator)

        def new_step() -> Any:
            return _make_step(model, guide, wrapped, elbo, plate, first, num_particles, budget)

        step = readable(new_step, "the first batch")
        go_back = way_back(step.parameters, budget)
        make = optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True))
        torch_optimizer, whole, fit = make(step.parameters), step.parameters, Fit(model, guide)
        small = None if options is None else Shrinking(options, guide, step, new_step, kl_warmup=kl_warmup)

        def undo() -> None:
            if small is not None:
                small.close()
            go_back()

        with ExitStack() as stack:
            if small is not None:
                stack.callback(small.close)
            saved = None
            if checkpoint is not None:
                settings = told(seed, kl_weight, kl_warmup, estimator, elbo, num_particles)
                saved = Checkpoint(checkpoint, guide, whole, torch_optimizer, batches, small, budget, settings=settings)
                fit.losses, fit.kls, fit.seconds = saved.restore()
            loop = Loop(
                step if small is None else small.step, torch_optimizer, batches, first, epochs=epochs,
                kl_weight=weight_of(kl_weight), kl_warmup=kl_warmup,
                schedule=schedule, progress=progress, done=len(fit.losses),
                undo=undo, shrinking=small,
            )  # fmt: skip
            stack.enter_context(loop.bar)
            _run(loop, fit, saved, budget, small, tuple(callbacks))
            fit.kept = {} if small is None else small.kept
        if isinstance(step, GuideStep):
            warn_of_collapse(model, guide, plate, first)
    fit.coverage = wrapped.coverage() if isinstance(wrapped, Estimator) else []
    return fit


def _run(
    loop: Loop,
    fit: Fit,
    saved: Checkpoint | None,
    budget: KLBudget | None,
    small: Shrinking | None,
    callbacks: Sequence[Callable[[Progress], Any]],
) -> None:
    """Epoch after epoch, of which `fit`, the checkpoint and the callbacks are told, until one of these ends it."""
    for epoch in range(len(fit.losses), loop.epochs):
        loss, seconds, weight = loop.epoch(epoch)
        weight = weight if budget is None else float(budget.per_weight().mean())
        fit.losses.append(loss.total)
        fit.kls.append(loss.kl)
        fit.seconds += seconds
        if saved is not None:
            saved.write(fit.losses, fit.kls, fit.seconds)
        told = Progress(epoch, loss.total, loss.kl, weight, fit.guide, small.architecture if small else "")
        with small.whole() if small and callbacks else nullcontext():
            stop = [callback(told) is True for callback in callbacks]
        if any(stop):
            break


def _make_step(
    model: Any,
    guide: Any,
    wrapped: Any,
    elbo: Any,
    plate: SubsampleIndices,
    first: Batch,
    num_particles: int,
    budget: KLBudget | None,
) -> Step:
    estimator = wrapped if isinstance(wrapped, Estimator) else None
    if elbo is None and type(guide) is AutoMeanField:
        return FlatStep(model, guide, estimator, plate, first, num_particles=num_particles, budget=budget)
    return GuideStep(model, wrapped, elbo or MeanFieldELBO(num_particles), plate, first)


def _estimator(model: Any, guide: Any, name: str) -> Any:
    if isinstance(guide, Estimator):
        raise InputError(
            "guide", expected="a plain guide, with estimator= to say how it is drawn from", got=type(guide).__name__
        )
    if name == "plain":
        return guide
    return (local_reparameterization if name == "local" else flipout)(guide, model=model)
