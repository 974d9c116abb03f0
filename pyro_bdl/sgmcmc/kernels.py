"""The stochastic-gradient samplers, as kernels for `pyro.infer.MCMC`: each an update equation and its state."""

import math
from collections.abc import Callable
from typing import Any, final

from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Data, Minibatches
from pyro_bdl.sgmcmc.kernel import Init, StochasticGradientKernel
from pyro_bdl.sgmcmc.schedules import Schedule
from pyro_bdl.sgmcmc.updates import langevin


@final
class SGLD(StochasticGradientKernel):
    """Stochastic-gradient Langevin dynamics (Welling & Teh 2011, equation 4), a kernel for `pyro.infer.MCMC`.

    theta_{t+1} = theta_t + e_t/2 (grad log p(theta_t) + N/B sum_{i in batch} grad log p(y_i | theta_t)) + N(0, e_t T)

    in unconstrained space: constrained sites are mapped by `biject_to(support)`, and log |det| of its Jacobian is part
    of the density. There is no accept/reject step, so with a constant step size the draws' law differs from the
    posterior by order e (and by the minibatches' gradient noise, of variance e^2/4 Var(gradient) a step beside e T):
    make e small, or let it decay. With all data in each batch this is the unadjusted Langevin algorithm.

    Batches come from the model's own plate, `pyro.plate("data", N, subsample_size=B)`, or from `data`: the model then
    is called with the batch's tensors, and `pyro.plate("data", size=N, subsample_size=len(x))` gets the scale N/B and
    is told which data points the batch holds.

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

    Raises:
        InputError: an argument out of its range; at `setup`, data or initial values that do not fit.

    The draws' step sizes and log joint densities are in `MCMC.diagnostics()["sample_stats"]`, and after a single chain
    in `sample_stats()`. Draws are bit-identical for the same seed, machine and versions.

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

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        step_size: Schedule | float | None = None,
        temperature: float = 1.0,
        data: Data | Minibatches | None = None,
        batch_size: int | None = None,
        plate: str | None = None,
        init: Init | None = None,
        thinning: int = 1,
    ) -> None:
        super().__init__(
            model, step_size=step_size, data=data, batch_size=batch_size, plate=plate, init=init, thinning=thinning
        )
        if not 0 <= temperature < math.inf:
            raise InputError("temperature", expected="a finite number, at least 0", got=str(temperature))
        self.temperature = temperature

    def _begin(self, position: Tensor) -> None:
        """Langevin dynamics has no state beside the position."""

    def _next(self, position: Tensor, gradient: Tensor, noise: Tensor, step_size: float) -> Tensor:
        return langevin(position, gradient, noise, step_size=step_size, temperature=self.temperature, out=noise)
