"""Where a guide begins."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import MixtureSameFamilyConstraint


def support_of(fn: Any) -> Any:
    """The support of a distribution; of a mixture that of its components, which torch wraps and cannot transform.

    >>> import pyro.distributions as dist
    >>> support_of(dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), 1.0)))
    Real()
    """
    support = fn.support
    if isinstance(support, constraints.independent):
        inner = support_of(fn.base_dist) if hasattr(fn, "base_dist") else support.base_constraint
        return constraints.independent(inner, support.reinterpreted_batch_ndims)
    return support.base_constraint if isinstance(support, MixtureSameFamilyConstraint) else support


def init_to_network(site: dict[str, Any]) -> Tensor:
    """The network's own value of a weight; without one, the centre of the site's support (zero on the real line).

    An initialisation strategy as Pyro's autoguides take it (`init_loc_fn=`). Nothing is drawn, so improper priors are
    welcome; a site with one begins at 1, since 0 is where log-uniform densities are infinite.
    """
    value = site["infer"].get("initial_value")
    if value is not None:
        return value.clone()
    fn = site["fn"]
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if getattr(base, "improper", False):
        return torch.ones(fn.shape())
    like = next((v for v in vars(base).values() if isinstance(v, Tensor) and v.is_floating_point()), torch.zeros(()))
    transform = transform_to(support_of(fn))
    shape = transform.inverse_shape(fn.shape()) if hasattr(transform, "inverse_shape") else fn.shape()
    return transform(torch.zeros(shape, dtype=like.dtype, device=like.device))
