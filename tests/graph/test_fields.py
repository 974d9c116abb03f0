"""Markov fields, moral graphs, cliques and factorisations."""

import itertools

import networkx as nx
import numpy as np
import pyro
import pytest
import torch

from models.traffic_jam.field import ring_road
from models.traffic_jam.net import SHORT, traffic_jam
from pyro_bdl import graph
from pyro_bdl.errors import InputError
from tests.graph.random_nets import random_graph, triples


def random_field(rng: np.random.Generator) -> graph.MarkovField:
    """Potentials on random pairs and triples, loops included, of variables with two or three values."""
    sizes = {name: int(rng.integers(2, 4)) for name in "abcde"}
    sets = {("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")}  # a loop without a chord
    sets |= {tuple(rng.choice(list(sizes), size=int(rng.integers(1, 4)), replace=False)) for _ in range(3)}
    tables = {names: torch.as_tensor(rng.gamma(1.0, size=[sizes[str(n)] for n in names])) for names in sets}
    return graph.MarkovField({tuple(map(str, names)): table for names, table in tables.items()})


def table_of(field: graph.MarkovField) -> np.ndarray:
    """The product of the potentials over all values, by numpy alone."""
    axis = {name: i for i, name in enumerate(field.sizes)}
    operands: list[object] = []
    for names, table in field.potentials.items():
        operands += [table.numpy(), [axis[name] for name in names]]
    return np.einsum(*operands, list(axis.values()))


def test_partition_function_and_marginals() -> None:
    rng = np.random.default_rng()
    for _ in range(10):
        field = random_field(rng)
        table = table_of(field)
        assert float(field.log_partition()) == pytest.approx(np.log(table.sum()), abs=1e-10)
        for i, name in enumerate(field.sizes):
            expected = table.sum(tuple(j for j in range(table.ndim) if j != i)) / table.sum()
            assert np.abs(graph.query(field, name).numpy() - expected).max() < 1e-12


def test_ring_road_by_hand() -> None:
    """Z is the trace of the potentials' product round the ring."""
    spread = np.array([[3.0, 1.0], [1.0, 2.0]])
    assert float(ring_road.log_partition().exp()) == pytest.approx(
        np.trace(np.diag([1, 2]) @ np.linalg.matrix_power(spread, 4))
    )


def test_field_is_its_own_moral_graph() -> None:
    rng = np.random.default_rng()
    for _ in range(10):
        field = random_field(rng)
        assert set(map(frozenset, graph.moralise(field).edges)) == set(map(frozenset, field.graph().edges))
        assert graph.cliques(field) == graph.cliques(graph.moralise(field))


def test_separation_in_a_field_is_that_of_paths() -> None:
    """d-separation of the program, whose factors are always given, is graph separation of the field."""
    rng = np.random.default_rng()
    for _ in range(3):
        field = random_field(rng)
        chosen = list(triples(list(field.sizes)))
        for index in rng.choice(len(chosen), size=12, replace=False):
            a, b, given = chosen[index]
            rest = field.graph()
            rest.remove_nodes_from(given)
            assert graph.d_separated(field, a, b, given=given) == (not nx.has_path(rest, a, b))


def test_a_zero_potential() -> None:
    apart = graph.MarkovField({("a", "b"): torch.tensor([[0.0, 1.0], [1.0, 0.0]])})
    assert graph.query(apart, ["a", "b"]).tolist() == [[0.0, 0.5], [0.5, 0.0]]


def test_tables_of_mixed_precision() -> None:
    """The field is in the finest of them."""
    single, double = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([1.0, 3.0]).double()
    field = graph.MarkovField({("a", "b"): single, ("b",): double})
    assert field.log_partition().dtype == torch.float64
    assert float(field.log_partition().exp()) == pytest.approx(12, abs=1e-12)
    assert graph.query(field, "b").tolist() == pytest.approx([0.25, 0.75], abs=1e-12)


