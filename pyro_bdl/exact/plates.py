"""How many dimensions of a program are plates, and what of it cannot be summed out."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample

from pyro_bdl.errors import UnsupportedModelError


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
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or isinstance(site["fn"], _Subsample):
            continue
        if not site["is_observed"]:
            check(name, site["fn"])
        nesting = max([nesting, *(-frame.dim for frame in site["cond_indep_stack"] if frame.vectorized)])
    return nesting


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
