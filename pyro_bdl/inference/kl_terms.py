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
from pyro_bdl.latent_kl import base_law, closed_form_kl
from pyro_bdl.record import Node, sample_sites


def kl_terms(
    model_trace: Any, guide_trace: Any, *, enumeration: Enumeration | None = None, free_bits: float = 0.0
) -> Iterator[tuple[str, Tensor]]:
    r"""The KL of each latent site of the model, scaled by its plates; one draw's estimate where no rule is known.

    A guide may draw an auxiliary site and hand its values on as Delta sites (Pyro's autoguides do). Where the Delta is
    the auxiliary value itself, the pair is that of a mean field; else log q of the auxiliary site is a term of its own.

    The closed form is the expected log ratio given all other sites, which the prior's parameters must not learn from
    the site itself. A guide that goes from the data up, :math:`q(z_1 | x)\, q(z_2 | z_1)`, where the model comes down,
    :math:`p(z_2)\, p(z_1 | z_2)`, tells :math:`z_2` of :math:`z_1`: the term of :math:`z_1` is then that of its draw.

    Args:
        model_trace: of the model, replayed under `guide_trace`.
        guide_trace: of the guide.
        enumeration: of the guide.
        free_bits: the least that each latent number of a data point counts, in nats, averaged over the batch.
    """
    auxiliary = {node["name"]: node for node in sample_sites(guide_trace) if node["name"] not in model_trace.nodes}
    turned = _turned(model_trace, guide_trace)
    for node in latent(model_trace):
        posterior, drawn = guide_trace.nodes[node["name"]], node["name"] in turned
        if isinstance(base_law(posterior["fn"]), dist.Delta):
            name = next((n for n, other in auxiliary.items() if other["value"] is base_law(posterior["fn"]).v), None)
            posterior = posterior if name is None else auxiliary.pop(name)
        refuse_score_function(posterior)
        if free_bits > 0.0 and node["cond_indep_stack"] and not is_enumerated(posterior):
            yield node["name"], _with_free_bits(node, posterior, enumeration, free_bits, drawn=drawn)
            continue
        kl = expected(log_ratio(node, posterior) if drawn else kl_term(node, posterior), node, enumeration)
        yield node["name"], scale_and_mask(kl, node["scale"], node["mask"]).sum()
    for name, node in auxiliary.items():
        refuse_score_function(node)
        yield name, scale_and_mask(expected(log_prob(node), node, enumeration), node["scale"], node["mask"]).sum()


def latent(trace: Any) -> Iterator[Node]:
    """The sites of a model that its data do not tell."""
    return (node for node in sample_sites(trace) if not node["is_observed"])


def kl_term(node: Node, posterior: Node) -> Tensor:
    """The KL of a latent site, for each of its batch: in closed form, else of the draw."""
    kl = closed_form_kl(posterior["fn"], node["fn"])
    return log_ratio(node, posterior) if kl is None else kl


def log_ratio(node: Node, posterior: Node) -> Tensor:
    """log q - log p of the draw, for each of its batch."""
    return log_prob(posterior) - log_prob(node)


def log_prob(node: Node) -> Tensor:
    """The log density of a site's value, for each of its batch."""
    value, law = node["value"], base_law(node["fn"])
    if isinstance(law, dist.Delta) and law.v is value:
        return law.log_density  # without comparing each element with itself
    return node["fn"].log_prob(value.value() if hasattr(value, "roots") else value)


def refuse_score_function(node: Node) -> None:
    """Refuse a site of the guide through whose draws no gradient passes and whose values are not all enumerated."""
    if not node["fn"].has_rsample and not is_enumerated(node):
        raise UnsupportedModelError(
            f"the guide's site {node['name']}", expected="a reparameterised distribution, or an enumerated one",
            got=f"{type(base_law(node['fn'])).__name__}, through whose draws no gradient passes",
            remedy='Say infer={"enumerate": "parallel"} if it is discrete, or take pyro.infer.Trace_ELBO',
        )  # fmt: skip


def _turned(model_trace: Any, guide_trace: Any) -> set[str]:
    """The sites in a plate that the guide draws before one of the same plate which the model draws before them."""
    place = {name: i for i, name in enumerate(guide_trace.nodes)}
    found: set[str] = set()
    last: dict[Any, int] = {}  # by plate, the place in the guide of what the model had so far
    for node in latent(model_trace):
        own = place[node["name"]]
        for frame in node["cond_indep_stack"]:
            if own < last.get(frame.name, -1):
                found.add(node["name"])
            last[frame.name] = max(own, last.get(frame.name, -1))
    return found


def _with_free_bits(
    node: Node, posterior: Node, enumeration: Enumeration | None, free_bits: float, *, drawn: bool
) -> Tensor:
    """The KL where each latent number, averaged over the batch, counts at least `free_bits`."""
    q, p = base_law(posterior["fn"]), base_law(node["fn"])
    kl = q.log_prob(node["value"]) - p.log_prob(node["value"]) if drawn else closed_form_kl(q, p)
    if kl is None or p.event_shape or node["mask"] is not None:
        raise UnsupportedModelError(
            f"the latent site {node['name']}", expected="a KL in closed form, and no mask, for free bits",
            got=f"{type(q).__name__} and {type(p).__name__}",
        )  # fmt: skip
    event_dim = len(node["fn"].event_shape)
    kl = kl.reshape(*kl.shape[: kl.dim() - event_dim], -1)  # (*batch, numbers)
    weights = None if enumeration is None else enumeration.weights(kl[..., 0], node)
    kl = kl if weights is None else kl * weights.unsqueeze(-1)
    rows = math.prod(frame.size for frame in node["cond_indep_stack"] if frame.vectorized)
    mean = kl.flatten(0, -2).sum(0) / rows
    return torch.as_tensor(node["scale"]) * rows * mean.clamp_min(free_bits).sum()
