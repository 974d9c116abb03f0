"""d-separation says what tests of independence in exact tables say, on random graphs; its way is a ball's way."""

from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest

from pyro_bdl import graph
from pyro_bdl.errors import InputError
from pyro_bdl.graph import separation
from tests.graph.random_nets import dependence, joint, random_graph, random_tables, triples

GRAPHS = 1000
SEPARATED = 1e-12  # the cross products of an independent pair are 0 but for rounding
DEPENDENT = 1e-9


def disagreements(graphs: int, seed: int) -> int:
    """How often d-separation and independence differ, over four random triples a graph.

    Random tables make a dependence vanish with probability 0, and weaker than `DEPENDENT` thrice with less than 1e-12.
    """
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(graphs):
        net = random_graph(rng)
        axis = {name: i for i, name in enumerate(net)}
        chosen = list(triples(list(net)))
        for index in rng.choice(len(chosen), size=4, replace=False):
            a, b, given = chosen[index]
            strongest = 0.0
            for _ in range(3):  # of tables; the first mostly settles it
                if strongest < DEPENDENT:
                    table = joint(net, random_tables(net, rng))
                    strongest = max(strongest, dependence(table, axis[a], axis[b], [axis[c] for c in given]))
            assert strongest < SEPARATED or strongest > DEPENDENT
            wrong += graph.d_separated(net, a, b, given=given) != (strongest < SEPARATED)
    return wrong


def test_agrees_with_independence_on_random_graphs() -> None:
    assert disagreements(GRAPHS, seed=int(np.random.default_rng().integers(2**31))) == 0


def test_agrees_with_networkx_on_all_triples() -> None:
    rng = np.random.default_rng()
    for _ in range(20):
        net = random_graph(rng)
        for a, b, given in triples(list(net)):
            assert graph.d_separated(net, a, b, given=given) == nx.is_d_separator(net, {a}, {b}, set(given))


def without_explaining_away(net: nx.DiGraph, blocked: set[str]) -> list[object]:
    return [(s, t) for s, t in MOVES(net, blocked) if not (s[0] in blocked and s[1] == "from parent")]


def colliders_open(net: nx.DiGraph, blocked: set[str]) -> list[object]:
    return [*MOVES(net, blocked), *(((n, "from parent"), (p, "from child")) for n in net for p in net.predecessors(n))]


def through_what_is_given(net: nx.DiGraph, blocked: set[str]) -> list[object]:
    return [*MOVES(net, blocked), *(((n, "from parent"), (c, "from parent")) for n in net for c in net.successors(n))]


MOVES = separation._moves


@pytest.mark.parametrize("mutant", [without_explaining_away, colliders_open, through_what_is_given])
def test_mutants_are_caught(mutant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separation, "_moves", mutant)
    assert disagreements(60, seed=0) > 0


def test_way_is_along_edges() -> None:
    rng = np.random.default_rng()
    ways = 0
    for _ in range(50):
        net = random_graph(rng)
        for a, b, given in triples(list(net)):
            way = graph.bayes_ball(net, a, b, given=given)
            if way is not None:
                ways += 1
                assert (way[0], way[-1]) == (a, b)
                assert all(net.has_edge(*step) or net.has_edge(*reversed(step)) for step in pairwise(way))
    assert ways > 0


def test_sets_of_names() -> None:
    net = nx.DiGraph([("a", "c"), ("b", "d"), ("c", "e"), ("d", "e")])
    assert graph.d_separated(net, ["a", "c"], ["b", "d"])
    assert not graph.d_separated(net, ["a", "c"], ["b", "d"], given="e")
    assert not graph.d_separated(net, "a", ["b", "e"])


@pytest.mark.parametrize("names", [(0, 1, 2), ((0, 0), (0, 1), (1, 1)), ("a", 1.5, ("b",))])
def test_any_hashable_is_a_name(names: tuple[Any, ...]) -> None:
    first, middle, last = names
    chain = nx.DiGraph([(first, middle), (middle, last)])
    assert not graph.d_separated(chain, first, last)
    assert graph.d_separated(chain, first, last, given=middle)
    assert graph.d_separated(chain, [first], [last], given={middle})
    assert graph.bayes_ball(chain, first, last) == list(names)
    assert graph.markov_blanket(chain, first) == [middle]
    with pytest.raises(InputError, match="a and given: expected different sites"):
        graph.d_separated(chain, [first, middle], last, given=[first, middle])
    with pytest.raises(InputError, match=r"b: expected names among .*, got 7"):
        graph.d_separated(chain, first, 7)


def test_parallel_edges_are_one() -> None:
    net = nx.MultiDiGraph([("a", "b"), ("a", "b"), ("b", "c")])
    assert graph.bayes_ball(net, "a", "c") == ["a", "b", "c"]
    assert graph.factorisation(net) == "p(a) p(b | a) p(c | b)"


@pytest.mark.parametrize(
    ("a", "b", "given", "message"),
    [
        ("jam", "rain", (), r"a: expected names among rain, sprinkler, wet, got 'jam'"),
        ("rain", "sunshine", (), r"b: expected names among .*, got 'sunshine'"),
        ("rain", "sprinkler", ["wet", "dry"], r"given: expected names among .*, got 'dry'"),
        ("rain", "rain", (), r"a and b: expected different sites, got rain in both"),
        ("rain", "sprinkler", ["rain"], r"a and given: expected different sites, got rain in both"),
        ([], "rain", (), r"a: expected at least one name, got none"),
    ],
)
def test_bad_names(a: str, b: str, given: list[str], message: str) -> None:
    net = nx.DiGraph()
    net.add_nodes_from(["rain", "sprinkler", "wet"])
    net.add_edges_from([("rain", "wet"), ("sprinkler", "wet")])
    with pytest.raises(InputError, match=message):
        graph.d_separated(net, a, b, given=given)


def test_bad_graphs() -> None:
    with pytest.raises(InputError, match="no directed cycle, got a → b → a"):
        graph.d_separated(nx.DiGraph([("a", "b"), ("b", "a")]), "a", "b")
    with pytest.raises(InputError, match="no directed cycle, got a → b → a"):
        graph.d_separated(nx.MultiDiGraph([("a", "b"), ("b", "a")]), "a", "b")
    with pytest.raises(InputError, match="undirected"):
        graph.d_separated(nx.Graph([("a", "b")]), "a", "b")
    with pytest.raises(InputError, match="expected a Pyro program"):
        graph.d_separated("rain", "a", "b")  # type: ignore[arg-type]
