"""Graphs drawn as the books draw them: observed sites shaded, plates as boxes, factors as small black squares."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypeAlias

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch, PathPatch, Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from pyro_bdl.diagnostics.plots import style
from pyro_bdl.errors import InputError
from pyro_bdl.graph.layout import Box, Layout, layered
from pyro_bdl.graph.names import ModelOrGraph, Name, Names, directed, is_factor, require_names, simple

SHADE = "#C9C9C9"
BENDS = (0.0, 0.25, -0.25, 0.4, -0.4, 0.6, -0.6)  # of an edge, the first that keeps clear of other nodes
CLEAR = 0.62  # from an edge to the centre of another node, in its diameters
INCHES = 0.8  # the diameter of a node
TEXT = 0.18  # the size of names, in diameters of a node

Edge: TypeAlias = tuple[str, str]
Curve: TypeAlias = list[tuple[float, float]]


def draw(
    model: ModelOrGraph | nx.Graph,
    *,
    given: Names = (),
    path: Sequence[Name] = (),
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw the graph of a program, or a graph, as books do (Bishop 2006, section 8.1).

    Sites with data are shaded, plates are boxes with their names, factors small black squares, and parents stand above
    their children. Needs no graphviz.

    Args:
        model: a Pyro program without arguments (`graph.of(model, x)` gives the graph of one with), a
            `networkx.DiGraph`, or an undirected `networkx.Graph`.
        given: sites to shade besides those with data.
        path: a way to be coloured, as `bayes_ball` gives it.
        title: what is to be seen. Default none.
        ax: axes to draw on. Default: those of a new figure of the size that it takes.

    Returns:
        The figure.

    Raises:
        InputError: names that are not in the graph, a directed cycle, or no node at all; and see `of`.

    >>> draw(nx.DiGraph([("rain", "wet"), ("sprinkler", "wet")]), given="wet").savefig("/dev/null", format="png")
    """
    graph = simple(model) if isinstance(model, nx.Graph) and not model.is_directed() else directed(model)
    if not graph:
        raise InputError("the graph", expected="at least one node", got="none")
    shaded = set(require_names(given, graph, what="given"))
    require_names(path, graph, what="path")
    layout = layered(graph) if graph.is_directed() else _around(graph)
    bends = {edge: _bend(edge, layout) for edge in graph.edges}
    left, right, bottom, top = _frame(layout, [_curve(edge, bend, layout) for edge, bend in bends.items()])
    if ax is None:
        ax = style.panels(1, 1, width=INCHES * (right - left), height=INCHES * (top - bottom) + 0.3)[1][0, 0]
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.axis("off")
    for box in layout.boxes:
        _draw_box(ax, box)
    shapes = {node: _draw_node(ax, graph, node, layout, shaded) for node in graph}
    walked = {frozenset(edge) for edge in pairwise(path)}
    for edge, bend in bends.items():
        _draw_edge(ax, graph, edge, bend, layout, shapes, walked=frozenset(edge) in walked)
    if title:
        style.label(ax, title=title)
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _around(graph: nx.Graph) -> Layout:
    """An undirected graph's layout: lengths near those of the shortest paths (Kamada & Kawai 1989)."""
    if len(graph) < 2:
        return Layout(dict.fromkeys(graph, (0.0, 0.0)), [])
    places = nx.kamada_kawai_layout(graph, scale=1.0)
    nearest = min(math.dist(places[a], places[b]) for a in graph for b in graph if a != b)
    return Layout({node: tuple(1.6 * place / max(nearest, 1e-3)) for node, place in places.items()}, [])


