"""What a fit refuses, in which words, and that the parameters stay as they were."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.inference.checkpoint import read

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 2


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def classifier(**options: Any) -> Callable[..., Any]:
    return bdl.Classifier(bdl.BayesianModule(network()), **options)


def plain_pyro(family: Callable[[Tensor], Any], *, size: int | None = 40) -> Callable[..., Any]:
    """A model that checks nothing itself."""
    bnn = bdl.BayesianModule(network())

    def model(x: Tensor, y: Tensor | None = None) -> None:
        logits = bnn(x)
        if size is None:
            pyro.sample("y", family(logits).to_event(1), obs=y)
        else:
            with pyro.plate("data", size=size, subsample_size=len(x)):
                pyro.sample("y", family(logits), obs=y)

    return model


def categorical(logits: Tensor) -> Any:
    return dist.Categorical(logits=logits)


def bernoulli(logits: Tensor) -> Any:
    return dist.Bernoulli(logits=logits[:, 0])


def changed(value: Any, data: Tensor = Y) -> Tensor:
    """The data with one bad value, in the last batch if they are not shuffled."""
    data = data.clone()
    data[(-1,) * data.dim()] = value
    return data


def later(*, x: Tensor = X[30:], y: Tensor = Y[30:]) -> list[Any]:
    """Batches of which only the last is bad."""
    return [(X[:10], Y[:10]), (X[10:20], Y[10:20]), (X[20:30], Y[20:30]), (x, y)]


BAD: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "no data": (classifier, (X[:0], Y[:0]), "at least one data point"),
    "no batches": (classifier, [], "at least one batch"),
    "an empty batch": (classifier, later(x=X[:0], y=Y[:0]), "at least one data point"),
    "rank of x": (classifier, (X[:, :, None], Y), "first batch: expected data that the model takes"),
    "width of x": (classifier, (X[:, :2], Y), "first batch: expected data that the model takes"),
    "rank of y": (classifier, (X, Y[:, None]), "labels: expected shape"),
    "lengths": (classifier, (X, Y[:30]), "same first dimension"),
    "label too large": (classifier, (X, changed(2)), r"observations of y: expected values in .*upper_bound=1.* got 2"),
    "negative label": (classifier, (X, changed(-1)), "observations of y: expected values in .* got -1"),
    "labels as floats": (classifier, (X, Y.float()), "labels: expected integers"),
    "NaN in x": (classifier, (changed(math.nan, X), Y), "finite numbers, got nan"),
    "infinity in x": (classifier, (changed(math.inf, X), Y), "finite numbers, got inf"),
    "N of the model": (lambda: classifier(size=41), (X, Y), "expected size=40, the number of data points, got size=41"),
    "N of a list": (lambda: classifier(size=41), later(), "expected size=40, the number of data points, got size=41"),
    "no plate": (lambda: plain_pyro(categorical, size=None), (X, Y), "no plate with a subsample_size"),
    "Bernoulli of 2": (lambda: plain_pyro(bernoulli), (X, changed(2.0, Y.float())), "Boolean.* got 2.0"),
    "rank of y in plain Pyro": (
        lambda: plain_pyro(bernoulli), (X, Y.float()[:, None]), r"of y: expected shape \(10,\), got shape \(10, 1\)",
    ),
    "no observations": (classifier, X, "the model|first batch|the site y"),
    "later NaN in x": (classifier, later(x=changed(math.nan, X[30:])), "finite numbers, got nan"),
    "later label": (classifier, later(y=changed(2, Y[30:])), "observations of y: expected values in .* got 2"),
    "later negative label": (classifier, later(y=changed(-1, Y[30:])), "of y: expected values in .* got -1"),
    "later dtype": (lambda: plain_pyro(categorical), later(y=Y[30:].float()), "a batch: expected .*int64.*float32"),
    "later rank": (classifier, later(x=X[30:, :, None]), "a batch: expected .*rank 2.*rank 3"),
    "later width": (classifier, later(x=X[30:, :2]), "the batch at step 3 of epoch 0: expected data"),
    "later Bernoulli": (
        lambda: plain_pyro(bernoulli),
        [(x, y.float()) for x, y in later(y=changed(2, Y[30:]))],
        "Boolean.* got 2.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["AutoMeanField", "AutoNormal"])
@pytest.mark.parametrize("case", BAD)
def test_bad_data(case: str, kind: str) -> None:
    make, data, message = BAD[case]
    model = make()
    guide: Any = bdl.guides.AutoMeanField(model) if kind == "AutoMeanField" else AutoNormal(model)
    guide(X, Y.float() if "Bernoulli" in case else Y)
    before = [p.detach().clone() for p in guide.parameters()]
    assert before
    options: dict[str, Any] = {"batch_size": 10} if isinstance(data, (tuple, Tensor)) else {}
    with pytest.raises(InputError, match=f"(?s){message}"):
        bdl.fit_svi(model, guide, data, epochs=2, progress=False, **options)
    assert all(torch.equal(p, b) for p, b in zip(guide.parameters(), before, strict=True))


class Failing:
    """A model whose likelihood, or its gradient, becomes NaN at a step."""

    def __init__(self, at: int, *, gradient: bool = False) -> None:
        self.bnn, self.at, self.gradient, self.calls = bdl.BayesianModule(network()), at, gradient, 0
        self.armed = False

    def __call__(self, x: Tensor, y: Tensor | None = None) -> None:
        logits = self.bnn(x)
        if self.armed:
            self.calls += 1
            if self.calls > self.at:
                logits = (logits - logits).sqrt() * 0.0 + logits if self.gradient else logits * math.nan
        with pyro.plate("data", size=40, subsample_size=len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("estimator", ["local", "flipout", "plain"])
@pytest.mark.parametrize("kind", ["AutoMeanField", "AutoNormal"])
def test_nan_at_a_step(kind: str, estimator: Any, gradient: bool, tmp_path: Path) -> None:
    """Stops at once, names site and step; parameters of the step before; the checkpoint of the last good epoch."""
    model = Failing(6, gradient=gradient)  # steps 0 to 3 are epoch 0, step 6 is step 2 of epoch 1
    guide: Any = bdl.guides.AutoMeanField(model) if kind == "AutoMeanField" else AutoNormal(model)
    states: list[list[Tensor]] = []
    live: list[Tensor] = []

    class Recorder(torch.optim.Adam):
        def step(self, closure: Any = None) -> None:
            model.armed = True
            super().step()
            live[:] = [p for g in self.param_groups for p in g["params"]]
            states.append([p.detach().clone() for p in live])

    model.calls = 1  # the first step comes before the recorder arms the model
    path = tmp_path / "fit.safetensors"
    named = "the gradient of" if gradient else "the log-likelihood of y is nan"
    with pytest.raises(NumericalError, match=f"{named}.* at step 2 of epoch 1"):
        bdl.fit_svi(
            model, guide, (X, Y), epochs=3, batch_size=10, estimator=estimator, optimizer=Recorder,
            checkpoint=path, progress=False, seed=1,
        )  # fmt: skip
    assert len(states) == 6
    assert {id(p) for p in live} == {id(p) for p in guide.parameters()}
    assert all(torch.equal(p, s) for p, s in zip(live, states[-1], strict=True))
    tensors, facts = read(path)
    assert len(facts["losses"]) == 1
    assert all(torch.equal(tensors[f"parameter.{i}"], s) for i, s in enumerate(states[3]))


@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e3, 1e10])
@pytest.mark.parametrize("prior", [bdl.priors.Gaussian(), bdl.priors.GroupNormalJeffreys(), bdl.priors.StudentT()])
@pytest.mark.parametrize("estimator", ["local", "flipout", "plain"])
def test_extreme_scales_and_dead_inputs(estimator: Any, prior: Any, scale: float) -> None:
    """Finite numbers, or a typed error that names the site; never a silent NaN."""
    model = bdl.Classifier(bdl.BayesianModule(network(), prior))
    guide = bdl.guides.AutoMeanField(model, init_scale=scale)
    error = ""
    try:
        fit = bdl.fit_svi(model, guide, (X * 0.0, Y), epochs=2, estimator=estimator, progress=False, seed=0)
        assert all(math.isfinite(loss) for loss in fit.losses)
    except NumericalError as raised:
        error = str(raised)
    assert not error or re.search(r"of (0|2)\.(weight|bias)|of y", error)
    assert all(torch.isfinite(p).all() for p in guide.parameters())
