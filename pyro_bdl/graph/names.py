"""Graphs and names of nodes, checked once, at the interface."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import networkx as nx

from pyro_bdl.errors import InputError
from pyro_bdl.graph.inspection import of

ModelOrGraph: TypeAlias = Callable[..., Any] | nx.DiGraph


def directed(model: ModelOrGraph) -> nx.DiGraph:
    """The graph of a program without arguments (`functools.partial` gives it some), or the graph itself.

    Raises:
        InputError: an undirected graph, or one with a cycle; and see `of`.
    """
    if not isinstance(model, nx.Graph):
        return of(model)
    if not model.is_directed():
        raise InputError("the graph", expected="a program or a networkx.DiGraph", got="an undirected graph")
    try:
        cycle = [edge[0] for edge in nx.find_cycle(model)]
    except nx.NetworkXNoCycle:
        return model
    raise InputError("the graph", expected="no directed cycle", got=" → ".join(map(str, [*cycle, cycle[0]])))


def require_names(names: str | Iterable[str], known: Iterable[str], *, what: str) -> list[str]:
    """The names, one or many, as a list without repetition.

    Args:
        names: as they were handed in.
        known: those that there are.
        what: whose names they are, for the message.

    Raises:
        InputError: a name that is not known.

    >>> require_names("rain", ["rain", "wet"], what="a")
    ['rain']
    """
    known = list(known)
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(what, expected=f"names among {', '.join(map(str, known))}", got=", ".join(map(repr, unknown)))
    return names


def is_factor(graph: nx.DiGraph, node: str) -> bool:
    """Whether a node is a `pyro.factor`; those of a graph made by hand are none."""
    return bool(graph.nodes[node].get("factor", False))
