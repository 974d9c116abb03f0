"""What the stochastic-gradient kernels for `pyro.infer.MCMC` share: parameters, batches, step sizes, records.

A sampler adds its update equation and what state that needs, see `kernels`.
"""

import contextlib
import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import BDLError, InputError, NumericalError, UnsupportedModelError
from pyro_bdl.minibatches import Batch, Data, Minibatches
from pyro_bdl.sgmcmc.gradients import LogJointGradient
from pyro_bdl.sgmcmc.noise import Noise
from pyro_bdl.sgmcmc.schedules import Constant, Schedule
from pyro_bdl.sgmcmc.sites import FirstRun, LatentSite, values_of_guide

Init = Mapping[str, Tensor] | Callable[..., Any]


class StochasticGradientKernel(MCMCKernel):
    """The common part of the kernels: everything but the update equation. See `SGLD` for the arguments."""

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        step_size: Schedule | float | None,
        data: Data | Minibatches | None,
        batch_size: int | None,
        plate: str | None,
        init: Init | None,
        thinning: int,
    ) -> None:
        if not callable(model):
            raise InputError("model", expected="a Pyro program", got=type(model).__name__)
        if thinning < 1:
            raise InputError("thinning", expected="at least 1", got=str(thinning))
        if not (init is None or callable(init) or isinstance(init, Mapping)):
            raise InputError("init", expected="a dictionary of values or a guide", got=type(init).__name__)
        self.model, self.thinning = model, thinning
        self.schedule = Constant(float(step_size)) if isinstance(step_size, (int, float)) else step_size
        self._default_schedule = step_size is None
        self.batches = _as_minibatches(data, batch_size)
        self.transforms: dict[str, Transform] | None = None
        self._plate, self._init = plate, init
        self._given: Mapping[str, Tensor] | None = None
        self._forget()

    def _forget(self) -> None:
        self._sites: dict[str, LatentSite] = {}
        self._target: LogJointGradient | None = None
        self._args: tuple[Any, ...] = ()
        self._kwargs: dict[str, Any] = {}
        self._drawn: dict[str, Tensor] = {}
        self._pending: Batch | None = None
        self._warmup_steps = self._calls = self._step = self._checked_steps = 0
        self._step_size = self._log_joint = math.nan
        self._position = torch.empty(0)
        self._noise: Noise | None = None
        self._records: list[tuple[float, float]] = []

    # What a sampler is -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self, position: Tensor) -> None:
        """Make the sampler's own state for parameters like `position`."""

    @abstractmethod
    def _next(self, position: Tensor, gradient: Tensor, noise: Tensor, step_size: float) -> Tensor:
        """The update equation: the next parameters, in a new tensor or in `noise`, which is standard normal."""

    # What Pyro's MCMC calls ------------------------------------------------------------------------------------------

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Begin a chain: find the latent sites, their first values, and check the model with one batch.

        Args:
            warmup_steps: how many draws are not recorded.
            args: positional arguments of the model, after those of the batch if the kernel has `data`.
            kwargs: keyword arguments of the model.

        Raises:
            UnsupportedModelError: see `FirstRun` and `LogJointGradient.evaluate`.
            InputError: data, plate or initial values that do not fit.
            NumericalError: the log joint density is not finite at the initial values.
        """
        self._forget()
        self._args, self._kwargs, self._warmup_steps = args, kwargs, warmup_steps
        size = None if self.batches is None else self.batches.size
        plate = None if self.batches is None else SubsampleIndices(size=size, plate=self._plate)
        batch = self._pending = self._first_batch()
        first = self._first_run(batch, plate)
        self._sites = first.sites
        self.transforms = {n: s.transform.inv for n, s in first.sites.items() if s.transform is not None}
        position = {n: site.unconstrain(first.values[n]) for n, site in first.sites.items()}
        if self._given is not None:
            position = _check_unconstrained(self._given, position)
        self._target = LogJointGradient(self.model, first.sites, position, plate=plate)
        self._position = self._target.layout.flatten(position)
        if self._default_schedule:
            self.schedule = Constant(0.05 / max(first.observations, 1.0))
        self._checked_steps = _batches_of_an_epoch(self.batches, batch)
        self._drawn = self._target.layout.views(self._position)
        self._noise = Noise(self._position)
        self._begin(self._position)
        self._evaluate(batch, check=True)

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Unconstrained values at which the chain begins; set them before `setup` to choose others."""
        return self._drawn or dict(self._given or {})

    @initial_params.setter
    def initial_params(self, params: Mapping[str, Tensor]) -> None:
        self._given = dict(params)

    def sample(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The next draw: `thinning` updates, beginning at `params`.

        Args:
            params: unconstrained values by site; the last draw, or others.

        Returns:
            Unconstrained values by site; no later draw changes them.

        Raises:
            NumericalError: the log joint density or the update is not finite. The parameters then are still
                those before that update, and `state` gives them.
            InputError: a batch that does not fit.
        """
        target = self._require_target()
        if params is not self._drawn:
            params = _check_unconstrained(params, self._drawn)
            self._move(target, target.layout.flatten(params))
        for _ in range(self.thinning):
            self._update(target)
        self._calls += 1
        if self._calls > self._warmup_steps:
            self._records.append((self._step_size, self._log_joint))
        return self._drawn

    def logging(self) -> OrderedDict[str, str]:
        """What Pyro's progress bar shows: step size and log joint density at the last update."""
        return OrderedDict([("step size", f"{self._step_size:.2e}"), ("log joint", f"{self._log_joint:.4g}")])

    def diagnostics(self) -> dict[str, Any]:
        """What `MCMC.diagnostics()` collects for each chain: `sample_stats()` under that name."""
        return {"sample_stats": self.sample_stats()}

    def sample_stats(self) -> dict[str, Tensor]:
        """Records of the draws after warm-up, each of shape (draws,), float64.

        - `step_size`: that of the draw's last update.
        - `lp`: the log joint density in unconstrained space, as the batch of the draw's last update estimates it, at
          the parameters from which that update started (the gradient is taken there).
        """
        records = torch.tensor(self._records, dtype=torch.float64).reshape(-1, 2)
        return {"step_size": records[:, 0].clone(), "lp": records[:, 1].clone()}

    def cleanup(self) -> None:
        """End the threads; parameters and records stay."""
        if self._noise is not None:
            self._noise.close()

    @property
    def state(self) -> dict[str, Tensor]:
        """The present values by site, constrained, in tensors of their own."""
        values = self._require_target().layout.views(self._position.clone())
        return {name: self._sites[name].constrain(value) for name, value in values.items()}

    # The chain -------------------------------------------------------------------------------------------------------

    def _first_batch(self) -> Batch | None:
        """The chain's first batch, by which the model is learnt before."""
        if self.batches is None:
            return None
        self.batches.restart()
        return self.batches.next()

    def _first_run(self, batch: Batch | None, plate: SubsampleIndices | None) -> FirstRun:
        args = (*(batch.args if batch is not None else ()), *self._args)
        if plate is not None and batch is not None:
            plate.set(batch)
        with pyro.poutine.block(), plate or contextlib.nullcontext(), pyro.validation_enabled(True):
            init = values_of_guide(self._init, *args, **self._kwargs) if callable(self._init) else self._init
            first = FirstRun(init)
            try:
                with first:
                    self.model(*args, **self._kwargs)
            except InputError:
                raise
            except ValueError as error:  # a distribution's own check of its parameters
                raise InputError("the model", expected="a program that runs", got=f"an error, {error}") from error
        first.require_all_used()
        if not first.sites:
            raise UnsupportedModelError("the model", expected="at least one latent site", got="none")
        return first

    def _update(self, target: LogJointGradient) -> None:
        batch, self._pending = self._pending, None
        if batch is None and self.batches is not None:
            batch = self.batches.next()
        assert self.schedule is not None
        step_size = self.schedule(self._step)
        if not 0 < step_size < math.inf:
            raise InputError(
                "step_size", expected="a positive finite number", got=f"{step_size} for update {self._step}"
            )
        log_joint = self._evaluate(batch, check=self._step < self._checked_steps)
        assert self._noise is not None
        position = self._next(self._position, target.gradient, self._noise.draw(), step_size)
        if not math.isfinite(float(position.sum())) and not bool(torch.isfinite(position).all()):
            raise NumericalError(self._blame(target.layout.views(position), "gradient"))
        self._move(target, position)
        self._step_size, self._log_joint = step_size, log_joint
        self._step += 1

    def _move(self, target: LogJointGradient, position: Tensor) -> None:
        self._position, self._drawn = position, target.layout.views(position)

    def _evaluate(self, batch: Batch | None, *, check: bool) -> float:
        """The log joint density, and in the target its gradient; for a batch that fails, the checks' own word on it."""
        target, args, kwargs = self._require_target(), self._args, self._kwargs
        with pyro.validation_enabled(False):
            try:
                log_joint = target.evaluate(self._position, self._drawn, batch, args, kwargs, check=check)
            except BDLError:
                raise
            except (RuntimeError, IndexError, ValueError):
                target.log_densities(self._drawn, batch, args, kwargs)
                raise
            if not math.isfinite(log_joint):
                densities = target.log_densities(self._drawn, batch, args, kwargs)
                raise NumericalError(self._blame(densities, "log density"))
        return log_joint

    def _blame(self, values: Mapping[str, Tensor], what: str) -> str:
        bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
        return (
            f"update {self._step}: the {what} of {', '.join(bad) or 'the model'} is not finite; the parameters before "
            "that update are kept. The step size may be too large, or the initial values too far out"
        )

    def _require_target(self) -> LogJointGradient:
        if self._target is None:
            raise InputError("the kernel", expected="a call of setup (MCMC.run does it)", got="none")
        return self._target


def _as_minibatches(data: Data | Minibatches | None, batch_size: int | None) -> Minibatches | None:
    if data is None or isinstance(data, Minibatches):
        if batch_size is not None:
            what = "data to draw batches from" if data is None else "None, as the Minibatches have their own"
            raise InputError("batch_size", expected=what, got=str(batch_size))
        return data
    return Minibatches(data, batch_size=batch_size, drop_last=True)


def _batches_of_an_epoch(batches: Minibatches | None, batch: Batch | None) -> int:
    """After how many updates each data point has been seen, as far as that is known."""
    if batches is None or batch is None:
        return 1
    if batches.batches_per_epoch is not None:
        return batches.batches_per_epoch
    return 1 if batches.size is None else math.ceil(batches.size / batch.length)


def _check_unconstrained(given: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Given unconstrained values, if they are those of the sites."""
    for name, value in like.items():
        if name not in given or given[name].shape != value.shape or not torch.isfinite(given[name]).all():
            got = "none" if name not in given else f"shape {tuple(given[name].shape)}, or numbers that are not finite"
            raise InputError(
                f'unconstrained values of "{name}"', expected=f"finite, shape {tuple(value.shape)}", got=got
            )
    return {name: given[name].to(value) for name, value in like.items()}