def test_a_field_that_allows_nothing() -> None:
    field = graph.MarkovField({("a",): torch.tensor([0.0, 1.0]), ("a", "b"): torch.tensor([[1.0, 1.0], [0.0, 0.0]])})
    with pytest.raises(InputError, match="the model: expected values that are possible together"):
        graph.query(field, "b")


@pytest.mark.parametrize(
    ("potentials", "message"),
    [
        ({}, "potentials: expected at least one"),
        ({("a", "b"): torch.ones(2)}, "the potential of a, b: expected a tuple of different names, an axis each"),
        ({("a", "a"): torch.ones(2, 2)}, "expected a tuple of different names"),
        ({"ab": torch.ones(2, 2)}, "expected a tuple of different names"),
        ({("a",): torch.tensor([1.0, -1.0])}, "expected finite numbers, at least 0"),
        ({("a",): torch.tensor([1.0, torch.nan])}, "expected finite numbers"),
        ({("a",): torch.zeros(2)}, "not all 0"),
        ({("a",): torch.tensor([1, 2])}, "a floating-point tensor, got a tensor of torch.int64"),
        ({("a",): [1.0, 2.0]}, "a floating-point tensor, got a list"),
        ({("a",): torch.ones(2), ("a", "b"): torch.ones(3, 2)}, 'the variable "a": expected 2 values, .* got 3'),
    ],
)
def test_bad_potentials(potentials: dict[tuple[str, ...], torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph.MarkovField(potentials)


def test_moral_graphs_agree_with_networkx() -> None:
    rng = np.random.default_rng()
    for _ in range(30):
        net = random_graph(rng)
        expected = nx.moral_graph(net)
        assert set(map(frozenset, graph.moralise(net).edges)) == set(map(frozenset, expected.edges))


def test_markov_blanket_separates() -> None:
    rng = np.random.default_rng()
    for _ in range(20):
        net = random_graph(rng)
        for site in net:
            blanket = graph.markov_blanket(net, site)
            rest = set(net) - {site, *blanket}
            assert not rest or graph.d_separated(net, site, rest, given=blanket)
            for other in blanket:  # no smaller set does
                without = [name for name in blanket if name != other]
                assert not graph.d_separated(net, site, {*rest, other}, given=without)
    with pytest.raises(InputError, match="site: expected names among"):
        graph.markov_blanket(net, "nobody")


def test_cliques_of_the_traffic_jam() -> None:
    assert [set(clique) for clique in graph.cliques(traffic_jam)] == [
        {"rush_hour", "bad_weather", "accident", "traffic_jam"}, {"accident", "sirens"},
    ]  # fmt: skip


def test_factorisation_of_the_traffic_jam() -> None:
    assert graph.factorisation(traffic_jam, names=SHORT) == "p(r) p(w) p(a | w) p(s | a) p(j | r, w, a)"
    latex = graph.factorisation(traffic_jam, names=SHORT, latex=True)
    assert latex == r"p(r)\, p(w)\, p(a \mid w)\, p(s \mid a)\, p(j \mid r, w, a)"
    assert r"\mathrm{rush\_hour}" in graph.factorisation(traffic_jam, latex=True)
    with pytest.raises(InputError, match=r"names: expected names among .*, got 'jam'"):
        graph.factorisation(traffic_jam, names={"jam": "j"})


def test_factorisation_has_every_edge_once() -> None:
    rng = np.random.default_rng()
    for _ in range(20):
        net = random_graph(rng)
        told = graph.factorisation(net)
        terms = [term.removeprefix("p(").removesuffix(")").partition(" | ") for term in told.split(") ")]
        edges = {(p, node) for node, _, parents in terms for p in parents.rstrip(")").split(", ") if p}
        assert edges == set(net.edges)
        place = {node.rstrip(")"): i for i, (node, _, _) in enumerate(terms)}
        assert all(place[a] < place[b] for a, b in net.edges)


def test_factors_in_factorisations() -> None:
    field = graph.MarkovField({("a", "b"): torch.ones(2, 2)})
    assert graph.factorisation(field) == "p(a) p(b) psi(a, b)"
    assert not list(itertools.chain(pyro.get_param_store()))
