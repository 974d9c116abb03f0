"""What a guide enumerates in programs of several plates, and of none: MeanFieldELBO against Pyro's TraceEnum_ELBO."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import plate
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.errors import UnsupportedModelError

ROWS, CLASSES = 4, 3
X = torch.arange(ROWS).double()
LOCS, Q = torch.tensor([-1.0, 0.5, 2.0]).double(), torch.tensor([0.6, 0.3, 0.1]).double()
ALL = {"enumerate": "parallel"}


def uniform(classes: int = CLASSES) -> Any:
    return dist.Categorical(torch.ones(classes).double())


def data() -> Any:
    return plate("data", ROWS, dim=-1)


def observed(name: str, loc: Tensor, value: Tensor) -> None:
    pyro.sample(name, dist.Normal(loc, 1.0), obs=value)


def guide_of_classes(**more: Any) -> None:
    with data():
        pyro.sample("y", dist.Categorical(logits=X[:, None] * Q), infer=ALL | more)


def pixels(count: int) -> Callable[[], None]:
    """A plate of the model's alone, left of all those of the guide."""

    def model() -> None:
        rows = data()
        with rows:
            y = pyro.sample("y", uniform())
        with plate("pixels", count, dim=-2), rows:
            observed("x", LOCS[y], torch.arange(count).double()[:, None] - X)

    return model


def shared_kind() -> None:
    """A class of all data points above that of each, and an observation of its own."""
    k = pyro.sample("k", uniform(2))
    observed("g", k.double(), torch.tensor(2.0).double())
    with data():
        y = pyro.sample("y", dist.Categorical(torch.stack([Q, Q.flip(0)])[k]))
        observed("x", LOCS[y] + k, X)


def guide_of_kinds(*, tied: bool) -> Callable[[], None]:
    def guide() -> None:
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.7, 0.3]).double()), infer=ALL)
        with data():
            pyro.sample("y", dist.Categorical(torch.stack([Q, Q.roll(1)])[k] if tied else Q), infer=ALL)

    return guide


def kind_seen_by_the_class_alone() -> None:
    """The likelihood of y has to be weighed by k, too, where q(y) depends on k."""
    pyro.sample("k", uniform(2))
    with data():
        observed("x", LOCS[pyro.sample("y", uniform())], X)


def two_plates() -> None:
    for name, size in (("a", 4), ("b", 5)):
        with plate(name, size, dim=-1):
            observed(f"x.{name}", LOCS[pyro.sample(f"y.{name}", uniform())], torch.arange(size).double())


def guide_of_two_plates() -> None:
    for name, size in (("a", 4), ("b", 5)):
        with plate(name, size, dim=-1):
            pyro.sample(f"y.{name}", dist.Categorical(Q), infer=ALL)


PROGRAMS: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
    **{f"a plate of {count} left of the classes": (pixels(count), guide_of_classes) for count in (1, 2, CLASSES, 5)},
    "a class of all": (shared_kind, guide_of_kinds(tied=False)),
    "a class given that of all": (shared_kind, guide_of_kinds(tied=True)),
    "a class given that of all, the data not": (kind_seen_by_the_class_alone, guide_of_kinds(tied=True)),
    "two plates": (two_plates, guide_of_two_plates),
}


def pyros_loss(model: Any, guide: Any) -> float:
    with pyro.validation_enabled(False):
        return float(TraceEnum_ELBO(max_plate_nesting=2).loss(model, guide))


@pytest.mark.parametrize("name", PROGRAMS)
def test_equals_pyros_bound(name: str) -> None:
    model, guide = PROGRAMS[name]
    with pyro.validation_enabled(False):
        assert bdl.MeanFieldELBO().loss(model, guide) == pytest.approx(pyros_loss(model, guide), rel=1e-9)


def test_a_batch_that_is_no_plate() -> None:
    """Its KL is not weighed, and the same as where it is an event."""
    losses = []
    for event_dim in (0, 2):

        def program(loc: float, rest: Callable[[], None], event_dim: int = event_dim) -> None:
            pyro.sample("w", dist.Normal(torch.full((CLASSES, ROWS), loc), 1.0).to_event(event_dim))
            rest()

        model, guide = partial(program, 0.0, pixels(1)), partial(program, 1.0, guide_of_classes)
        with pyro.validation_enabled(False):
            losses.append(bdl.MeanFieldELBO().loss(model, guide))
    kl = 0.5 * CLASSES * ROWS
    assert losses == pytest.approx([pyros_loss(pixels(1), guide_of_classes) + kl] * 2)


def test_one_bound_of_several_programs() -> None:
    """The dimension found for one program is not that of the next."""
    elbo = bdl.MeanFieldELBO()
    for model in (pixels(1), kind_seen_by_the_class_alone, pixels(CLASSES)):
        guide = guide_of_kinds(tied=True) if model is kind_seen_by_the_class_alone else guide_of_classes
        assert elbo.loss(model, guide) == pytest.approx(pyros_loss(model, guide), rel=1e-9)


def test_a_program_is_looked_at_once() -> None:
    """From the second step on the programs are run once a step."""
    calls = []

    def model() -> None:
        calls.append(1)
        kind_seen_by_the_class_alone()

    elbo, guide, counts = bdl.MeanFieldELBO(), guide_of_kinds(tied=True), []
    for _ in range(3):
        calls.clear()
        elbo.loss(model, guide)
        counts.append(len(calls))
    assert counts == [2, 1, 1]


def outside_the_plate() -> None:
    with data():
        y = pyro.sample("y", uniform())
    observed("x", LOCS[y], torch.tensor(0.0).double())


def chain() -> None:
    k = pyro.sample("z.0", uniform(2))
    for t in range(1, 4):
        k = pyro.sample(f"z.{t}", dist.Categorical(torch.eye(2).double()[k] + 0.5))


def guide_of_chain() -> None:
    k: Any = 0
    for t in pyro.markov(range(4)):
        k = pyro.sample(f"z.{t}", dist.Categorical(torch.eye(2).double()[k] + 0.5), infer=ALL)


REFUSED: dict[str, tuple[Callable[[], None], Callable[[], None], str]] = {
    "draws": (pixels(1), lambda: guide_of_classes(num_samples=500), "site y: expected all of its values"),
    "a site outside": (outside_the_plate, guide_of_classes, "site x: expected a site in the plates of y"),
    "a chain": (chain, guide_of_chain, "z.3: expected a dimension for each one's values, got pyro.markov"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    model, guide, message = REFUSED[case]
    with pyro.validation_enabled(False), pytest.raises(UnsupportedModelError, match=message):
        bdl.MeanFieldELBO().loss(model, guide)
