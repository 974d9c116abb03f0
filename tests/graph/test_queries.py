"""Enumerated answers are those of the table of all cases, to 1e-6 and better; bad questions are refused."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from models.traffic_jam.net import SHORT, joint_table, traffic_jam
from pyro_bdl import graph
from pyro_bdl.errors import InputError, UnsupportedModelError
from tests.graph.random_nets import joint, program, random_graph, random_tables, triples

NAMES = tuple(SHORT)


def from_table(table: np.ndarray, names: tuple[str, ...], of: tuple[str, ...], given: dict[str, int]) -> np.ndarray:
    part = table[tuple(slice(given[n], given[n] + 1) if n in given else slice(None) for n in names)]
    axes = [names.index(name) for name in of]
    law = (
        part.transpose(*axes, *(i for i in range(len(names)) if i not in axes)).reshape((2,) * len(of) + (-1,)).sum(-1)
    )
    return law / law.sum()


def test_traffic_jam_sums_to_one() -> None:
    assert float(joint_table().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("a", "b", "given"), list(triples(NAMES)))
def test_traffic_jam(a: str, b: str, given: tuple[str, ...]) -> None:
    """Joint laws of two given any others, at all values of those."""
    table = joint_table().numpy()
    for values in np.ndindex((2,) * len(given)):
        told = dict(zip(given, values, strict=True))
        found = graph.query(traffic_jam, [a, b], given={name: float(v) for name, v in told.items()})
        assert np.abs(found.numpy() - from_table(table, NAMES, (a, b), told)).max() < 1e-12


def test_random_nets() -> None:
    rng = np.random.default_rng()
    for _ in range(40):
        net = random_graph(rng)
        tables = random_tables(net, rng)
        model, table, names = program(net, tables), joint(net, tables), tuple(net)
        of, given = names[int(rng.integers(5))], names[int(rng.integers(5))]
        told = {} if of == given else {given: int(rng.integers(2))}
        found = graph.query(model, of, given={name: float(v) for name, v in told.items()})
        assert np.abs(found.numpy() - from_table(table, names, (of,), told)).max() < 1e-12
        evidence = float(graph.log_evidence(model, {name: float(v) for name, v in told.items()}))
        axis = tuple(i for i, name in enumerate(names) if name not in told)
        expected = table.sum(axis)[next(iter(told.values()))] if told else 1.0
        assert evidence == pytest.approx(np.log(expected), abs=1e-10)


def test_a_wrong_table_is_caught() -> None:
    """The mutant: one entry of the jam's table off by 1e-4."""
    table = joint_table().numpy()
    mutant = table.copy()
    mutant[1, 0, 0, :, 1] += 1e-4 * mutant[1, 0, 0, :, :].sum(-1)
    mutant[1, 0, 0, :, 0] -= 1e-4 * mutant[1, 0, 0, :, :].sum(-1)
    found = graph.query(traffic_jam, "rush_hour", given={"traffic_jam": 1.0}).numpy()
    assert np.abs(found - from_table(mutant, NAMES, ("rush_hour",), {"traffic_jam": 1})).max() > 1e-6


def mixture(x: torch.Tensor, weights: torch.Tensor, loc: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@pytest.mark.parametrize("points", [1, 6])
@pytest.mark.parametrize("components", [1, 3])
def test_plates(points: int, components: int) -> None:
    """Of a mixture: the responsibilities of each point; also where Pyro packs axes of length 1 away."""
    x, loc = torch.randn(points).double(), torch.randn(components).double()
    weights = torch.rand(components).double() + 0.1
    weights = weights / weights.sum()
    log = weights.log() + dist.Normal(loc, 1.0).log_prob(x[:, None])
    found = graph.query(lambda: mixture(x, weights, loc), "z")
    assert found.shape == (points, components)
    assert torch.allclose(found, log.softmax(-1), atol=1e-12)
    evidence = graph.log_evidence(lambda: mixture(x, weights, loc))
    assert torch.allclose(evidence, log.logsumexp(-1).sum(), atol=1e-12)


def test_given_values_of_a_plate() -> None:
    x, loc, weights = torch.zeros(2).double(), torch.tensor([0.0, 1.0]).double(), torch.tensor([0.5, 0.5]).double()
    evidence = graph.log_evidence(lambda: mixture(x, weights, loc), {"z": torch.tensor([1, 0])})
    expected = dist.Normal(loc, 1.0).log_prob(torch.tensor(0.0)).sum() + 2 * np.log(0.5)
    assert torch.allclose(evidence, expected)
    with pytest.raises(InputError, match=r'the value of "z": expected shape \(2,\), got shape \(3,\)'):
        graph.log_evidence(lambda: mixture(x, weights, loc), {"z": torch.tensor([1, 0, 1])})


def continuous() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(mean.sigmoid()))
    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.5))


