"""Discrete sites of a guide all of whose values are there at once, along a dimension of their own."""

from typing import Any, NamedTuple

from torch import Tensor

from pyro_bdl.record import Node, sample_sites


def is_enumerated(node: Node) -> bool:
    """Whether the site has all its values at once, along a dimension of their own."""
    return node["infer"].get("_enumerate_dim") is not None


class Enumeration(NamedTuple):
    """The guide's probability of each combination of enumerated values, along dimensions left of all plates."""

    weights: Tensor
    first_dim: int  # the rightmost of these dimensions, counted from the right: -2 next to one plate

    @classmethod
    def of(cls, guide_trace: Any) -> "Enumeration | None":
        """That of a guide; `None` where nothing is enumerated."""
        nodes = [node for node in sample_sites(guide_trace) if is_enumerated(node)]
        if not nodes:
            return None
        log_weights: Any = sum(node["fn"].log_prob(node["value"]) for node in nodes)
        return cls(log_weights.exp(), max(node["infer"]["_enumerate_dim"] for node in nodes))

    def concerns(self, term: Tensor) -> bool:
        """Whether a term is told apart by enumerated values; the expectation of any other is the term itself."""
        return term.dim() >= -self.first_dim


def expected(term: Tensor, enumeration: Enumeration | None) -> Tensor:
    """A term, times the probability of the enumerated values for which it stands; its sum is the expectation."""
    return term if enumeration is None or not enumeration.concerns(term) else term * enumeration.weights
