"""Posterior draws as plain tensors (chain, draw, *shape of the site), from a sampler or from a guide.

Everything here goes by what an object can do, not by its class: Pyro's `MCMC` with any kernel, any guide.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor, nn
from tqdm import tqdm

from pyro_bdl.diagnostics.evaluation import is_latent
from pyro_bdl.diagnostics.pointwise import Stack, private_randomness
from pyro_bdl.errors import InputError


def mcmc_draws(mcmc: Any) -> dict[str, Tensor]:
    """The draws of a sampler that has run, each (chain, draw, *shape).

    Args:
        mcmc: a `pyro.infer.MCMC`, or anything with its `get_samples(group_by_chain=True)`.

    Raises:
        InputError: it is no sampler, or has not run yet.
    """
    if not callable(getattr(mcmc, "get_samples", None)):
        raise InputError("posterior", expected="a pyro.infer.MCMC object", got=type(mcmc).__name__)
    if getattr(mcmc, "_samples", ...) is None:
        raise InputError("posterior", expected="an MCMC object that has run", got="one without samples")
    draws = {name: value.detach() for name, value in mcmc.get_samples(group_by_chain=True).items()}
    if not draws:
        raise InputError("posterior", expected="draws of at least one site", got="none")
    return draws


def mcmc_data(mcmc: Any) -> tuple[Any, ...] | None:
    """The positional arguments that the model has for the whole data; None if the sampler had its data in batches.

    A kernel that draws minibatches by itself keeps their source as its attribute `batches`, whose `tensors` are the
    whole data, or None.
    """
    args = tuple(getattr(mcmc, "_args", None) or ())
    batches = getattr(getattr(mcmc, "kernel", None), "batches", None)
    if batches is None:
        return args
    tensors = getattr(batches, "tensors", None)
    return None if tensors is None else (*tensors, *args)


def each_mcmc_draw(draws: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The draws of `mcmc_draws` one after the other, chain after chain."""
    chains, length = next(iter(draws.values())).shape[:2]
    for chain in range(chains):
        for place in range(length):
            yield {name: value[chain, place] for name, value in draws.items()}


def guide_draws(
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Independent draws of a guide's latent sites, each (num_samples, *shape).

    A guide that is wrapped to draw weights where they are used (it keeps the plain guide as its attribute `guide`) is
    unwrapped first: these are ordinary draws of the weights.

    Args:
        guide: any Pyro guide, called as `guide(*args, **kwargs)`.
        args: the guide's arguments, the same as the model's.
        num_samples: how many draws.
        kwargs: the guide's keyword arguments.
        seed: draw with this seed and leave the caller's random state as it was; None: go on from that state.
        progress: show a bar.

    Raises:
        InputError: `num_samples` is not positive, or the guide draws latent variables for a part of the data only.

    >>> import pyro, pyro.distributions as dist
    >>> def guide():
    ...     pyro.sample("w", dist.Delta(torch.ones(2), event_dim=1))
    >>> guide_draws(guide, num_samples=3)["w"].shape
    torch.Size([3, 2])
    """
    draws = each_guide_draw(guide, *args, num_samples=num_samples, kwargs=kwargs, seed=seed)
    stack = Stack()
    for s, draw in enumerate(tqdm(draws, "draws from the guide", total=num_samples, disable=not progress)):
        for name, value in draw.items():
            stack.put(name, value, place=s, length=num_samples)
    return stack.tensors


def each_guide_draw(
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int,
    kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """As `guide_draws`, one after the other, so that they need not all be in memory."""
    if not isinstance(num_samples, int) or num_samples < 1:
        raise InputError("num_samples", expected="a positive integer", got=repr(num_samples))
    guide = plain_guide(guide)
    seeds = None if seed is None else torch.randint(2**62, (num_samples,), generator=_generator(seed)).tolist()
    for s in range(num_samples):
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(poutine.block())
            if seeds is not None:
                stack.enter_context(private_randomness())
                torch.manual_seed(seeds[s])
            trace = poutine.trace(guide).get_trace(*args, **(kwargs or {}))
        draw = {name: _whole(name, site) for name, site in trace.nodes.items() if is_latent(site)}
        if not draw:
            raise InputError("guide", expected="at least one latent sample site", got="none")
        yield draw


def plain_guide(guide: Any) -> Any:
    """The guide itself, out of handlers that wrap it and keep it as their attribute `guide`."""
    while not isinstance(guide, nn.Module) and callable(inner := getattr(guide, "guide", None)):
        guide = inner
    return guide


def sampler_statistics(mcmc: Any, num_draws: int) -> tuple[dict[str, NDArray[Any]], dict[str, list[float]]]:
    """What a kernel tells about its run: per-draw statistics, each (chain, draw), and numbers, one a chain.

    `divergences`, the list of the divergent draws that Pyro's HMC and NUTS keep, becomes the boolean `diverging`. Any
    other numeric diagnostic that has one value a draw is kept under its name, also inside a nested dictionary; one
    with a single value is a number of the chain. A kernel need not have any of them.
    """
    chains = [_flat(chain) for chain in _chain_diagnostics(mcmc)]
    stats: dict[str, NDArray[Any]] = {}
    numbers: dict[str, list[float]] = {}
    for key in [name for name in (chains[0] if chains else {}) if all(name in chain for chain in chains)]:
        name, values = key.strip().replace(" ", "_"), [chain[key] for chain in chains]
        if name == "divergences":
            stats["diverging"] = np.stack([np.isin(np.arange(num_draws), np.asarray(v, dtype=int)) for v in values])
            continue
        arrays = [_numeric(value) for value in values]
        if all(a is not None and a.shape == (num_draws,) for a in arrays):
            stats[name] = np.stack([a for a in arrays if a is not None])
        elif all(a is not None and a.size == 1 for a in arrays):
            numbers[name] = [float(a.item()) for a in arrays if a is not None]
    return stats, numbers


def _generator(seed: int) -> torch.Generator:
    generator = torch.Generator()
    generator.manual_seed(seed)
    return generator


def _whole(name: str, site: Any) -> Tensor:
    for frame in site["cond_indep_stack"]:
        if frame.size != frame.full_size and frame.full_size is not None:
            raise InputError(
                f"the guide's site {name!r}",
                expected=f"draws for all {frame.full_size} elements of plate {frame.name!r}",
                got=f"draws for {frame.size}",
                remedy="Hand the whole data to the guide",
            )
    return site["value"].detach().clone()


def _chain_diagnostics(mcmc: Any) -> list[Mapping[str, Any]]:
    """One dictionary a chain. Pyro's public `diagnostics()` would also compute R-hat of every weight, at length."""
    kept = getattr(mcmc, "_diagnostics", None)
    if isinstance(kept, list) and all(isinstance(chain, Mapping) for chain in kept):
        return kept
    if not callable(getattr(mcmc, "diagnostics", None)):
        return []
    by_name = {key: list(value.values()) for key, value in mcmc.diagnostics().items() if _is_by_chain(value)}
    length = max((len(values) for values in by_name.values()), default=0)
    return [{key: values[i] for key, values in by_name.items() if len(values) == length} for i in range(length)]


def _is_by_chain(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(str(key).startswith("chain") for key in value)


def _flat(chain: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in chain.items():
        flat.update(_flat(value) if isinstance(value, Mapping) else {str(key): value})
    return flat


def _numeric(value: Any) -> NDArray[Any] | None:
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biuf" else None
