"""What the latent sites of a model cost: the terms of a bound other than the likelihood."""

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.inference.enumeration import Enumeration, expected, is_enumerated
from pyro_bdl.record import Node, latent, sample_sites
from pyro_bdl.site_kl import base_law, kl_of_numbers, kl_term, log_prob, turned


def kl_terms(
    model_trace: Any, guide_trace: Any, *, enumeration: Enumeration | None = None, free_bits: float = 0.0
) -> Iterator[tuple[str, Tensor]]:
    r"""The KL of each latent site of the model, scaled by its plates; one draw's estimate where no rule is known.

    A guide may draw an auxiliary site and hand its values on as Delta sites (Pyro's autoguides do). Where the Delta is
    the auxiliary value itself, the pair is that of a mean field; else log q of the auxiliary site is a term of its own.

    Of sites that guide and model draw in another order the term is that of the draw, see `turned`.

    Args:
        model_trace: of the model, replayed under `guide_trace`.
        guide_trace: of the guide.
        enumeration: of the guide.
        free_bits: the least that each latent number of a data point counts, in nats, averaged over the batch.
    """
    auxiliary = {node["name"]: node for node in sample_sites(guide_trace) if node["name"] not in model_trace.nodes}
    only_drawn = turned(model_trace, guide_trace)
    for node in latent(model_trace):
        posterior, drawn = guide_trace.nodes[node["name"]], node["name"] in only_drawn
        if isinstance(base_law(posterior["fn"]), dist.Delta):
            name = next((n for n, other in auxiliary.items() if other["value"] is base_law(posterior["fn"]).v), None)
            posterior = posterior if name is None else auxiliary.pop(name)
        refuse_score_function(posterior)
        if free_bits > 0.0 and node["cond_indep_stack"] and not is_enumerated(posterior):
            yield node["name"], _with_free_bits(node, posterior, enumeration, free_bits, drawn=drawn)
            continue
        kl = expected(kl_term(node, posterior, drawn=drawn), node, enumeration)
        yield node["name"], scale_and_mask(kl, node["scale"], node["mask"]).sum()
    for name, node in auxiliary.items():
        refuse_score_function(node)
        yield name, scale_and_mask(expected(log_prob(node), node, enumeration), node["scale"], node["mask"]).sum()


def refuse_score_function(node: Node) -> None:
    """Refuse a site of the guide through whose draws no gradient passes and whose values are not all enumerated."""
    if not node["fn"].has_rsample and not is_enumerated(node):
        raise UnsupportedModelError(
            f"the guide's site {node['name']}", expected="a reparameterised distribution, or an enumerated one",
            got=f"{type(base_law(node['fn'])).__name__}, through whose draws no gradient passes",
            remedy='Say infer={"enumerate": "parallel"} if it is discrete, or take pyro.infer.Trace_ELBO',
        )  # fmt: skip


def _with_free_bits(
    node: Node, posterior: Node, enumeration: Enumeration | None, free_bits: float, *, drawn: bool
) -> Tensor:
    """The KL where each latent number, averaged over the batch, counts at least `free_bits`."""
    kl = kl_of_numbers(node, posterior, drawn=drawn)
    if kl is None or node["mask"] is not None:
        raise UnsupportedModelError(
            f"the latent site {node['name']}", expected="a KL in closed form, and no mask, for free bits",
            got=f"{type(base_law(posterior['fn'])).__name__} and {type(base_law(node['fn'])).__name__}",
        )  # fmt: skip
    event_dim = len(node["fn"].event_shape)
    kl = kl.reshape(*kl.shape[: kl.dim() - event_dim], -1)  # (*batch, numbers)
    weights = None if enumeration is None else enumeration.weights(kl[..., 0], node)
    kl = kl if weights is None else kl * weights.unsqueeze(-1)
    rows = math.prod(frame.size for frame in node["cond_indep_stack"] if frame.vectorized)
    mean = kl.flatten(0, -2).sum(0) / rows
    return torch.as_tensor(node["scale"]) * rows * mean.clamp_min(free_bits).sum()
