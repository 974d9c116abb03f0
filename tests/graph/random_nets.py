"""Random Bayes nets of binary variables: their graphs, tables, Pyro programs, and independence tested in the joint."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import networkx as nx
import numpy as np
import pyro
import pyro.distributions as dist
import torch

NODES = 5


def random_graph(rng: np.random.Generator, nodes: int = NODES) -> nx.DiGraph:
    """A graph whose edges each are there with probability a half, in an order that the names do not give away."""
    names = [f"x{i}" for i in rng.permutation(nodes)]
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    density = rng.uniform(0.2, 0.8)
    graph.add_edges_from(pair for pair in itertools.combinations(names, 2) if rng.random() < density)
    return graph


def random_tables(graph: nx.DiGraph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """p(node = 1 | parents) by parents' values, away from 0, 1 and from one another: far from unfaithful."""
    return {node: rng.uniform(0.05, 0.95, size=(2,) * graph.in_degree(node)) for node in graph}


def joint(graph: nx.DiGraph, tables: dict[str, np.ndarray]) -> np.ndarray:
    """The table of all values, an axis a node in the graph's order, factor by factor with numpy alone."""
    axis = {node: i for i, node in enumerate(graph)}
    operands: list[Any] = []
    for node, table in tables.items():
        operands += [
            np.stack([1 - table, table], -1),
            [axis[parent] for parent in graph.predecessors(node)] + [axis[node]],
        ]
    return np.einsum(*operands, list(axis.values()))


def program(graph: nx.DiGraph, tables: dict[str, np.ndarray]) -> Callable[[], None]:
    """The same net in Pyro, in double precision."""
    cpts = {node: torch.as_tensor(table) for node, table in tables.items()}

    def model() -> None:
        values: dict[str, Any] = {}
        for node in nx.topological_sort(graph):
            index = tuple(values[parent] for parent in graph.predecessors(node))
            values[node] = pyro.sample(node, dist.Bernoulli(cpts[node][index] if index else cpts[node])).long()

    return model


def dependence(table: np.ndarray, a: int, b: int, given: Sequence[int]) -> float:
    """The largest |p(a, b, c) p(c) - p(a, c) p(b, c)|, the cross products of a 2 x 2 table, over the values c."""
    rest = [axis for axis in range(table.ndim) if axis not in (a, b, *given)]
    kept = table.transpose(a, b, *given, *rest).reshape(2, 2, 2 ** len(given), -1).sum(-1)
    conditional = kept / kept.sum((0, 1), keepdims=True)
    return float(np.abs(conditional[0, 0] * conditional[1, 1] - conditional[0, 1] * conditional[1, 0]).max())


def triples(names: Sequence[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Every pair with every set of others."""
    for a, b in itertools.combinations(names, 2):
        others = [name for name in names if name not in (a, b)]
        for count in range(len(others) + 1):
            for given in itertools.combinations(others, count):
                yield a, b, given
