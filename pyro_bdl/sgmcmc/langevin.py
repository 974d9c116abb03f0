"""Langevin dynamics on all data, exact with a Metropolis-Hastings test."""

import math
from collections.abc import Callable
from typing import Any, Unpack, final

import torch
from torch import Tensor

from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.sgmcmc.arguments import Options
from pyro_bdl.sgmcmc.chain import Chain
from pyro_bdl.sgmcmc.flat import Number, number
from pyro_bdl.sgmcmc.gradients import Minibatch
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel
from pyro_bdl.sgmcmc.updates import langevin, log_acceptance, probability


@final
class Langevin(StochasticGradientKernel):
    """Langevin dynamics on all data, with a Metropolis-Hastings test of each step (MALA) or without one (ULA).

    theta' = theta + e/2 grad log p(theta, data) + N(0, e T), taken with probability min(1, ratio), `log_acceptance`;
    else theta stays (Roberts & Tweedie 1996). With the test the draws' law is the posterior (to the power 1/T) for any
    step size; without it this is `SGLD` with all data in each batch, and its law is off by order e.

    Args:
        model: as for all kernels; a plate in it must not subsample.
        metropolis: test each step. Default: yes. An acceptance of 0.57 is best for many parameters (Roberts &
            Rosenthal 1998).
        options: see `StochasticGradientKernel`; all data are one batch.

    Raises:
        InputError: a batch size, a gradient estimator or a schedule that explores, or T = 0 with the test; at `setup`,
            data in several batches.
        UnsupportedModelError: at `setup`, a plate that subsamples.

    With the test, `acceptance` in `sample_stats` is the probability with which the draw's last step was taken, and
    there is no `kinetic_temperature` and no `noise_ratio`.

    >>> import pyro, pyro.distributions as dist
    >>> kernel = Langevin(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)), step_size=0.5)
    >>> kernel.setup(0)
    >>> kernel.sample(kernel.initial_params)["w"].shape
    torch.Size([])
    """

    def __init__(self, model: Callable[..., Any], *, metropolis: bool = True, **options: Unpack[Options]) -> None:
        super().__init__(model, **options)
        if options.get("batch_size") is not None or not isinstance(self.gradient, Minibatch):
            raise InputError("Langevin", expected="all data in one batch", got="a batch size or a gradient estimator")
        if hasattr(self.schedule, "explores"):
            raise InputError("step_size", expected="a schedule without exploration", got=repr(self.schedule))
        if metropolis and not self.temperature:
            raise InputError("temperature", expected="positive, with the Metropolis test", got="0")
        self.metropolis = metropolis

    def _begin(self, chain: Chain, gradient: Tensor) -> dict[str, Tensor]:
        if self.batches is not None and self.batches.batches_per_epoch != 1:
            raise InputError("data", expected="all of them in one batch", got=f"{self.batches.batches_per_epoch}")
        if self.subsampled:
            raise UnsupportedModelError(
                "the model", expected="all data in each run", got=f"the plate {self.subsampled[0]!r}, which subsamples"
            )
        chain.density.require_finite(gradient, "gradient")
        return self._here(chain.log_joint, gradient) if self.metropolis else {}

    def _jump(self, chain: Chain, position: Tensor) -> dict[str, Tensor]:
        if not self.metropolis:
            return chain.carried
        log_joint, gradient = chain.estimate(position, chain.next_batch())
        chain.density.require_finite(gradient, "gradient")
        return self._here(log_joint, gradient)

    @staticmethod
    def _here(log_joint: Number, gradient: Tensor) -> dict[str, Tensor]:
        """The density and the gradient where the chain is."""
        return {"log_joint": torch.as_tensor(log_joint, dtype=torch.float64), "gradient": gradient.clone()}

    def _next(
        self, chain: Chain, gradient: Tensor, noise: Tensor, *, step_size: float, temperature: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        after = langevin(chain.position, gradient, noise, step_size=step_size, temperature=temperature, out=noise)
        return after, chain.carried

    def _update(self, chain: Chain, *, record: bool = False) -> None:
        if not self.metropolis:
            super()._update(chain, record=record)
            return
        batch, t, temperature = chain.next_batch(), chain.step, self.temperature
        chain.density.step, step_size = t, self._step_size_of(t)
        log_joint, gradient = chain.carried["log_joint"], chain.carried["gradient"]
        noise = chain.noise.draw()
        proposed, _ = self._next(chain, gradient, noise, step_size=step_size, temperature=temperature)
        there, gradient_there = chain.estimate(proposed, batch, refuse=False)
        there = torch.as_tensor(there, dtype=torch.float64)
        there = torch.where(there.isfinite(), there, math.nan)
        log_ratio = log_acceptance(
            chain.position, gradient, proposed, gradient_there,
            gain=there - log_joint, step_size=step_size, temperature=temperature,
        )  # fmt: skip
        acceptance = probability(log_ratio)  # 0 out where the density is no number
        taken = chain.noise.uniform() < acceptance
        chain.move(torch.where(taken[..., None], proposed, chain.position))
        chain.carried = {
            "log_joint": torch.where(taken, there, log_joint),
            "gradient": torch.where(taken[..., None], gradient_there, gradient),
        }
        chain.step_size, chain.log_joint, chain.step = step_size, number(chain.carried["log_joint"]), t + 1
        chain.probe.acceptance = number(acceptance)
        if record:
            chain.note(math.nan)
