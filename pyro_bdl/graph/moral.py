"""The undirected side: moral graphs, cliques, Markov blankets."""

from itertools import combinations
from typing import Any

import networkx as nx

from pyro_bdl.graph.names import ModelOrGraph, Name, directed, is_factor, require_names


def moralise(model: ModelOrGraph) -> nx.Graph:
    """The moral graph: the parents of each site are married, and the arrows forgotten (Bishop 2006, section 8.3.4).

    A `pyro.factor` marries the sites that it is a function of and is itself no node: of a Markov random field this is
    its own graph.

    Args and errors: those of `factorisation`.

    >>> sorted(map(sorted, moralise(nx.DiGraph([("rain", "wet"), ("sprinkler", "wet")])).edges))
    [['rain', 'sprinkler'], ['rain', 'wet'], ['sprinkler', 'wet']]
    """
    graph = directed(model)
    moral = nx.Graph()
    moral.add_nodes_from((node, data) for node, data in graph.nodes.items() if not is_factor(graph, node))
    for node in graph:
        parents = list(graph.predecessors(node))
        moral.add_edges_from(combinations(parents, 2))
        if node in moral:
            moral.add_edges_from((parent, node) for parent in parents)
    return moral


def cliques(model: ModelOrGraph | nx.Graph) -> list[tuple[str, ...]]:
    """The maximal cliques, of an undirected graph, or of the moral graph of a program or a directed one.

    The density is a product of one potential a maximal clique (Hammersley & Clifford; Bishop 2006, equation 8.39).

    Args and errors: those of `factorisation`; or a `networkx.Graph`.

    Returns:
        Their nodes, in the graph's order.

    >>> cliques(nx.Graph([("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")]))
    [('a', 'b', 'c'), ('c', 'd')]
    """
    graph = model if isinstance(model, nx.Graph) and not model.is_directed() else moralise(model)
    place = {node: i for i, node in enumerate(graph)}
    found = [tuple(sorted(clique, key=place.__getitem__)) for clique in nx.find_cliques(graph)]
    return sorted(found, key=lambda clique: [place[node] for node in clique])


def markov_blanket(model: ModelOrGraph, site: Name) -> list[Any]:
    """The sites that make all others irrelevant to this one: parents, children, their other parents (Pearl 1988).

    Args and errors: those of `factorisation`, and an `InputError` for a name that is not in the graph.

    >>> markov_blanket(nx.DiGraph([("rain", "wet"), ("sprinkler", "wet"), ("wet", "slippery")]), "rain")
    ['sprinkler', 'wet']
    """
    moral = moralise(model)
    return list(moral.neighbors(*require_names(site, moral, what="site")))