def _frame(layout: Layout, curves: Iterable[Curve]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of all that is drawn."""
    points = [point for curve in curves for point in curve]
    xs, ys = zip(*layout.centres.values(), strict=True)
    boxes = layout.boxes
    left = min([*(x - 0.6 for x in xs), *(x - 0.1 for x, _ in points), *(box.left - 0.1 for box in boxes)])
    right = max([*(x + 0.6 for x in xs), *(x + 0.1 for x, _ in points), *(box.right + 0.1 for box in boxes)])
    bottom = min([*(y - 0.6 for y in ys), *(y - 0.1 for _, y in points), *(box.bottom - 0.1 for box in boxes)])
    top = max([*(y + 0.6 for y in ys), *(y + 0.1 for _, y in points), *(box.top + 0.1 for box in boxes)])
    return left, right, bottom, top


def _draw_box(ax: Axes, box: Box) -> None:
    corners = (box.left, box.bottom), box.right - box.left, box.top - box.bottom
    ax.add_patch(
        FancyBboxPatch(*corners, boxstyle="round,pad=0,rounding_size=0.12", fill=False, edgecolor=style.GREY, zorder=1)
    )
    ax.text(box.right - 0.1, box.bottom + 0.08, box.name, ha="right", va="bottom", fontsize=7.5, color=style.GREY)


def _draw_node(ax: Axes, graph: nx.Graph, node: str, layout: Layout, shaded: set[str]) -> Patch:
    x, y = layout.centres[node]
    if is_factor(graph, node):
        return ax.add_patch(Rectangle((x - 0.09, y - 0.09), 0.18, 0.18, color=style.INK, zorder=3))
    is_shaded = node in shaded or graph.nodes[node].get("observed", False)
    circle = Circle((x, y), 0.5, facecolor=SHADE if is_shaded else "white", edgecolor=style.INK, zorder=3)
    _write(ax, x, y, str(node).replace("_", "\n").replace(".", ".\n").split("\n"))
    return ax.add_patch(circle)


def _write(ax: Axes, x: float, y: float, lines: Sequence[str]) -> None:
    """A name into a circle, as a shape, so that it fits however large the axes are."""
    paths = [TextPath((0, 0), line, size=1) for line in lines]
    widest = max((path.get_extents().width for path in paths if len(path.vertices)), default=0.0)
    size = min(TEXT, 0.86 / max(widest, 1e-6))
    for number, path in enumerate(paths):
        if len(path.vertices):
            box = path.get_extents()
            baseline = y + size * (1.15 * (len(paths) - 1) / 2 - 1.15 * number - 0.35)
            move = Affine2D().translate(-(box.x0 + box.x1) / 2, 0).scale(size).translate(x, baseline)
            ax.add_patch(PathPatch(path.transformed(move), color=style.INK, linewidth=0, zorder=4))


def _draw_edge(
    ax: Axes, graph: nx.Graph, edge: Edge, bend: float, layout: Layout, shapes: dict[str, Patch], *, walked: bool
) -> None:
    start, end = edge
    arrow = graph.is_directed() and not is_factor(graph, end)
    ax.add_patch(
        FancyArrowPatch(
            layout.centres[start], layout.centres[end], patchA=shapes[start], patchB=shapes[end], shrinkA=0, shrinkB=0,
            arrowstyle="-|>" if arrow else "-", connectionstyle=f"arc3,rad={bend}", mutation_scale=12,
            color=style.VERMILION if walked else style.INK, linewidth=2 if walked else 1, zorder=2,
        )
    )  # fmt: skip


def _bend(edge: Edge, layout: Layout) -> float:
    """The least bend with which an edge keeps clear of the other nodes; none, if each meets some."""
    others = [place for node, place in layout.centres.items() if node not in edge]
    for bend in BENDS:
        if all(math.dist(point, other) > CLEAR for point in _curve(edge, bend, layout) for other in others):
            return bend
    return 0.0


def _curve(edge: Edge, bend: float, layout: Layout) -> Curve:
    """Points of matplotlib's arc3: a quadratic Bezier curve, its control point off the middle by bend times length."""
    (x0, y0), (x1, y1) = layout.centres[edge[0]], layout.centres[edge[1]]
    xc, yc = (x0 + x1) / 2 + bend * (y1 - y0), (y0 + y1) / 2 - bend * (x1 - x0)
    weights = [((1 - t) ** 2, 2 * t * (1 - t), t * t) for t in (i / 20 for i in range(21))]
    return [(a * x0 + b * xc + c * x1, a * y0 + b * yc + c * y1) for a, b, c in weights]
