"""How many dimensions of a program are plates, and what of it cannot be summed out."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample

from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.record import sample_sites


def plate_nesting(
    model: Callable[..., Any], args: Any, kwargs: Any, *, check: Callable[[str, Any], None] = lambda name, site: None
) -> int:
    """How many dimensions on the right belong to plates, by a run of which nothing outside takes note.

    Args:
        model, args, kwargs: the program.
        check: told each latent site, to refuse it.
    """
    with torch.random.fork_rng(), torch.no_grad(), poutine.block():
        trace: Any = poutine.trace(model).get_trace(*args, **kwargs)
    nesting = 0
    for site in sample_sites(trace):
        if not site["is_observed"]:
            check(site["name"], site["fn"])
        nesting = max([nesting, *(-frame.dim for frame in site["cond_indep_stack"] if frame.vectorized)])
    return nesting


def is_continuous_latent(site: Mapping[str, Any]) -> bool:
    """Whether a sample site is one that cannot be summed out, and has no data."""
    if site["is_observed"] or isinstance(site["fn"], _Subsample):
        return False
    return not getattr(site["fn"], "has_enumerate_support", False)


def require_discrete(name: str, fn: Any) -> None:
    """Refuse a latent site that cannot be enumerated.

    Raises:
        UnsupportedModelError: it cannot.
    """
    if not getattr(fn, "has_enumerate_support", False):
        raise UnsupportedModelError(
            f'the site "{name}"', expected="a discrete variable, to be summed out, or a value for it",
            got=f"a latent {type(fn).__name__}", remedy="Give it a value",
        )  # fmt: skip


def require_whole(name: str, plate: Any) -> None:
    """Refuse a plate that subsamples: the log of a sum, over a part of the data, is no unbiased estimate of the whole.

    Raises:
        UnsupportedModelError: it does.
    """
    if plate.subsample_size is not None and plate.subsample_size < plate.size:
        raise UnsupportedModelError(
            f'the plate "{name}"', expected=f"all of its {plate.size} elements", got=f"{plate.subsample_size} of them"
        )
