"""Where the nodes of a directed graph are drawn: in layers, causes above effects, each plate in columns of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import networkx as nx

SWEEPS = 12  # of ordering and of placing; graphs that can be read settle within a few
COLUMN, LAYER = 1.45, 1.5  # from node to node, in diameters of a node
MARGIN = 0.25  # between the box of a plate and what it holds


@dataclass(frozen=True)
class Box:
    """The box of a plate.

    Attributes:
        name: of the plate.
        left, bottom, right, top: in diameters of a node.
    """

    name: str
    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class Layout:
    """Centres of nodes, of diameter 1, and boxes of plates; y grows upwards."""

    centres: dict[str, tuple[float, float]]
    boxes: list[Box]


def layered(graph: nx.DiGraph) -> Layout:
    """The layout of an acyclic graph.

    A node is one layer below its lowest parent (Sugiyama, Tagawa & Toda 1981); a node without parents just above its
    highest child. The nodes of a plate have columns of their own, so that its box holds nothing else; plates that
    cross are nested in the program's order, and one of them then has several boxes.

    >>> layered(nx.DiGraph([("rain", "wet"), ("sprinkler", "wet")])).centres
    {'rain': (0.0, 0.0), 'wet': (0.725, -1.5), 'sprinkler': (1.45, 0.0)}
    """
    layers = _layers(graph)
    boxes: list[Box] = []
    x = _place(graph, layers, list(graph), (), 0.0, boxes)[0]
    return Layout({node: (x[node], 0.0 - LAYER * layers[node]) for node in graph}, boxes)


def _layers(graph: nx.DiGraph) -> dict[str, int]:
    layers: dict[str, int] = {}
    for node in nx.topological_sort(graph):
        layers[node] = 1 + max((layers[parent] for parent in graph.predecessors(node)), default=-1)
    for node in graph:
        if not graph.in_degree(node) and graph.out_degree(node):
            layers[node] = min(layers[child] for child in graph.successors(node)) - 1
    return layers


def _place(
    graph: nx.DiGraph,
    layers: dict[str, int],
    nodes: Sequence[str],
    outer: tuple[str, ...],
    left: float,
    boxes: list[Box],
) -> tuple[dict[str, float], float]:
    """x of the nodes that stand in the plates `outer`, from `left` on, and where they end."""
    own = [node for node in nodes if _plates(graph, node) == outer]
    x = _columns(graph.subgraph(own), layers, own, left)
    right = max((value + COLUMN for value in x.values()), default=left)
    inner = dict.fromkeys(_plates(graph, node)[len(outer)] for node in nodes if node not in x)
    for plate in inner:
        depth = len(outer)
        members = [n for n in nodes if n not in x and _plates(graph, n)[depth : depth + 1] == (plate,)]
        placed, end = _place(graph, layers, members, (*outer, plate), right + MARGIN, boxes)
        boxes.append(_box(plate, [(placed[node], 0.0 - LAYER * layers[node]) for node in members], boxes))
        x, right = x | placed, end + MARGIN
    return x, right


def _box(plate: str, centres: Sequence[tuple[float, float]], inner: Sequence[Box]) -> Box:
    """Around its nodes and the boxes within them; room for its name below."""
    xs, ys = zip(*centres, strict=True)
    left, right, bottom, top = min(xs) - 0.5, max(xs) + 0.5, min(ys) - 0.5, max(ys) + 0.5
    for box in inner:
        if left - MARGIN <= box.left + MARGIN and box.right - MARGIN <= right + MARGIN:
            left, right = min(left, box.left), max(right, box.right)
            bottom, top = min(bottom, box.bottom), max(top, box.top)
    return Box(plate, left - MARGIN, bottom - 1.6 * MARGIN, right + MARGIN, top + MARGIN)


def _columns(graph: nx.DiGraph, layers: dict[str, int], nodes: Sequence[str], left: float) -> dict[str, float]:
    """x of nodes without plates among them: ordered by where their neighbours are, and pulled towards those."""
    rows: dict[int, list[str]] = {}
    for node in nodes:
        rows.setdefault(layers[node], []).append(node)
    x = {node: COLUMN * i for row in rows.values() for i, node in enumerate(row)}
    neighbours: list[Callable[[str], Sequence[str]]] = [
        lambda node: list(graph.predecessors(node)), lambda node: list(graph.successors(node))
    ]  # fmt: skip
    for sweep in range(SWEEPS):
        ways = neighbours if sweep < SWEEPS - 1 else [lambda node: list(nx.all_neighbors(graph, node))]
        for side, way in enumerate(ways):
            for layer in sorted(rows, reverse=bool(side)):
                _settle(rows[layer], x, way)
    start = min(x.values(), default=0.0)
    return {node: round(x[node] - start + left, 6) for node in nodes}


def _settle(row: list[str], x: dict[str, float], neighbours: Callable[[str], Sequence[str]]) -> None:
    """Order one layer by the means of its nodes' neighbours and set it apart around them."""
    wanted = {}
    for node in row:
        places = [x[other] for other in neighbours(node)]
        wanted[node] = sum(places) / len(places) if places else x[node]
    row.sort(key=wanted.__getitem__)
    end = -float("inf")
    for node in row:
        x[node] = end = max(wanted[node], end + COLUMN)
    shift = sum(wanted[node] - x[node] for node in row) / len(row)
    for node in row:
        x[node] += shift


def _plates(graph: nx.DiGraph, node: str) -> tuple[str, ...]:
    return tuple(graph.nodes[node].get("plates", ()))