def test_continuous_sites_must_be_given() -> None:
    with pytest.raises(UnsupportedModelError, match='"mean": expected a discrete variable'):
        graph.query(continuous, "z")
    assert graph.query(continuous, "z", given={"mean": 0.0}).tolist() == pytest.approx([0.5, 0.5])


def die() -> None:
    face = pyro.sample("face", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
    pyro.sample("win", dist.Bernoulli(torch.tensor([0.1, 0.5, 0.9])[face]))


@pytest.mark.parametrize("face", [1, 1.0, True, np.int64(1), torch.tensor(1), torch.tensor(1.0)])
def test_values_of_integer_sites(face: Any) -> None:
    assert graph.query(die, "win", given={"face": face}).tolist() == pytest.approx([0.5, 0.5])


def test_values_keep_their_precision() -> None:
    """In single precision, a tenth is more than one deviation away."""
    law = dist.Normal(torch.tensor(0.1, dtype=torch.float64), 1e-9)
    assert torch.allclose(graph.log_evidence(lambda: pyro.sample("x", law), {"x": 0.1}), law.log_prob(law.loc))


BAD: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    **{
        f"a face of {face!r}": (die, "win", {"face": face}, rf'the value of "face": expected a value in .*, got {told}')
        for face, told in [
            (1.9, 1.9),
            (-0.5, -0.5),
            (0.5, 0.5),
            (torch.tensor(0.5), 0.5),
            (3, 3),
            (-1, -1),
            (np.nan, "nan"),
        ]
    },
    "a word": (die, "win", {"face": "one"}, r'the value of "face": expected a number or a tensor, got \'one\''),
    "nothing": (die, "win", {"face": None}, r'the value of "face": expected a number or a tensor, got None'),
    "a ragged list": (die, "win", {"face": [[1], [1, 2]]}, r'the value of "face": expected a number or a tensor'),
    "unknown": (traffic_jam, "jam", {}, r"of: expected names among rush_hour, .*, got 'jam'"),
    "unknown given": (traffic_jam, "sirens", {"jam": 1.0}, r"given: expected names among .*, got 'jam'"),
    "observed": (continuous, "x", {"mean": 0.0}, r"of: expected names among mean, z, got 'x'"),
    "both": (traffic_jam, "sirens", {"sirens": 1.0}, r"of and given: expected different sites, got sirens in both"),
    "outside": (traffic_jam, "sirens", {"accident": 2.0}, r'the value of "accident": expected a value in .*, got 2.0'),
    "nan": (traffic_jam, "sirens", {"accident": float("nan")}, r'the value of "accident": .* got nan'),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_questions(case: str) -> None:
    model, of, given, message = BAD[case]
    with pytest.raises(InputError, match=message):
        graph.query(model, of, given=given)


def test_impossible_values() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Categorical(logits=torch.tensor([0.0, -torch.inf])))
        pyro.sample("b", dist.Bernoulli(torch.tensor([0.5, 0.5])[a]))

    with pytest.raises(InputError, match="possible together"):
        graph.query(model, "b", given={"a": 1})
    assert graph.query(model, "a").tolist() == [1.0, 0.0]


def test_python_branches_are_refused() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Bernoulli(0.5))
        pyro.sample("b", dist.Bernoulli(0.1 if a else 0.2))

    with pytest.raises(UnsupportedModelError, match=r"torch\.where"):
        graph.query(model, "b")


def test_subsampling_is_refused() -> None:
    def model() -> None:
        with pyro.plate("data", 10, subsample_size=5):
            pyro.sample("z", dist.Bernoulli(0.5))

    with pytest.raises(UnsupportedModelError, match='"data": expected all of its 10 elements, got 5'):
        graph.query(model, "z")
