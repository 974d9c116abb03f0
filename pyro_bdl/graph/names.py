"""Graphs and names of nodes, checked once, at the interface."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeAlias

import networkx as nx

from pyro_bdl.errors import InputError
from pyro_bdl.graph.inspection import of

ModelOrGraph: TypeAlias = Callable[..., Any] | nx.DiGraph
Name: TypeAlias = Hashable  # of a site a string; of a graph made by hand, whatever a node may be
Names: TypeAlias = Name | Iterable[Name]


def directed(model: ModelOrGraph) -> nx.DiGraph:
    """The graph of a program without arguments (`functools.partial` gives it some), or the graph, see `simple`.

    Raises:
        InputError: an undirected graph, or one with a cycle; and see `of`.
    """
    if not isinstance(model, nx.Graph):
        return of(model)
    if not model.is_directed():
        raise InputError("the graph", expected="a program or a networkx.DiGraph", got="an undirected graph")
    graph = simple(model)
    try:
        cycle = [edge[0] for edge in nx.find_cycle(graph)]
    except nx.NetworkXNoCycle:
        return graph
    raise InputError("the graph", expected="no directed cycle", got=" → ".join(map(str, [*cycle, cycle[0]])))


def simple(graph: nx.Graph) -> nx.Graph:
    """The graph with parallel edges as one."""
    if not graph.is_multigraph():
        return graph
    return nx.DiGraph(graph) if graph.is_directed() else nx.Graph(graph)


def require_names(names: Names, known: Iterable[Name], *, what: str) -> list[Any]:
    """The names, one or many, as a list without repetition.

    Args:
        names: as they were handed in; a tuple that is a name is one.
        known: those that there are.
        what: whose names they are, for the message.

    Raises:
        InputError: a name that is not known.

    >>> require_names("rain", ["rain", "wet"], what="a")
    ['rain']
    """
    known = list(known)
    if isinstance(names, str) or not isinstance(names, Iterable) or (isinstance(names, tuple) and names in known):
        names = [names]
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(what, expected=f"names among {', '.join(map(str, known))}", got=", ".join(map(repr, unknown)))
    return names


def is_factor(graph: nx.DiGraph, node: str) -> bool:
    """Whether a node is a `pyro.factor`; those of a graph made by hand are none."""
    return bool(graph.nodes[node].get("factor", False))
