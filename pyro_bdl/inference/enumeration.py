"""Discrete sites of a guide all of whose values are there at once, along a dimension of their own."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.record import Node, sample_sites


def is_enumerated(node: Node) -> bool:
    """Whether the site has all its values at once, along a dimension of their own."""
    return node["infer"].get("_enumerate_dim") is not None


def first_free_dim(model_trace: Any, guide_trace: Any) -> int | None:
    """The dimension left of all those of the sites, for values to enumerate; `None` if the guide asks for none."""
    if not any(node["infer"].get("enumerate") == "parallel" for node in sample_sites(guide_trace)):
        return None
    nodes = [*sample_sites(model_trace), *sample_sites(guide_trace)]
    return -1 - max(len(node["fn"].batch_shape) for node in nodes)


class EnumeratedSite(NamedTuple):
    """The guide's probability of each value of a site, along `dim`; `plates` are the dimensions of its plates."""

    name: str
    weights: Tensor
    dim: int
    plates: set[int]


class Enumeration(NamedTuple):
    """The enumerated sites, in the order in which the guide draws them."""

    sites: tuple[EnumeratedSite, ...]

    @classmethod
    def of(cls, guide_trace: Any) -> "Enumeration | None":
        """That of a guide; `None` where nothing is enumerated.

        Raises:
            UnsupportedModelError: values that are drawn instead; sites that share a dimension.
        """
        nodes = [node for node in sample_sites(guide_trace) if is_enumerated(node)]
        sites = tuple(_enumerated(node) for node in nodes)
        if len({site.dim for site in sites}) < len(sites):
            names = ", ".join(site.name for site in sites)
            raise UnsupportedModelError(
                f"the guide's sites {names}", expected="a dimension for each one's values", got="pyro.markov"
            )
        return cls(sites) if sites else None

    def weights(self, term: Tensor, node: Node) -> Tensor | None:
        """The probability of the values that tell a site's term apart; `None` if none do.

        Of a value whose own probability depends on another, that of the other, too.

        Raises:
            UnsupportedModelError: a site outside of the plates in which the values stand.
        """
        found, shape = None, term.shape
        for site in reversed(self.sites):
            if len(shape) < -site.dim or shape[site.dim] == 1:
                continue
            if not site.plates <= _plates(node):
                raise UnsupportedModelError(
                    f"the site {node['name']}", got="one outside of them",
                    expected=f"a site in the plates of {site.name}, on whose enumerated values it depends",
                )  # fmt: skip
            found = site.weights if found is None else found * site.weights
            shape = torch.broadcast_shapes(shape, site.weights.shape)
        return found


def expected(term: Tensor, node: Node, enumeration: Enumeration | None) -> Tensor:
    """A site's term, times the probability of the values for which it stands; its sum is the expectation.

    The expectation of what no enumerated value tells apart is the term itself.
    """
    weights = None if enumeration is None else enumeration.weights(term, node)
    return term if weights is None else term * weights


def _enumerated(node: Node) -> EnumeratedSite:
    if node["infer"].get("num_samples") is not None:
        raise UnsupportedModelError(
            f"the guide's site {node['name']}", expected="all of its values", got="num_samples of them, drawn",
            remedy="Take pyro.infer.TraceEnum_ELBO",
        )  # fmt: skip
    weights = node["fn"].log_prob(node["value"]).exp()
    return EnumeratedSite(node["name"], weights, node["infer"]["_enumerate_dim"], _plates(node))


def _plates(node: Node) -> set[int]:
    return {frame.dim for frame in node["cond_indep_stack"] if frame.vectorized}
