"""The graph of a program has every edge that there is, or an error says why it cannot be seen."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.inspect import get_model_relations
from pyro.ops.indexing import Vindex

import pyro_bdl as bdl
from pyro_bdl import graph
from pyro_bdl.errors import InputError, UnsupportedModelError
from tests.graph.random_nets import program, random_graph, random_tables

TABLE = torch.tensor([[0.1, 0.5], [0.6, 0.9]])
SCRIPT = torch.jit.CompilationUnit("""
def half(x: Tensor) -> Tensor:
    found = torch.zeros([2])
    found[0] = x
    return found.mean()
""")

SEEN: dict[str, Callable[[Any, Any], Any]] = {
    "index": lambda a, b: TABLE[a.long(), b],
    "Vindex": lambda a, b: Vindex(TABLE)[a.long(), b],
    "where": lambda a, b: torch.where(a.bool(), torch.where(b.bool(), 0.1, 0.2), 0.3),
    "arithmetic": lambda a, b: 0.2 + 0.3 * a + 0.1 * b,
    "one-hot": lambda a, b: torch.nn.functional.one_hot(b, 2).float() @ TABLE @ torch.stack([a, 1 - a]) / 2,
    "gather": lambda a, b: TABLE.index_select(0, a.long().reshape(1))[0].gather(0, b.reshape(1))[0],
    "deterministic": lambda a, b: pyro.deterministic("d", TABLE[a.long(), b]),
    "delta": lambda a, b: pyro.sample("d", dist.Delta(TABLE[a.long(), b])),
    "tensor": lambda a, b: torch.tensor([[a, 0.5], [b, 0.5]]).mean(),
    "new_tensor": lambda a, b: TABLE.new_tensor([a, b]).mean(),
    "as_tensor": lambda a, b: torch.as_tensor([torch.as_tensor(a), b]).mean(),
    "full": lambda a, b: torch.full((2,), a).mean() * 0.5 * b,
    "TorchScript": lambda a, b: SCRIPT.half(a) + 0.1 * b,
    "vmap": lambda a, b: torch.func.vmap(lambda x: 0.1 * x)(a.expand(3)).sum() + 0.1 * b,
    "vmap around": lambda a, b: torch.func.vmap(lambda x: a * x)(TABLE[0]).sum() + 0.1 * b,
    "grad": lambda a, b: torch.func.grad(lambda x: 0.1 * b * x**2)(a),
}

WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "an element": lambda t, a: t.__setitem__(0, a),
    "an element at an index": lambda t, a: t.__setitem__(a.long(), 0.5),
    "elements of a mask": lambda t, a: t.__setitem__(torch.tensor([True, False]), a),
    "a view": lambda t, a: t.view(2, 1)[1].copy_(a),
    "copy_": lambda t, a: t.copy_(a),
    "fill_": lambda t, a: t.fill_(a),
    "iadd": lambda t, a: t.__iadd__(a),
    "masked_fill_": lambda t, a: t.masked_fill_(a.bool(), 1.0),
    "out": lambda t, a: torch.mul(a, 0.5, out=t[0]),
    "many": lambda t, a: torch._foreach_add_([t], [a.expand(2)]),
    "data": lambda t, a: setattr(t, "data", a.expand(2).clone()),
}

LOST: dict[str, Callable[[Any, Any], Any]] = {
    "if": lambda a, b: torch.tensor(0.1) if a else 0.2 * (b + 1),
    "comparison": lambda a, b: torch.tensor(0.1) if a == 1 else 0.2 * (b + 1),
    "int": lambda a, b: TABLE[int(a), b],
    "float": lambda a, b: float(a) * 0.3 + 0.1 * b,
    "item": lambda a, b: a.item() * 0.3 + 0.1 * b,
    "tolist": lambda a, b: a.tolist() * 0.3 + 0.1 * b,
    "numpy": lambda a, b: torch.as_tensor(TABLE.numpy()[a.long().numpy()])[b],
    "list": lambda a, b: [0.1, 0.2][a.long()] + 0.1 * b,
    "slice": lambda a, b: 0.1 * len(torch.zeros(3)[: a.long()]) + 0.1 * b,
    "number of a list": lambda a, b: torch.Tensor([a, b]).mean(),
    "written sparsely": lambda a, b: torch.eye(2).to_sparse().mul_(a).to_dense().mean() + 0.1 * b,
    "equal": lambda a, b: (0.1 if torch.equal(a, torch.tensor(1.0)) else 0.2) + 0.1 * b,
}


def model_of(rule: Callable[[Any, Any], Any]) -> Callable[[], None]:
    def model() -> None:
        a = pyro.sample("a", dist.Bernoulli(0.3))
        b = pyro.sample("b", dist.Categorical(torch.tensor([0.4, 0.6])))
        pyro.sample("c", dist.Bernoulli(rule(a, b)))

    return model


@pytest.mark.parametrize("rule", SEEN)
def test_edges_are_seen(rule: str) -> None:
    found = graph.of(model_of(SEEN[rule]))
    assert list(found) == ["a", "b", "c"]
    assert set(found.edges) == {("a", "c"), ("b", "c")}


@pytest.mark.parametrize("write", WRITES)
def test_what_is_written_in_place_is_seen(write: str) -> None:
    """In the tensor that is written into, and in a view of it made before."""

    def rule(a: Any, b: Any) -> Any:
        t = torch.zeros(2)
        view = t[:]
        WRITES[write](t, a)
        return 0.2 * (t if write == "data" else view).mean().clamp(0, 1) + 0.1 * b

    assert set(graph.of(model_of(rule)).edges) == {("a", "c"), ("b", "c")}


def test_written_tensors_reach_masks_and_delta_sites() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Bernoulli(0.3))
        mask, mean = torch.tensor(True), torch.zeros(())
        mask.copy_(a.bool())
        mean.copy_(a)
        with poutine.mask(mask=mask):
            pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("c", dist.Normal(pyro.sample("d", dist.Delta(mean)), 1.0))
        pyro.sample("e", dist.Normal(pyro.deterministic("f", mean), 1.0))

    assert set(graph.of(model).edges) == {("a", "b"), ("a", "c"), ("a", "e")}


def test_what_is_written_later_is_no_parent() -> None:
    def model() -> None:
        x = torch.zeros(3)
        for i in range(3):
            x[i] = pyro.sample(f"x{i}", dist.Normal(x[i - 1], 1.0))

    assert set(graph.of(model).edges) == {("x0", "x1"), ("x0", "x2"), ("x1", "x2")}


def test_values_that_share_memory_are_apart() -> None:
    """Columns of one data set, and draws that a distribution writes into: their parents are not their children's."""
    data = torch.randn(5, 2)

    def model() -> None:
        a = pyro.sample("a", dist.Gamma(1.0, 1.0))
        b = pyro.sample("b", dist.Gamma(a, 1.0))
        left = pyro.sample("left", dist.Normal(b, 1.0).expand([5]).to_event(1), obs=data[:, 0])
        pyro.sample("right", dist.Normal(left, 1.0).to_event(1), obs=data[:, 1])

    assert set(graph.of(model).edges) == {("a", "b"), ("b", "left"), ("left", "right")}


