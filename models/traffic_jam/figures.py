"""Figures of the traffic jam: the net, what a ball does on it, and the ring road's field."""

from matplotlib.figure import Figure

import pyro_bdl as bdl
from models.traffic_jam.field import ring_road
from models.traffic_jam.net import traffic_jam
from pyro_bdl.diagnostics.plots import style


def net() -> Figure:
    """The net and its moral graph."""
    figure, axes = style.panels(1, 2, width=3.2, height=3.6)
    bdl.graph.draw(traffic_jam, title="the net: an arrow to each effect", ax=axes[0, 0])
    moral = bdl.graph.moralise(traffic_jam)
    bdl.graph.draw(moral, title="its moral graph: parents married", ax=axes[0, 1])
    style.headline(figure, "The traffic jam")
    return figure


def balls() -> Figure:
    """Rush hour and sirens: independent, until the jam is seen, and again when the accident is known."""
    figure, axes = style.panels(1, 3, width=3.0, height=3.7)
    cases = ((), ("traffic_jam",), ("traffic_jam", "accident"))
    for ax, given in zip(axes[0], cases, strict=True):
        way = bdl.graph.bayes_ball(traffic_jam, "rush_hour", "sirens", given=given)
        told = "nothing given" if not given else f"given {', '.join(given).replace('_', ' ')}"
        title = f"{told}:\n{'independent' if way is None else 'dependent'}"
        bdl.graph.draw(traffic_jam, given=given, path=way or (), title=title, ax=ax)
    style.headline(figure, "Does the ball get from rush hour to sirens?")
    return figure


def field() -> Figure:
    """The ring road, as an undirected graph and by its factors."""
    figure, axes = style.panels(1, 2, width=3.6, height=3.0)
    bdl.graph.draw(ring_road.graph(), title="the field: a pair is a clique", ax=axes[0, 0])
    bdl.graph.draw(ring_road, title="its Pyro program: a square is a factor", ax=axes[0, 1])
    style.headline(figure, "Four towns on a ring road")
    return figure
