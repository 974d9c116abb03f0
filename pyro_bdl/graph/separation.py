"""Conditional independence that a directed graph implies: d-separation, by a ball that rolls along the edges."""

from collections.abc import Iterator
from typing import Any, Literal

import networkx as nx

from pyro_bdl.errors import InputError
from pyro_bdl.graph.names import ModelOrGraph, Name, Names, directed, is_factor, require_names

State = tuple[Name, Literal["from child", "from parent"]]


def d_separated(model: ModelOrGraph, a: Names, b: Names, *, given: Names = ()) -> bool:
    r"""Whether the graph implies that a and b are independent given other sites.

    .. math:: a \perp b \mid c \quad \text{for every law that factorises along the graph}

    (Pearl 1988, section 3.3; Bishop 2006, section 8.2.2.) It is not whether a model's own numbers happen to make them
    independent. Only `given` is given: the data of observed sites are not, unless they are named. Factors (see `of`)
    always are, as they have no other values.

    Args:
        model: a Pyro program without arguments (`functools.partial(model, x)` for one with), or a `networkx.DiGraph`.
        a, b: a name or names of sites (in a graph any nodes).
        given: likewise. Default none.

    Raises:
        InputError: a name that is not in the graph; a site in two of a, b and `given`; a graph with a cycle.
        UnsupportedModelError: a program whose graph cannot be seen, see `of`.

    >>> chain = nx.DiGraph([("rain", "wet"), ("wet", "slippery")])
    >>> d_separated(chain, "rain", "slippery"), d_separated(chain, "rain", "slippery", given="wet")
    (False, True)
    """
    return bayes_ball(model, a, b, given=given) is None


def bayes_ball(model: ModelOrGraph, a: Names, b: Names, *, given: Names = ()) -> list[Any] | None:
    """The way of a ball from a to b, one of the shortest, or `None` where none gets through (Shachter 1998).

    The ball passes through a site that is not given: from a parent on to the children, from a child on to parents and
    children. A given site returns it to its parents if it comes from one (it explains away), and stops it else. So the
    way names what makes the two dependent, an observed effect that it bounces off included.

    Args and errors: those of `d_separated`.

    >>> common_effect = nx.DiGraph([("rain", "wet"), ("sprinkler", "wet"), ("wet", "slippery")])
    >>> bayes_ball(common_effect, "rain", "sprinkler") is None
    True
    >>> bayes_ball(common_effect, "rain", "sprinkler", given="slippery")
    ['rain', 'wet', 'slippery', 'wet', 'sprinkler']
    """
    graph = directed(model)
    sources, targets, blocked = _parts(graph, a, b, given)
    blocked |= {node for node in graph if is_factor(graph, node)}
    moves = nx.DiGraph(_moves(graph, blocked))
    moves.add_edges_from(("start", (source, "from child")) for source in sources)
    moves.add_edges_from(((target, way), "end") for target in targets for way in ("from child", "from parent"))
    try:
        path = nx.shortest_path(moves, "start", "end")
    except nx.NetworkXNoPath:
        return None
    return [node for node, _ in path[1:-1]]


def _moves(graph: nx.DiGraph, blocked: set[Name]) -> Iterator[tuple[State, State]]:
    """From each state of the ball, where it is and whence it came, to the next ones."""
    for node in graph:
        up: list[State] = [(parent, "from child") for parent in graph.predecessors(node)]
        down: list[State] = [(child, "from parent") for child in graph.successors(node)]
        if node in blocked:
            yield from (((node, "from parent"), state) for state in up)
        else:
            yield from (((node, "from child"), state) for state in [*up, *down])
            yield from (((node, "from parent"), state) for state in down)


def _parts(graph: nx.DiGraph, a: Names, b: Names, given: Names) -> tuple[set[Name], set[Name], set[Name]]:
    """The three sets, which must be apart."""
    named = {
        what: set(require_names(names, graph, what=what)) for what, names in (("a", a), ("b", b), ("given", given))
    }
    for first, second in (("a", "b"), ("a", "given"), ("b", "given")):
        both = named[first] & named[second]
        if both:
            told = ", ".join(sorted(map(str, both)))
            raise InputError(f"{first} and {second}", expected="different sites", got=f"{told} in both")
    for what in ("a", "b"):
        if not named[what]:
            raise InputError(what, expected="at least one name", got="none")
    return named["a"], named["b"], named["given"]
