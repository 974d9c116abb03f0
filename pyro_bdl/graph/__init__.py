"""Programs as graphs: what a run of them shows, what the graph says, and exact answers by enumeration."""

from typing import Any

from pyro_bdl.graph.factorisation import factorisation
from pyro_bdl.graph.inspection import of
from pyro_bdl.graph.markov_field import MarkovField
from pyro_bdl.graph.moral import cliques, markov_blanket, moralise
from pyro_bdl.graph.queries import log_evidence, query
from pyro_bdl.graph.separation import bayes_ball, d_separated

__all__ = [
    "MarkovField",
    "bayes_ball",
    "cliques",
    "d_separated",
    "draw",
    "factorisation",
    "log_evidence",
    "markov_blanket",
    "moralise",
    "of",
    "query",
]


def __getattr__(name: str) -> Any:
    """`draw`, for which matplotlib is imported when it is asked for."""
    if name != "draw":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pyro_bdl.graph.drawing import draw

    return draw
