"""The joint density as the product that a graph says it is, in text or LaTeX."""

from collections.abc import Mapping

import networkx as nx

from pyro_bdl.graph.names import ModelOrGraph, directed, is_factor, require_names


def factorisation(model: ModelOrGraph, *, latex: bool = False, names: Mapping[str, str] | None = None) -> str:
    r"""The factors of the joint density, parents before children (Bishop 2006, equation 8.5).

    A `pyro.factor` stands as psi(its sites); the product then is the density but for its normaliser.

    Args:
        model: a Pyro program without arguments, or a `networkx.DiGraph`.
        latex: write LaTeX. Default: plain text.
        names: other names for some of the sites, `{"rush_hour": "r"}`. Default: their own.

    Raises:
        InputError: a graph with a cycle, or a name in `names` that is not in the graph; and see `of`.

    >>> factorisation(nx.DiGraph([("rain", "wet"), ("sprinkler", "wet")]), names={"rain": "r"})
    'p(r) p(sprinkler) p(wet | r, sprinkler)'
    >>> print(factorisation(nx.DiGraph([("bad_weather", "x")]), latex=True))
    p(\mathrm{bad\_weather})\, p(x \mid \mathrm{bad\_weather})
    """
    graph = directed(model)
    require_names(names or (), graph, what="names")
    labels = {node: (names or {}).get(node, str(node)) for node in graph}
    if latex:
        labels = {node: _latex(label) for node, label in labels.items()}
    bar, space = (r" \mid ", r"\, ") if latex else (" | ", " ")
    terms = []
    for node in _in_order(graph):
        parents = ", ".join(labels[parent] for parent in graph.predecessors(node))
        if is_factor(graph, node):
            terms.append(rf"\psi({parents})" if latex else f"psi({parents})")
        else:
            terms.append(f"p({labels[node]}{bar if parents else ''}{parents})")
    return space.join(terms)


def _in_order(graph: nx.DiGraph) -> list[str]:
    """Parents first, else as the graph has them."""
    place = {node: i for i, node in enumerate(graph)}
    return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))


def _latex(label: str) -> str:
    if len(label) == 1 or "\\" in label:
        return label
    escaped = label.replace("_", r"\_")
    return rf"\mathrm{{{escaped}}}"
