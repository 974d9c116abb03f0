"""The largest constant step size at which a kernel's draws are about those of the posterior, found by short runs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel
from pyro_bdl.sgmcmc.kernels import SGHMC
from pyro_bdl.sgmcmc.langevin import Langevin
from pyro_bdl.sgmcmc.probe import Probe

DOUBLINGS = 60  # as far as the search goes from the default, either way
BISECTIONS = 3  # of a factor of 2, which leave one of 2^(1/8), 9%


def find_step_size(
    make: Callable[..., StochasticGradientKernel],
    *args: Any,
    noise_ratio: float = 0.05,
    acceptance: float | None = None,
    updates: int = 200,
    kwargs: Mapping[str, Any] | None = None,
) -> float:
    r"""The largest constant step size at which gradients are quiet and updates would be accepted.

    It is sought on the logarithmic scale, from the kernel's default by doublings or halvings, then by three bisections,
    so that it is found to 9%. Each trial is a new chain from the kernel's own start, with the same random numbers: as
    many updates as `updates` to settle, and as many again, of which every second is looked at (see `sample_stats`). A
    trial of n updates costs 3 n gradients, a search some ten trials.

    What is handed over is how to make the kernel, all but its step size, and not a kernel: a trial then has a chain
    of its own, nothing is left behind, and one line serves for the search and for the run. In stationarity these are
    what the bounds mean, for a normal posterior with precision lambda in some direction:

    - The gradients' noise adds its share of the injected noise to the variances; 5% makes deviations 2.5% too large.
      For `SGHMC` the share is (2 - alpha)/alpha times the recorded `noise_ratio`, as momentum adds up forces. The
      thermostat of `SGNHT` takes the noise out, but its friction grows with it: the bound is on `noise_ratio` itself.
    - The would-be acceptance falls to about :math:`1 - s/\sqrt{2\pi}`, with a variance of the log ratio of
      :math:`s^2 = \sum_i (e \lambda_i)^2 (e \lambda_i + 4 r) / 16`, r the noise_ratio: at 0.98
      no direction has e lambda above 0.4, whatever the number of parameters, and so no deviation more than 5.5% too
      large. Of d parameters with the same curvature the bound is a strict one, e lambda = 0.34/d^(1/3):
      a network may do with 0.8 (its acceptance never goes below 1/2, however large the step). `Langevin` with its test
      is exact for any step; for it the bound is the acceptance that is best, 0.57.

    Args:
        make: called as `make(step_size=e)`, and once with `None`, which is the default; a kernel class with its
            arguments in `functools.partial`, say. Begin near the posterior (`init=`): what is looked at are the updates
            where the chain is.
        args: the model's positional arguments, as for `MCMC.run`.
        noise_ratio: the largest share of the gradients' noise. Default 0.05, 2.5% of a deviation.
        acceptance: the smallest mean would-be acceptance. Default 0.98, at most 5.5% of a deviation; for `Langevin`
            with its test 0.57 (Roberts & Rosenthal 1998).
        updates: of each trial, twice. Default 200, a hundred looks: the mean of 1 - acceptance has an error of 15%,
            the step size of 10%. Enough of them that a chain with the step size found can settle.
        kwargs: the model's keyword arguments.

    Returns:
        e, for `make(step_size=e)`, or as the first of a decaying schedule. The same for the same seed of torch, whose
        generator goes on by one number.

    Raises:
        InputError: bounds or updates out of range, something else than a kernel, a temperature of 0; and what
            `setup` raises.
        NumericalError: no step size between 2^-60 and 2^60 times the default is right, or all of them are.

    >>> import pyro, pyro.distributions as dist
    >>> from functools import partial
    >>> from pyro_bdl.sgmcmc import SGLD
    >>> x, y = torch.randn(100), torch.randn(100)
    >>> def model(x, y):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", size=100, subsample_size=len(x)):
    ...         pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> make = partial(SGLD, model, data=(x, y), batch_size=50)
    >>> kernel = make(step_size=find_step_size(make, updates=50))
    >>> 1e-4 < kernel.schedule(0) < 1e-1
    True
    """
    _check(noise_ratio, acceptance, updates)
    trials = _Trials(make, args, dict(kwargs or {}), updates, int(torch.randint(2**62, ())))
    kernel = trials.begin(None)
    if acceptance is None:
        acceptance = 0.57 if _is_exact(kernel) else 0.98
    bounds = _Look(noise_ratio, acceptance)
    assert kernel.schedule is not None
    low = high = float(kernel.schedule(0))
    if trials.keeps(low, bounds):
        low, high = _bracket(low, 2.0, lambda e: not trials.keeps(e, bounds))
    else:
        high, low = _bracket(high, 0.5, lambda e: trials.keeps(e, bounds))
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if trials.keeps(middle, bounds) else (low, middle)
    return low


@dataclass(frozen=True)
class _Look:
    """Noise and acceptance, seen or wanted."""

    noise_ratio: float
    acceptance: float


@dataclass(frozen=True)
class _Trials:
    """Chains that differ in nothing but the step size."""

    make: Callable[..., StochasticGradientKernel]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    updates: int
    seed: int

    def begin(self, step_size: float | None) -> StochasticGradientKernel:
        """A chain at its start."""
        kernel = self.make(step_size=step_size)
        if not isinstance(kernel, StochasticGradientKernel):
            raise InputError("make", expected="a function that gives a kernel of ours", got=type(kernel).__name__)
        if not kernel.temperature:
            raise InputError("temperature", expected="positive, as the noise of gradients is compared with it", got="0")
        kernel.thinning = 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            kernel.setup(self.updates, *self.args, **self.kwargs)
        return kernel

    def keeps(self, step_size: float, bounds: _Look) -> bool:
        """Whether a chain with this step size keeps within the bounds; one that leaves the finite numbers does not."""
        kernel = self.begin(step_size)
        kernel.chain.probe = Probe(every=2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            try:
                for _ in range(2 * self.updates):
                    kernel.sample(kernel.initial_params)
            except NumericalError:
                return False
            finally:
                kernel.chain.noise.close()
        seen = _seen(kernel)
        return seen.noise_ratio <= bounds.noise_ratio and seen.acceptance >= bounds.acceptance  # NaN is neither


def _seen(kernel: StochasticGradientKernel) -> _Look:
    """What the looks at a chain's updates had on average."""
    stats = kernel.sample_stats()
    accepted = float(stats["acceptance"].mean())
    if _is_exact(kernel):  # all data in each batch, and no look beside the test itself
        return _Look(0.0, accepted)
    gain = (2 - kernel.friction) / kernel.friction if isinstance(kernel, SGHMC) else 1.0
    return _Look(gain * float(stats["noise_ratio"].mean()), accepted)


def _is_exact(kernel: StochasticGradientKernel) -> bool:
    return isinstance(kernel, Langevin) and kernel.metropolis


def _bracket(step_size: float, factor: float, ends: Callable[[float], bool]) -> tuple[float, float]:
    """The last two step sizes on the way to the first at which the search ends."""
    for _ in range(DOUBLINGS):
        if ends(step_size * factor):
            return step_size, step_size * factor
        step_size *= factor
    raise NumericalError(
        f"no step size up to {step_size:.1e} {'is too large' if factor > 1 else 'keeps the bounds'}: look at the noise "
        "and the acceptance of a chain, in its sample_stats, or begin nearer to the posterior"
    )


def _check(noise_ratio: float, acceptance: float | None, updates: int) -> None:
    if not 0 < noise_ratio < math.inf:
        raise InputError("noise_ratio", expected="a positive finite number", got=str(noise_ratio))
    if acceptance is not None and not 0 < acceptance < 1:
        raise InputError("acceptance", expected="a number in (0, 1)", got=str(acceptance))
    if isinstance(updates, bool) or not isinstance(updates, int) or updates < 10:
        raise InputError("updates", expected="an integer, at least 10", got=repr(updates))
