r"""Whether a chain's steps were too large, by what it noted of them.

A step is too large when the variances of the draws are more than `EXCESS` too large, on average over the parameters.
Two records tell, for a normal posterior exactly:

- The kinetic temperature, over T, is by how much they are (see `records.kinetic_temperature`).
- The would-be acceptance of d parameters of the same excess x, so that :math:`e \lambda = 4x/(1+x)`, is that of a log
  ratio with variance :math:`s^2 = 4 d x^3 / (1+x)^2` and mean 0 (the chain is stationary under its own law, so that the
  energy does not drift): :math:`E \min(1, e^{sZ}) = \frac12 + e^{s^2/2}\, \Phi(-s)`. The same mean
  excess in fewer directions, or by gradients' noise, lowers it as much or more.

A chain is judged by `BLOCKS` parts of consecutive draws: it must be too hot in all but two of them. If a part is too
hot with a probability of at most 1/2, as where the excess is at most 10%, and the parts are independent, this happens
with probability 529 / 2^32 = 1.2e-7. No law of the records is assumed, and a bad stretch does not count for more than
a part of the chain.
"""

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_bdl.errors import StepSizeWarning

EXCESS = 0.1  # of variances: deviations are 5% too large
BLOCKS, SPARED = 32, 2


def warn_of_large_steps(
    stats: Mapping[str, Tensor],
    *,
    temperature: float,
    parameters: int,
    every: int,
    thinning: int = 1,
    stacklevel: int = 2,
) -> None:
    """Warn if a chain's records say that its draws are too wide. Fewer than 32 draws, or looks, say nothing.

    Args:
        stats: `sample_stats()`, each (draws,) or, of chains with the same steps, (chains, draws), whose mean is judged.
            Of a chain with a Metropolis test, which has no kinetic temperature, nothing is said.
        temperature: T; at 0 there is nothing to compare with.
        parameters: d.
        every: updates from one look at the acceptance to the next, `Probe.every`.
        thinning: updates per draw.
        stacklevel: as for `warnings.warn`.

    >>> hot = {"kinetic_temperature": torch.full((64,), 1.5), "acceptance": torch.ones(64)}
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     warn_of_large_steps(hot, temperature=1.0, parameters=10, every=50)
    >>> "kinetic temperature of 1.5" in str(told[0].message)
    True
    """
    heat, acceptance = stats["kinetic_temperature"], stats["acceptance"]
    if not temperature or bool(heat.isnan().all()):
        return
    told = []
    blocks = _block_means(_of_all_chains(heat))
    if _nearly_all(blocks > (1 + EXCESS) * temperature):
        told.append(
            f"a kinetic temperature of {float(blocks.median()):.3g}, where {temperature:.3g} is expected: the variances"
            f" of the draws are about {float(blocks.median()) / temperature:.2g} times the posterior's"
        )
    looks = _of_all_chains(acceptance)[:: math.ceil(every / thinning)]
    blocks, least = _block_means(looks), least_acceptance(parameters)
    if _nearly_all(blocks < least):
        told.append(
            f"a would-be acceptance of {float(blocks.median()):.3g}, where at least {least:.3g} is expected of "
            f"{parameters} parameters"
        )
    if told:
        warnings.warn(
            f"The steps of this chain were too large: it had {', and '.join(told)}. Take a smaller step size "
            "(find_step_size seeks one) or larger batches; or it had not arrived yet, and needs a better start or a "
            "longer warm-up",
            StepSizeWarning,
            stacklevel=stacklevel + 1,
        )


def least_acceptance(parameters: int, excess: float = EXCESS) -> float:
    """The would-be acceptance of a chain in so many dimensions whose variances are by so much too large.

    >>> [round(least_acceptance(d), 2) for d in (1, 100, 10_000)]
    [0.98, 0.83, 0.57]
    """
    s = 2 * math.sqrt(parameters * excess**3) / (1 + excess)
    return 0.5 * (1 + float(torch.special.erfcx(torch.tensor(s / math.sqrt(2), dtype=torch.float64))))


def _of_all_chains(values: Tensor) -> Tensor:
    return values if values.dim() == 1 else values.flatten(0, -2).mean(0)


def _block_means(values: Tensor) -> Tensor:
    """The means of `BLOCKS` parts of equal length, the rest at the beginning left out; none for fewer values."""
    length = len(values) // BLOCKS
    return values[len(values) - BLOCKS * length :].reshape(BLOCKS, length).mean(1) if length else values[:0]


def _nearly_all(wrong: Tensor) -> bool:
    """All of the parts but two; a NaN is not wrong."""
    return len(wrong) == BLOCKS and int(wrong.sum()) >= BLOCKS - SPARED
