"""What the stochastic-gradient kernels for `pyro.infer.MCMC` share: parameters, batches, step sizes, records.

A sampler adds its update equation and what state that needs, see `kernels`.
"""

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Batch, Data, Minibatches
from pyro_bdl.sgmcmc.arguments import as_minibatches, batches_of_an_epoch, check_unconstrained
from pyro_bdl.sgmcmc.chain import Chain
from pyro_bdl.sgmcmc.density import Density
from pyro_bdl.sgmcmc.flat import mean
from pyro_bdl.sgmcmc.gradients import SVRG, Anchor, ControlVariate, GradientEstimator, Minibatch
from pyro_bdl.sgmcmc.large_steps import warn_of_large_steps
from pyro_bdl.sgmcmc.log_joint import LogJointGradient
from pyro_bdl.sgmcmc.probe import Update
from pyro_bdl.sgmcmc.records import Records, kinetic_temperature
from pyro_bdl.sgmcmc.schedules import Constant, Schedule, explores
from pyro_bdl.sgmcmc.sites import Point, first_run


class StochasticGradientKernel(MCMCKernel):
    r"""What all kernels have in common: everything but the update equation.

    Unconstrained space: constrained sites are mapped by `biject_to(support)`, and log |det| of its Jacobian is part of
    the density. Batches come from the model's own plate, `pyro.plate("data", N, subsample_size=B)`, or from `data`: the
    model then is called with the batch's tensors, and `pyro.plate("data", size=N, subsample_size=len(x))` gets the
    scale N/B and is told which data points the batch holds.

    Args:
        model: a Pyro program whose latent sites are continuous and the same in each run. `pyro.param`s in it stay as
            they are.
        step_size: a schedule t -> e_t, or a number for a constant one; t counts updates from the first warm-up one. In
            units of the squared unconstrained parameter. Default: 0.05/N constant, N the number of observed values
            (each counted with its plate's scale; 1 without data): where each tells about as much about a parameter
            as an observation of unit variance, the posterior variance is 1/N, and the deviation comes out 0.6% too
            large, see `Constant`; at eight times that information it is 5%. Networks often need less, and gain from
            a decaying schedule.
        temperature: T; 1 samples the posterior, T its density to the power 1/T.
        data: a tensor, a tuple of tensors, a `DataLoader`, an iterable of batches or a `Minibatches`; `None`: the
            model has its own data. Of tensors each batch has the same size; what an epoch leaves over is left out.
        batch_size: B, for tensors. Default: all data.
        plate: the name of the data plate. Default: each plate with a `subsample_size`.
        init: where the chain begins: values by site (a MAP fit, say), or a guide, from which each chain draws its own.
            Default: a draw from the prior.
        thinning: updates per draw, of which the last is kept; a warm-up draw, too, is of so many.
        gradient: `Minibatch()`, `ControlVariate(at)` or `SVRG(every)`. Default: the first.
        jit_compile: trace the log joint density and its gradient once, and repeat the trace's tensor operations without
            Pyro around them. It is for a model that does the same in each run: no branch on values, no counter, and no
            number in it that changes while it samples. Default: no, as in Pyro's NUTS.

    Raises:
        InputError: an argument out of its range; at `setup`, data or initial values that do not fit.

    Attributes:
        chain: the chain that is drawn, after `setup`.
        numbers: those of the chains that errors name; empty where there is one alone.
        subsampled: plates of the model that draw a batch of their own.

    `MCMC.diagnostics()["sample_stats"]` has, and so has `sample_stats()` after a single chain, what the draws' updates
    were like. Draws are bit-identical for the same seed, machine and versions.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        step_size: Schedule | float | None = None,
        temperature: float = 1.0,
        data: Data | Minibatches | None = None,
        batch_size: int | None = None,
        plate: str | None = None,
        init: Point | None = None,
        thinning: int = 1,
        gradient: GradientEstimator = Minibatch(),  # noqa: B008 (immutable)
        jit_compile: bool = False,
    ) -> None:
        if not callable(model):
            raise InputError("model", expected="a Pyro program", got=type(model).__name__)
        if thinning < 1:
            raise InputError("thinning", expected="at least 1", got=str(thinning))
        if not (init is None or callable(init) or isinstance(init, Mapping)):
            raise InputError("init", expected="a dictionary of values or a guide", got=type(init).__name__)
        if not 0 <= temperature < math.inf:
            raise InputError("temperature", expected="a finite number, at least 0", got=str(temperature))
        if not isinstance(gradient, GradientEstimator):
            raise InputError(
                "gradient", expected="Minibatch(), ControlVariate(at) or SVRG(every)", got=repr(gradient)[:60]
            )
        self.model, self.thinning, self.temperature = model, thinning, float(temperature)
        self.schedule = Constant(float(step_size)) if isinstance(step_size, (int, float)) else step_size
        self._default_schedule = step_size is None
        self.batches = as_minibatches(data, batch_size)
        self.transforms: dict[str, Transform] | None = None
        self.gradient = gradient
        self._plate, self._init, self._jit_compile = plate, init, jit_compile
        self.numbers: Sequence[int] = ()
        self.subsampled: list[str] = []
        self._given: Mapping[str, Tensor] | None = None
        self._chain: Chain | None = None
        self._warmup_steps, self._observations, self._judged = 0, 1.0, False

    # What a sampler is -----------------------------------------------------------------------------------------------

    def _begin(self, chain: Chain, gradient: Tensor) -> dict[str, Tensor]:
        """The sampler's own state where the chain begins, by the gradient there. Default: none."""
        return {}

    @abstractmethod
    def _next(
        self, chain: Chain, gradient: Tensor, noise: Tensor, *, step_size: float, temperature: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The update equation: the next parameters, in a new tensor or in `noise`, and the sampler's own next state."""

    def _jump(self, chain: Chain, position: Tensor) -> dict[str, Tensor]:
        """The sampler's own state at other parameters, to which its user moves the chain. Default: as it was."""
        return chain.carried

    def _draw_momentum(self, chain: Chain) -> Tensor:
        """From N(0, T)."""
        return chain.noise.draw().mul_(math.sqrt(self.temperature))

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
        self._chain, self._warmup_steps, self._judged = None, warmup_steps, False
        size = None if self.batches is None else self.batches.size
        plate = None if self.batches is None else SubsampleIndices(size=size, plate=self._plate)
        batch = self._first_batch()
        first = first_run(self.model, self._init, batch, plate, args, kwargs)
        self.subsampled, self._observations = first.subsampled, max(first.observations, 1.0)
        self.transforms = {n: s.transform.inv for n, s in first.sites.items() if s.transform is not None}
        position = {n: site.unconstrain(first.values[n]) for n, site in first.sites.items()}
        if self._given is not None:
            position = check_unconstrained(self._given, position)
        if self._default_schedule:
            self.schedule = Constant(self._default_step_size)
        target = LogJointGradient(
            self.model, first.sites, position, args=args, kwargs=kwargs, plate=plate, jit_compile=self._jit_compile
        )
        chain = Chain(
            Density(target, self.numbers), target.layout.flatten(position), data=self.batches, pending=batch,
            checked_steps=batches_of_an_epoch(self.batches, batch),
        )  # fmt: skip
        chain.log_joint, gradient = chain.density(chain.position, batch, check=True)
        chain.carried = self._begin(chain, gradient)
        if not isinstance(self.gradient, Minibatch):
            anchor = chain.anchor = Anchor(chain.density, self.batches)
            if isinstance(self.gradient, ControlVariate):
                at = first_run(self.model, self.gradient.at, batch, plate, args, kwargs).values
                anchor.move(target.layout.flatten({n: s.unconstrain(at[n]) for n, s in first.sites.items()}))
        self._chain = chain

    @property
    def chain(self) -> Chain:
        """The chain that is drawn.

        Raises:
            InputError: there was no `setup`.
        """
        if self._chain is None:
            raise InputError("the kernel", expected="a call of setup (MCMC.run does it)", got="none")
        return self._chain

    @chain.setter
    def chain(self, chain: Chain) -> None:
        self._chain = chain

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Unconstrained values at which the chain begins; set them before `setup` to choose others."""
        return dict(self._given or {}) if self._chain is None else self._chain.values

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
        chain = self.chain
        chain.density.chains = self.numbers
        if params is not chain.values:
            position = chain.density.target.layout.flatten(check_unconstrained(params, chain.values))
            chain.carried = self._jump(chain, position)
            chain.move(position)
        recorded = chain.draws >= self._warmup_steps
        for left in reversed(range(self.thinning)):
            while explores(self.schedule, chain.step):
                self._update(chain)
            self._update(chain, record=recorded and left == 0)
        chain.draws += 1
        return chain.values

    def logging(self) -> OrderedDict[str, str]:
        """What Pyro's progress bar shows: step size, log joint density, and the acceptance when last looked at."""
        chain = self.chain
        log_joint, acceptance = mean(chain.log_joint), mean(chain.probe.acceptance)
        told = [("step size", f"{chain.step_size:.2e}"), ("log joint", f"{log_joint:.4g}")]
        if not math.isnan(acceptance):
            told.append(("acceptance", f"{acceptance:.2f}"))
        return OrderedDict(told)

    def diagnostics(self) -> dict[str, Any]:
        """What `MCMC.diagnostics()` collects for each chain: `sample_stats()` under that name."""
        return {"sample_stats": self.sample_stats()}

    def sample_stats(self) -> dict[str, Tensor]:
        """Records of the draws after warm-up, each of shape (draws,), float64.

        - `step_size`: e of the draw's last update.
        - `lp`: the log joint density in unconstrained space, as the batch of the draw's last update estimates it, at
          the parameters from which that update started (the gradient is taken there); `energy` is -lp.
        - `kinetic_temperature`: the mean of (theta' - theta)^2 / (e G) over the parameters, G the preconditioner if
          there is one. Its mean over draws is T where the step is small and the gradients' noise is, too; more says by
          how much the variances are too large.
        - `acceptance`: the probability with which a Metropolis-Hastings test (MALA) would have accepted the last
          update, if another batch were all data: by its own the update always leads uphill. Looked at about every 50
          updates, in between as before.
        - `noise_ratio`: e V / (4 T), the variance that the noise of the gradients adds to a step, over that of the
          noise that is injected; V is the mean variance of a parameter's gradient. Looked at as often.
        """
        return (Records() if self._chain is None else self._chain.records).stats()

    def cleanup(self) -> None:
        """End the threads, and warn (`StepSizeWarning`) of steps that were too large; parameters and records stay."""
        if self._chain is None:
            return
        self._chain.noise.close()
        if not self._judged:  # Pyro calls this twice for a chain
            self._judged = True
            warn_of_large_steps(
                self.sample_stats(), temperature=self.temperature, parameters=self._chain.position.shape[-1],
                every=self._chain.probe.every, thinning=self.thinning, stacklevel=2,
            )  # fmt: skip

    @property
    def state(self) -> dict[str, Tensor]:
        """The present values by site, constrained, in tensors of their own."""
        return {name: value.clone() for name, value in self.chain.constrained().items()}

    @property
    def _default_step_size(self) -> float:
        return 0.05 / self._observations

    # An update -------------------------------------------------------------------------------------------------------

    def _first_batch(self) -> Batch | None:
        """The chain's first batch, by which the model is learnt before."""
        if self.batches is None:
            return None
        self.batches.restart()
        return self.batches.next()

    def _update(self, chain: Chain, *, record: bool = False) -> None:
        """One update, and a record of it."""
        batch, t = chain.next_batch(), chain.step
        chain.density.step = t
        step_size, temperature = self._step_size_of(t), 0.0 if explores(self.schedule, t) else self.temperature
        looks = record and temperature > 0 and chain.probe.is_due(t)
        if isinstance(self.gradient, SVRG) and t % self.gradient.every == 0:
            assert chain.anchor is not None
            chain.anchor.move(chain.position)
        log_joint, gradient = chain.estimate(chain.position, batch, check=t < chain.checked_steps)
        before, noise = chain.position, chain.noise.draw()
        after, carried = self._next(chain, gradient, noise, step_size=step_size, temperature=temperature)
        chain.density.require_finite(after, "gradient")
        chain.move(after)
        chain.carried, chain.step_size, chain.log_joint, chain.step = carried, step_size, log_joint, t + 1
        if looks:
            update = Update(before, after, gradient.clone(), step_size, temperature, chain.metric)
            chain.probe.look(t, update, chain.batch_ahead(), chain.estimate)
        if record:
            chain.note(kinetic_temperature(before, after, step_size=step_size, metric=chain.metric))

    def _step_size_of(self, t: int) -> float:
        assert self.schedule is not None
        step_size = self.schedule(t)
        if not 0 < step_size < math.inf:
            raise InputError("step_size", expected="a positive finite number", got=f"{step_size} for update {t}")
        return step_size