def test_computed_observations_are_edges() -> None:
    """As where missing values are latent: the density of x is one of theirs."""

    def model() -> None:
        missing = pyro.sample("missing", dist.Normal(0.0, 1.0))
        x = torch.where(torch.tensor([True, False]), missing, torch.ones(2))
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)

    assert list(graph.of(model).edges) == [("missing", "x")]


def test_shapes_stay_shapes() -> None:
    """`Tensor.new` makes data of a tuple, and a tensor of that shape of a `torch.Size`."""

    def model() -> None:
        a = pyro.sample("a", dist.HalfCauchy(torch.tensor(1.0)))
        assert isinstance(a.shape, torch.Size)
        assert a.new(a.shape).shape == a.shape == ()
        assert pyro.sample("b", dist.Cauchy(a, 1.0)).shape == ()

    assert list(graph.of(model).edges) == [("a", "b")]


def test_sites_of_one_name() -> None:
    def model() -> None:
        pyro.sample("a", dist.Normal(pyro.sample("a", dist.Normal(0.0, 1.0)), 1.0))

    with pytest.raises(InputError, match="two sites 'a'"):
        graph.of(model)


@pytest.mark.parametrize("rule", LOST)
def test_edges_are_not_lost_in_silence(rule: str) -> None:
    with pytest.raises(UnsupportedModelError, match="comes from 'a'"):
        graph.of(model_of(LOST[rule]))


