r"""The free energy of a fit, and what it is made of: energy less temperature times entropy.

.. math:: F = E - T S, \qquad E = -E_q[\log p(\theta, y)], \qquad S = -E_q[\log q(\theta)]

At T = 1 F is the negative ELBO, and so never below -log p(y): the lowest F is that of the posterior itself (MacKay
2003, section 33.1). Of two fits with the same F one may fit better (E) and the other leave more open (S).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import biject_to

from pyro_bdl.diagnostics.draws import mcmc_draws, plain_guide, sampler_statistics
from pyro_bdl.diagnostics.entropy import gaussian_entropy, neighbour_entropy
from pyro_bdl.diagnostics.evaluation import is_latent
from pyro_bdl.diagnostics.pointwise import private_randomness
from pyro_bdl.errors import InputError, NumericalError, UnsupportedModelError
from pyro_bdl.log_density import log_density

BLOCKS = 20  # parts of a chain that the errors come from


@dataclass(frozen=True)
class FreeEnergy:
    """F = E - T S in nats, each with its standard error.

    Attributes:
        energy, energy_error: E.
        entropy, entropy_error: S, differential, of theta as the model has it.
        temperature: T.
        free_energy_error: that of F, in which the errors of E and S partly cancel.
    """

    energy: float
    entropy: float
    temperature: float
    energy_error: float
    entropy_error: float
    free_energy_error: float

    @property
    def free_energy(self) -> float:
        """F; at T = 1 the negative ELBO."""
        return self.energy - self.temperature * self.entropy


def free_energy(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    temperature: float = 1.0,
    kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> FreeEnergy:
    """Energy and entropy of a guide.

    E is a mean over draws of the guide. S is the sum of its sites' entropies given the sites before, in closed form
    where the distribution knows it (so it is without an error for mean fields, and for Pyro's Gaussian autoguides but
    for the Jacobians of constrained sites), else the mean of -log q.

    Args:
        model, guide: any Pyro programs; a wrapper that draws weights where they are used is taken off.
        args: arguments of both: all data, or a batch, whose plates' N/B count.
        num_samples: draws of the guide. Default 1000: the errors are 1/30 of the spread of log p(theta, y).
        temperature: T, at least 0.
        kwargs: keyword arguments of both.
        seed: draw with this seed and leave torch's random state as it was; `None`: go on from that state.

    Raises:
        InputError: arguments out of range; a latent site of the model that the guide lacks.
        UnsupportedModelError: a guide without a density, that puts some of the sites at a point (`AutoDelta`): its
            entropy is minus infinity.
        NumericalError: the energy or the entropy is not finite.

    >>> import pyro, pyro.distributions as dist
    >>> model = lambda: pyro.sample("w", dist.Normal(0.0, 1.0))
    >>> found = free_energy(model, model)  # the guide is the posterior, and there are no data: F = -log 1
    >>> abs(found.free_energy) < 0.2, f"{found.entropy:.3f}"
    (True, '1.419')
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 2:
        raise InputError("num_samples", expected="an integer, at least 2", got=repr(num_samples))
    _check_temperature(temperature)
    guide, kwargs = plain_guide(guide), dict(kwargs or {})
    energies, entropies = [], []
    with private_randomness() if seed is not None else nullcontext(), torch.no_grad(), poutine.block():
        if seed is not None:
            torch.manual_seed(seed)
        for _ in range(num_samples):
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
            energies.append(-sum(_log_joint(model_trace, guide_trace)))
            entropies.append(sum(_entropies(model_trace, guide_trace)))
    e, s = torch.tensor(energies, dtype=torch.float64), torch.tensor(entropies, dtype=torch.float64)
    if not (torch.isfinite(e).all() and torch.isfinite(s).all()):
        raise NumericalError(f"the {'entropy' if torch.isfinite(e).all() else 'energy'} of the guide is not finite")
    errors = [float(v.std()) / math.sqrt(num_samples) for v in (e, s, e - temperature * s)]
    return FreeEnergy(float(e.mean()), float(s.mean()), temperature, *errors)


