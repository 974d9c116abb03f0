"""What is drawn: every node and edge once, boxes that hold their own nodes alone, arrows that avoid the others."""

from itertools import combinations
from pathlib import Path

import networkx as nx
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from models.traffic_jam.field import ring_road
from models.traffic_jam.net import traffic_jam
from pyro_bdl import graph
from pyro_bdl.diagnostics.plots import style
from pyro_bdl.errors import InputError
from pyro_bdl.graph.drawing import SHADE
from pyro_bdl.graph.layout import layered
from tests.graph.random_nets import random_graph


def answers(y: torch.Tensor) -> None:
    """Plates that cross."""
    students, questions = pyro.plate("students", 4, dim=-2), pyro.plate("questions", 3, dim=-1)
    with students:
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
    with questions:
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    with students, questions:
        pyro.sample("answer", dist.Bernoulli(logits=ability - difficulty), obs=y)


def test_layout_of_random_graphs() -> None:
    rng = np.random.default_rng()
    for _ in range(30):
        net = random_graph(rng, nodes=8)
        centres = layered(net).centres
        assert all(centres[child][1] < centres[parent][1] for parent, child in net.edges)
        assert all(np.hypot(*np.subtract(centres[a], centres[b])) > 1.2 for a, b in combinations(net, 2))


def test_boxes_hold_their_own_alone() -> None:
    found = graph.of(answers, torch.ones(4, 3))
    layout = layered(found)
    assert sorted(box.name for box in layout.boxes) == ["questions", "questions", "students"]
    for box in layout.boxes:
        for node, (x, y) in layout.centres.items():
            inside = box.left < x < box.right and box.bottom < y < box.top
            assert not inside or box.name in found.nodes[node]["plates"]


def test_what_is_drawn() -> None:
    figure = graph.draw(graph.of(answers, torch.ones(4, 3)), given="ability")
    patches = figure.axes[0].patches
    circles = [patch for patch in patches if isinstance(patch, Circle)]
    shaded = [circle for circle in circles if circle.get_facecolor() == pytest.approx(_rgba(SHADE))]
    assert (len(circles), len(shaded)) == (3, 2)
    assert sum(isinstance(patch, FancyArrowPatch) for patch in patches) == 2
    assert sum(isinstance(patch, FancyBboxPatch) for patch in patches) == 3


def _rgba(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour)


def test_the_way_is_coloured() -> None:
    way = graph.bayes_ball(traffic_jam, "rush_hour", "sirens", given="traffic_jam")
    assert way is not None
    figure = graph.draw(traffic_jam, path=way)
    arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    assert sum(arrow.get_edgecolor() == _rgba(style.VERMILION) for arrow in arrows) == len(way) - 1


PARALLEL = nx.MultiDiGraph([("a", "b"), ("a", "b"), ("b", "c")])
GRID = nx.MultiGraph([((0, 0), (0, 1)), ((0, 0), (0, 1)), ((0, 1), (1, 1))])


def test_figures_can_be_written(tmp_path: Path) -> None:
    graphs = (ring_road.graph(), nx.Graph([]), nx.empty_graph(1), PARALLEL, GRID)
    for i, what in enumerate((ring_road, traffic_jam, *graphs)):
        if isinstance(what, nx.Graph) and not what:
            with pytest.raises(InputError, match="at least one node"):
                graph.draw(what)
        else:
            graph.draw(what, title="a title").savefig(tmp_path / f"{i}.png")


def test_bad_names() -> None:
    with pytest.raises(InputError, match="given: expected names among"):
        graph.draw(traffic_jam, given="jam")
    with pytest.raises(InputError, match="path: expected names among"):
        graph.draw(traffic_jam, path=["jam"])