def test_parameters_may_leave_torch() -> None:
    def model() -> None:
        scale = float(pyro.param("scale", torch.tensor(2.0)))
        a = pyro.sample("a", dist.Normal(0.0, scale))
        pyro.sample("b", dist.Normal(a, pyro.param("scale")))

    assert list(graph.of(model).edges) == [("a", "b")]


def test_masks_and_scales_are_edges() -> None:
    """Pyro's own inspection does not see them."""

    def model() -> None:
        a = pyro.sample("a", dist.Bernoulli(0.3))
        with poutine.mask(mask=a.bool()):
            pyro.sample("b", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=1.0 + a):
            pyro.sample("c", dist.Normal(0.0, 1.0))

    assert set(graph.of(model).edges) == {("a", "b"), ("a", "c")}


def test_random_programs_have_their_graphs() -> None:
    rng = np.random.default_rng()
    for _ in range(30):
        net = random_graph(rng)
        found = graph.of(program(net, random_tables(net, rng)))
        assert set(found.edges) == set(net.edges)
        assert set(found) == set(net)


def test_what_pyros_own_inspection_finds_is_there() -> None:
    rng = np.random.default_rng()
    models = {
        "random": (program(net := random_graph(rng), random_tables(net, rng)), ()),
        "rules": (model_of(SEEN["where"]), ()),
        "network": (
            bdl.Classifier(bdl.BayesianModule(torch.nn.Linear(3, 2))),
            (torch.ones(5, 3), torch.zeros(5).long()),
        ),
    }
    for model, args in models.values():
        parents = get_model_relations(model, args)["sample_sample"]
        found = graph.of(model, *args)
        assert {(a, b) for b in found for a in parents[b] if a != b} == set(found.edges)


def test_attributes() -> None:
    def model(x: torch.Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
        with pyro.plate("groups", 2, dim=-2):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("items", 3, dim=-1):
                pyro.sample("x", dist.Normal(mean, rate), obs=x)
        pyro.factor("penalty", -rate)

    found = graph.of(model, torch.zeros(2, 3))
    assert found.nodes["x"] == {
        "observed": True, "factor": False, "distribution": "Normal", "plates": ("groups", "items"),
    }  # fmt: skip
    assert found.nodes["penalty"]["factor"]
    assert not found.nodes["rate"]["observed"]
    assert list(found.predecessors("penalty")) == ["rate"]


def test_conditioned_and_observed_sites_keep_their_edges() -> None:
    model = pyro.condition(model_of(SEEN["index"]), {"c": torch.tensor(1.0), "a": torch.tensor(0.0)})
    found = graph.of(model)
    assert set(found.edges) == {("a", "c"), ("b", "c")}
    assert [node for node, data in found.nodes.items() if data["observed"]] == ["a", "c"]


def test_networks() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    found = graph.of(bdl.Classifier(bdl.BayesianModule(network)), torch.randn(5, 3), torch.zeros(5).long())
    assert set(found.predecessors("y")) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_nothing_is_changed() -> None:
    def model() -> None:
        pyro.param("p", torch.tensor(1.0))
        pyro.sample("a", dist.Normal(0.0, 1.0))

    before = torch.get_rng_state()
    with poutine.trace() as outer:
        graph.of(model)
    assert not outer.trace.nodes
    assert not list(pyro.get_param_store().keys())
    assert torch.equal(before, torch.get_rng_state())


def test_no_sites() -> None:
    with pytest.raises(InputError, match="at least one sample site"):
        graph.of(lambda: None)
