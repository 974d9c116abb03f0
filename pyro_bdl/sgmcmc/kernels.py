"""The stochastic-gradient samplers, as kernels for `pyro.infer.MCMC`: each an update equation and its state."""

import math
from collections.abc import Callable
from typing import Any, Unpack, final

from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc.arguments import Options
from pyro_bdl.sgmcmc.chain import Chain
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel
from pyro_bdl.sgmcmc.schedules import Constant
from pyro_bdl.sgmcmc.updates import (
    hamiltonian,
    langevin,
    nose_hoover,
    preconditioned_langevin,
    rms_preconditioner,
)

MOST_COUPLING = 0.1  # beyond it the thermostat of a chain of few parameters overshoots


@final
class SGLD(StochasticGradientKernel):
    """Stochastic-gradient Langevin dynamics (Welling & Teh 2011, equation 4), a kernel for `pyro.infer.MCMC`.

    theta_{t+1} = theta_t + e_t/2 (grad log p(theta_t) + N/B sum_{i in batch} grad log p(y_i | theta_t)) + N(0, e_t T)

    There is no accept/reject step, so with a constant step size the draws' law differs from the posterior by order e
    (and by the minibatches' gradient noise, of variance e^2/4 Var(gradient) a step beside e T): make e small, or let it
    decay. With all data in each batch this is the unadjusted Langevin algorithm. As a learning rate of the log joint
    density, e is twice as much: that is e/2.

    Args and errors: those of `StochasticGradientKernel`.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> from pyro.infer import MCMC
    >>> x, y = torch.randn(100), torch.randn(100)
    >>> def model(x, y):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", size=100, subsample_size=len(x)):
    ...         pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> kernel = SGLD(model, step_size=1e-3, data=(x, y), batch_size=10)
    >>> mcmc = MCMC(kernel, num_samples=20, warmup_steps=10, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples()["slope"].shape, kernel.sample_stats()["step_size"].shape
    (torch.Size([20]), torch.Size([20]))
    """

    def _next(
        self, chain: Chain, gradient: Tensor, noise: Tensor, *, step_size: float, temperature: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        after = langevin(chain.position, gradient, noise, step_size=step_size, temperature=temperature, out=noise)
        return after, chain.carried


@final
class PreconditionedSGLD(StochasticGradientKernel):
    r"""SGLD with a step for each parameter, by the size of its gradients (pSGLD; Li, Chen, Carlson & Carin 2016).

    .. math::
        V \leftarrow \beta V + (1 - \beta)\, (g / N)^2, \qquad G = \frac1{\lambda + \sqrt V}, \qquad
        \theta' = \theta + \frac e2\, G g + \sqrt{e T G}\, z

    (their equations 4 and 5, without the divergence of G, which they leave out, too.) While G follows the gradients the
    stationary law is not the posterior. So it does only for the updates of the warm-up, unless `adapt` says otherwise;
    from then on G is held, and the draws have the law of `SGLD` in scaled coordinates.

    Args:
        model: as for all kernels.
        decay: beta, in [0, 1). Default 0.99, a hundred updates.
        offset: lambda, positive, in units of a data point's gradient. Default 1e-5, theirs: parameters without
            gradient have steps 1e5 e.
        adapt: for how many updates G follows the gradients. Default: those of the warm-up.
        options: see `StochasticGradientKernel`. The step size e is in units of theta^2 / G; its default is that of
            SGLD over the median of G at the start.

    Raises:
        InputError: an argument out of its range; at `setup`, neither a warm-up nor `adapt`.

    >>> import pyro, pyro.distributions as dist
    >>> kernel = PreconditionedSGLD(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)), step_size=1e-2, adapt=50)
    >>> kernel.setup(0)
    >>> kernel.sample(kernel.initial_params)["w"].shape
    torch.Size([])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        decay: float = 0.99,
        offset: float = 1e-5,
        adapt: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, **options)
        if not 0 <= decay < 1:
            raise InputError("decay", expected="a number in [0, 1)", got=str(decay))
        if not 0 < offset < math.inf:
            raise InputError("offset", expected="a positive finite number", got=str(offset))
        if adapt is not None and adapt < 0:
            raise InputError("adapt", expected="a number of updates, at least 0", got=str(adapt))
        self.decay, self.offset, self.adapt = decay, offset, adapt

    def _begin(self, chain: Chain, gradient: Tensor) -> dict[str, Tensor]:
        if self.adapt is None and not self._warmup_steps:
            raise InputError(
                "adapt", expected="a number of updates, where there is no warm-up", got="None",
                remedy="G follows the gradients during the warm-up: give warmup_steps, or say how long with adapt=",
            )  # fmt: skip
        second_moment = (gradient / self._observations).square_()
        metric = rms_preconditioner(second_moment, offset=self.offset)
        if self._default_schedule:
            self.schedule = Constant(self._default_step_size / float(metric.median()))
        return {"second_moment": second_moment, "metric": metric}

    def _next(
        self, chain: Chain, gradient: Tensor, noise: Tensor, *, step_size: float, temperature: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        adapt = self._warmup_steps * self.thinning if self.adapt is None else self.adapt
        carried = chain.carried
        if chain.step < adapt:
            second_moment = self.decay * carried["second_moment"]
            second_moment.addcmul_(gradient, gradient, value=(1 - self.decay) / self._observations**2)
            carried = {
                "second_moment": second_moment, "metric": rms_preconditioner(second_moment, offset=self.offset)
            }  # fmt: skip
        after = preconditioned_langevin(
            chain.position, gradient, noise, carried["metric"], step_size=step_size, temperature=temperature
        )
        return after, carried


@final
class SGHMC(StochasticGradientKernel):
    r"""Langevin dynamics with momentum (Chen, Fox & Guestrin 2014, equation 15).

    .. math::
        r' = (1 - \alpha)\, r + \Bigl(1 - \frac\alpha2\Bigr) \sqrt e\, g + \sqrt{\alpha (2 - \alpha) T}\, z, \qquad
        \theta' = \theta + \sqrt e\, r'

    As an optimizer's learning rate of the log joint density and momentum these are (1 - alpha/2) e and 1 - alpha; see
    `hamiltonian`. Momentum carries the chain 1/alpha steps in one direction: about as far as SGLD gets in 1/alpha^2 at
    the same e, and with the same error in the variances. The noise of the gradients adds to them, (2 - alpha)/alpha
    times as much as to SGLD's, as it is taken for a force; `SGNHT` takes it out.

    Args:
        model: as for all kernels.
        friction: alpha, in (0, 1]; 1 is SGLD. Default 0.1, a momentum of 0.9.
        options: see `StochasticGradientKernel`. After a change of the step size the momentum goes on as it is.

    Raises:
        InputError: an argument out of its range.

    >>> import pyro, pyro.distributions as dist
    >>> kernel = SGHMC(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)), step_size=1e-2, friction=0.2)
    >>> kernel.setup(0)
    >>> kernel.sample(kernel.initial_params)["w"].shape
    torch.Size([])
    """

    def __init__(self, model: Callable[..., Any], *, friction: float = 0.1, **options: Unpack[Options]) -> None:
        super().__init__(model, **options)
        self.friction = _share("friction", friction)

    def _begin(self, chain: Chain, gradient: Tensor) -> dict[str, Tensor]:
        return {"momentum": self._draw_momentum(chain)}

    def _next(
        self, chain: Chain, gradient: Tensor, noise: Tensor, *, step_size: float, temperature: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        after, momentum = hamiltonian(
            chain.position, chain.carried["momentum"], gradient, noise,
            step_size=step_size, friction=self.friction, temperature=temperature,
        )  # fmt: skip
        return after, {"momentum": momentum}


@final
class SGNHT(StochasticGradientKernel):
    r"""SGHMC whose friction takes out the heat of the gradients' noise (Ding et al. 2014, algorithm 2).

    .. math::
        r' = (1 - \zeta)\, r + \Bigl(1 - \frac\zeta2\Bigr) \sqrt e\, g + \sqrt{\alpha (2 - \alpha) T}\, z, \qquad
        \theta' = \theta + \sqrt e\, r', \qquad
        \zeta' = \min\Bigl(\zeta + \kappa \Bigl(\frac1d \sum_i r_i'^2 - T\Bigr),\ 1 + (1 - \alpha)^2\Bigr)

    Where the noise of the gradients is about the same for all parameters and places, the variances come out right
    without a word on how large it is, up to a `noise_ratio` of 4.3 with the default friction, and also what a large
    step adds to them on average is taken out; see `nose_hoover`, also for the bound, and for the step size in other
    conventions (as for `SGHMC`).

    Args:
        model: as for all kernels.
        friction: alpha, of the noise that is injected, and that at which zeta begins, in (0, 1]; the more of it, the
            less of the gradients' can be taken out, and with 1 none. Default 0.1.
        coupling: kappa, in (0, 0.1]. Default 0.01: zeta then follows in some hundred updates, and fluctuates by no more
            than 0.1, which is what it does with a single parameter.
        options: see `StochasticGradientKernel`.

    Raises:
        InputError: an argument out of its range.

    >>> import pyro, pyro.distributions as dist
    >>> kernel = SGNHT(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)), step_size=1e-2)
    >>> kernel.setup(0)
    >>> kernel.sample(kernel.initial_params)["w"].shape
    torch.Size([])
    """

    def __init__(
        self, model: Callable[..., Any], *, friction: float = 0.1, coupling: float = 0.01, **options: Unpack[Options]
    ) -> None:
        super().__init__(model, **options)
        self.friction = _share("friction", friction)
        if not 0 < coupling <= MOST_COUPLING:
            raise InputError("coupling", expected=f"a number in (0, {MOST_COUPLING}]", got=str(coupling))
        self.coupling = coupling

    def _begin(self, chain: Chain, gradient: Tensor) -> dict[str, Tensor]:
        return {"momentum": self._draw_momentum(chain), "friction": gradient.new_full((1,), self.friction)}

    def _next(
        self, chain: Chain, gradient: Tensor, noise: Tensor, *, step_size: float, temperature: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        after, momentum, friction = nose_hoover(
            chain.position, chain.carried["momentum"], chain.carried["friction"], gradient, noise,
            step_size=step_size, diffusion=self.friction, coupling=self.coupling, temperature=temperature,
        )  # fmt: skip
        return after, {"momentum": momentum, "friction": friction}


def _share(name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise InputError(name, expected="a number in (0, 1]", got=str(value))
    return float(value)
