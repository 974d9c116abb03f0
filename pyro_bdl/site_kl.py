"""The KL of one latent site: in closed form, or that of its draw."""

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_bdl.record import Node, latent


def closed_form_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p), if there is a rule; that of a Delta would leave out its log density."""
    if isinstance(base_law(q), dist.Delta):
        return None
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def base_law(law: Any) -> Any:
    """The distribution of single numbers."""
    while isinstance(law, dist.Independent):
        law = law.base_dist
    return law


def kl_term(node: Node, posterior: Node, *, drawn: bool) -> Tensor:
    """The KL of a latent site, for each of its batch: in closed form; without a rule, or if `drawn`, of the draw."""
    kl = None if drawn else closed_form_kl(posterior["fn"], node["fn"])
    return log_prob(posterior) - log_prob(node) if kl is None else kl


def kl_of_numbers(node: Node, posterior: Node, *, drawn: bool) -> Tensor | None:
    r"""The KL of each number of a latent site, (\*batch, \*event): in closed form or, if `drawn`, that of the draw.

    `None` where there is no rule, or no law of each number alone.
    """
    q, p = base_law(posterior["fn"]), base_law(node["fn"])
    if q.event_shape or p.event_shape:
        return None
    return q.log_prob(node["value"]) - p.log_prob(node["value"]) if drawn else closed_form_kl(q, p)


def log_prob(node: Node) -> Tensor:
    """The log density of a site's value, for each of its batch."""
    value, law = node["value"], base_law(node["fn"])
    if isinstance(law, dist.Delta) and law.v is value:
        return law.log_density  # without comparing each element with itself
    return node["fn"].log_prob(value.value() if hasattr(value, "roots") else value)


def turned(model_trace: Any, guide_trace: Any) -> set[str]:
    r"""The sites whose prior may have learned from their own draws: only that of the draw is an estimate of their KL.

    The closed form is the expected log ratio given all other sites. A guide that goes from the data up,
    :math:`q(z_1 | x)\, q(z_2 | z_1)`, where the model comes down, :math:`p(z_2)\, p(z_1 | z_2)`, tells :math:`z_2` of
    :math:`z_1`. So it is with each site that the guide draws before one of the same plates, or of fewer, which the
    model draws first; but a later one that the guide marks with `infer={"independent": True}` is told nothing.
    """
    place = {name: i for i, name in enumerate(guide_trace.nodes)}
    found: set[str] = set()
    last: dict[frozenset[str], int] = {}  # by plates, the place in the guide of what the model had so far
    for node in latent(model_trace):
        own = place[node["name"]]
        plates = frozenset(frame.name for frame in node["cond_indep_stack"])
        if any(own < other for outer, other in last.items() if outer <= plates):
            found.add(node["name"])
        if not guide_trace.nodes[node["name"]]["infer"].get("independent"):
            last[plates] = max(own, last.get(plates, -1))
    return found