def chain_free_energy(
    mcmc: Any, *, temperature: float | None = None, entropy: Literal["gaussian", "neighbours"] = "gaussian"
) -> FreeEnergy:
    """Energy and entropy of a chain's draws.

    E is the mean of the recorded -lp. S is estimated from the draws, in unconstrained space, and carried over. Errors
    are those of a jackknife over 20 parts of the run, so that they know of the draws' autocorrelation; they do not know
    of what is said here of S itself:

    - `"gaussian"`: that of the normal law with the draws' covariance, `entropy.gaussian_entropy`. Of all laws with that
      covariance it has the largest entropy, so S is an upper bound, and F a lower one, both exact for a normal
      posterior. It needs more draws than parameters, many times as many where they are autocorrelated: few
      effective draws make S too small.
    - `"neighbours"`: for any shape in few dimensions (up to 5, say), `entropy.neighbour_entropy`.

    There is no honest estimate from draws alone where the parameters are more than the draws; for a network take a
    guide's.

    Args:
        mcmc: a `pyro.infer.MCMC` that has run with a kernel of ours, or one with `lp` in its `sample_stats`; or the
            `Chains` of `sample_chains`, of all sites.
        temperature: T. Default: the kernel's.
        entropy: how S is estimated. Default: by a normal law.

    Raises:
        InputError: no records of lp, a temperature out of range, fewer than 40 draws, or not enough for their
            dimension.
        NumericalError: the energy or the entropy is not finite (parameters that are functions of one another).

    >>> import pyro, pyro.distributions as dist
    >>> from pyro.infer import MCMC
    >>> from pyro_bdl.sgmcmc import Langevin
    >>> model = lambda: pyro.sample("w", dist.Normal(0.0, 1.0))
    >>> mcmc = MCMC(Langevin(model, step_size=1.0), num_samples=400, warmup_steps=20, disable_progbar=True)
    >>> mcmc.run()
    >>> abs(chain_free_energy(mcmc).free_energy) < 1.0
    True
    """
    if entropy not in {"gaussian", "neighbours"}:
        raise InputError("entropy", expected="'gaussian' or 'neighbours'", got=repr(entropy))
    kernel = getattr(mcmc, "kernel", None)
    temperature = getattr(kernel, "temperature", 1.0) if temperature is None else temperature
    _check_temperature(temperature)
    sites = mcmc_draws(mcmc)
    chains, draws = next(iter(sites.values())).shape[:2]
    flat, log_det = _unconstrained(sites, getattr(kernel, "transforms", None) or {})
    energy = log_det - _log_joints(mcmc, chains=chains, draws=draws)
    if len(flat) < 2 * BLOCKS:
        raise InputError("mcmc", expected=f"at least {2 * BLOCKS} draws", got=str(len(flat)))
    estimate = gaussian_entropy if entropy == "gaussian" else neighbour_entropy

    def found(rows: Tensor) -> tuple[float, float, float]:
        e, s = float(energy[rows].mean()), estimate(flat[rows]) + float(log_det[rows].mean())
        return e, s, e - temperature * s

    everything = torch.arange(len(flat))
    part = everything * BLOCKS // len(flat)
    values = found(everything)
    if not all(map(math.isfinite, values)):
        raise NumericalError(
            f"the {'entropy' if math.isfinite(values[0]) else 'energy'} of the draws is not finite: parameters that "
            "stand still, or are functions of one another, have no density"
        )
    left_out = torch.tensor([found(everything[part != block]) for block in range(BLOCKS)], dtype=torch.float64)
    errors = ((BLOCKS - 1) * left_out.var(0, correction=0)).sqrt().tolist()
    return FreeEnergy(values[0], values[1], float(temperature), *errors)


def _check_temperature(temperature: float) -> None:
    if not 0 <= temperature < math.inf:
        raise InputError("temperature", expected="a finite number, at least 0", got=str(temperature))


# Guides --------------------------------------------------------------------------------------------------------------


def _log_joint(model_trace: Any, guide_trace: Any) -> Iterator[float]:
    """The terms of log p(theta, y)."""
    for name, node in model_trace.nodes.items():
        if node["type"] != "sample" or type(node["fn"]).__name__ == "_Subsample":
            continue
        if node["is_observed"] and node["infer"].get("_deterministic"):
            continue
        if not node["is_observed"] and name not in guide_trace.nodes:
            raise InputError("the guide", expected=f"a site {name!r}, latent in the model", got="none of that name")
        yield float(log_density(node["fn"], node["value"], scale=node["scale"], mask=node["mask"]))


def _entropies(model_trace: Any, guide_trace: Any) -> Iterator[float]:
    """The terms of the entropy. A Delta site hands on a variable drawn before: its log density is the Jacobian's."""
    drawn = handed_on = 0
    for name, node in guide_trace.nodes.items():
        if not is_latent(node) and not (node["type"] == "sample" and node["infer"].get("is_auxiliary")):
            continue
        fn = node["fn"]
        while hasattr(fn, "base_dist") and type(fn).__name__ == "Independent":
            fn = fn.base_dist
        if isinstance(fn, Delta):
            handed_on += _size(model_trace, name, node["value"])
            term = -node["fn"].log_prob(node["value"])
        else:
            drawn += node["value"].numel() if node["infer"].get("is_auxiliary") else 0
            try:
                term = node["fn"].entropy()
            except NotImplementedError:
                term = -node["fn"].log_prob(node["value"])
        yield float(scale_and_mask(term, node["scale"], node["mask"]).sum())
    if handed_on > drawn:
        raise UnsupportedModelError(
            "the guide", expected="a density over all sites",
            got=f"{handed_on} numbers at points (Delta), of {drawn} auxiliary ones that were drawn",
            remedy="The entropy of a point is minus infinity; look at its energy, the negative log joint density",
        )  # fmt: skip


def _size(model_trace: Any, name: str, value: Tensor) -> int:
    """The number of unconstrained numbers in a site's value."""
    if name not in model_trace.nodes:
        return value.numel()
    return biject_to(model_trace.nodes[name]["fn"].support).inverse_shape(value.shape).numel()


# Chains --------------------------------------------------------------------------------------------------------------


def _unconstrained(draws: Mapping[str, Tensor], transforms: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """All draws, (chains * draws, parameters), float64, and log |det d theta / d u| of each."""
    columns, log_det = [], torch.zeros(0, dtype=torch.float64)
    for name, value in draws.items():
        flat = value.detach().double().flatten(0, 1)
        if name in transforms:
            to_unconstrained = transforms[name]
            u = to_unconstrained(flat)
            jacobian = to_unconstrained.inv.log_abs_det_jacobian(u, flat).reshape(len(flat), -1).sum(1)
            log_det = jacobian if not len(log_det) else log_det + jacobian
            flat = u
        columns.append(flat.reshape(len(flat), -1))
    flat = torch.cat(columns, 1)
    return flat, log_det if len(log_det) else flat.new_zeros(len(flat))


def _log_joints(mcmc: Any, *, chains: int, draws: int) -> Tensor:
    """lp of each draw, in unconstrained space, chain after chain."""
    lp = sampler_statistics(mcmc, draws)[0].get("lp")
    if lp is None or len(lp) != chains:
        raise InputError(
            "mcmc", expected="lp in the sample_stats of its kernel, one for each draw", got="none",
            remedy="Run a kernel of this package",
        )  # fmt: skip
    return torch.from_numpy(lp).double().flatten()
