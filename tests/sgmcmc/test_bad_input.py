"""What is refused, in which words, and that the parameters stay as they were."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import MCMC
from torch import Tensor

from pyro_bdl.errors import BDLError, ImproperPriorError, InputError, NumericalError, UnsupportedModelError
from pyro_bdl.sgmcmc import SGLD, require_proper_priors
from tests.fresh_state import fresh_state  # noqa: F401

X, Y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def classifier(x: Tensor, y: Tensor, *, size: int = 8) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    with pyro.plate("data", size=size, subsample_size=len(x)):
        pyro.sample("y", dist.Categorical(logits=x @ w), obs=y)


def kernel(**options: Any) -> SGLD:
    return SGLD(classifier, **({"data": (X, Y), "batch_size": 4} | options))


BAD_ARGUMENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "model": (lambda: SGLD(3), "a Pyro program"),  # type: ignore[arg-type]
    "step size zero": (lambda: kernel(step_size=0.0), "step_size: expected a positive"),
    "step size NaN": (lambda: kernel(step_size=math.nan), "step_size: expected a positive"),
    "temperature": (lambda: kernel(temperature=-1.0), "temperature: expected"),
    "thinning": (lambda: kernel(thinning=0), "thinning: expected at least 1, got 0"),
    "batch size": (lambda: kernel(batch_size=0), "batch_size: expected at least 1"),
    "batch size without data": (lambda: SGLD(classifier, batch_size=3), "batch_size: expected data"),
    "empty data": (lambda: kernel(data=(X[:0], Y[:0])), "at least one data point"),
    "NaN in the data": (lambda: kernel(data=(X.clone().fill_(math.nan), Y)), "finite numbers, got nan"),
    "lengths": (lambda: kernel(data=(X, Y[:5])), "the same first dimension"),
    "init": (lambda: kernel(init=3.0), "init: expected"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(case: str) -> None:
    make, message = BAD_ARGUMENTS[case]
    with pytest.raises(InputError, match=message):
        make()


def mis_sized(x: Tensor, y: Tensor) -> None:
    classifier(x, y, size=9)


def without_plate(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    pyro.sample("y", dist.Categorical(logits=x @ w).to_event(1), obs=y)


def column(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2, 1), 1.0).to_event(2))
    with pyro.plate("data", size=8, subsample_size=len(x)):
        pyro.sample("y", dist.Normal((x @ w).squeeze(-1), 1.0), obs=y.float()[:, None])


def negative_scale(x: Tensor, y: Tensor) -> None:
    pyro.sample("w", dist.Normal(torch.zeros(2), -1.0).to_event(1))


BAD_SETUPS: dict[str, tuple[Callable[[], SGLD], str]] = {
    "plate of another size": (lambda: SGLD(mis_sized, data=(X, Y), batch_size=4), "size=8, .* got size=9"),
    "no plate": (lambda: SGLD(without_plate, data=(X, Y), batch_size=4), "size=8, subsample_size=4"),
    "label out of range": (lambda: kernel(data=(X, Y.clone().fill_(3))), 'values of "y": expected .* got 3'),
    "negative label": (lambda: kernel(data=(X, Y.clone().fill_(-1))), 'values of "y": expected .* got -1'),
    "label of wrong dtype": (lambda: kernel(data=(X, Y + 0.5)), 'values of "y": expected'),
    "labels in a column": (lambda: SGLD(column, data=(X, Y)), r"shape \(8,\), got shape \(8, 1\)"),
    "input of wrong rank": (lambda: kernel(data=(X[:, None, :].expand(8, 5, 2), Y)), "y"),
    "bad numbers in the model": (lambda: SGLD(negative_scale, data=(X, Y)), "scale"),
    "init of wrong shape": (lambda: kernel(init={"w": torch.zeros(3, 2)}), r"shape \(2, 3\), got shape \(3, 2\)"),
    "init with NaN": (lambda: kernel(init={"w": torch.full((2, 3), math.nan)}), 'value of "w": expected finite'),
    "init that lacks a site": (lambda: kernel(init={}), 'a value for the site "w"'),
    "init for another site": (lambda: kernel(init={"w": torch.zeros(2, 3), "v": torch.zeros(1)}), "one for .'v'."),
    "init of integers": (lambda: kernel(init={"w": torch.zeros(2, 3).long()}), "floating-point"),
    "init outside the support": (
        lambda: SGLD(lambda: pyro.sample("s", dist.HalfNormal(1.0)), init={"s": torch.tensor(-1.0)}),
        'value of "s"',
    ),
    "init at the edge of the support": (
        lambda: SGLD(lambda: pyro.sample("s", dist.HalfNormal(1.0)), init={"s": torch.tensor(0.0)}),
        'value of "s"',
    ),
}


@pytest.mark.parametrize("case", BAD_SETUPS)
def test_bad_data_and_models(case: str) -> None:
    make, message = BAD_SETUPS[case]
    with pytest.raises(InputError, match=message):
        make().setup(0)


def test_bad_initial_params() -> None:
    bad = kernel()
    bad.initial_params = {"w": torch.zeros(6)}
    with pytest.raises(InputError, match='unconstrained values of "w"'):
        bad.setup(0)
    good = kernel()
    good.setup(0)
    before = good.state
    with pytest.raises(InputError, match='unconstrained values of "w"'):
        good.sample({"w": torch.full((2, 3), math.nan)})
    assert good.state["w"].equal(before["w"])


def test_sampling_before_setup() -> None:
    with pytest.raises(InputError, match="setup"):
        kernel().sample({})


def test_a_bad_batch_in_the_middle_of_an_epoch_leaves_the_parameters() -> None:
    batches = [(X[:4], Y[:4]), (X[4:], torch.tensor([0, 1, 7, 0]))]
    chain = SGLD(classifier, data=batches, step_size=1e-3)
    chain.setup(0)
    params = chain.sample(chain.initial_params)
    with pytest.raises(InputError, match=r'values of "y": expected .* got 7'):
        chain.sample(params)
    assert chain.state["w"].equal(params["w"])


def test_a_bad_batch_of_a_later_epoch_is_named_too() -> None:
    """After the first epoch batches are not checked any more, until one fails."""
    labels = Y.clone()
    chain = kernel(data=[(X, labels)], batch_size=None, step_size=1e-3)
    chain.setup(0)
    params = chain.sample(chain.sample(chain.initial_params))
    labels[3] = 9
    with pytest.raises(InputError, match=r'values of "y": expected .* got 9'):
        chain.sample(params)


def local(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", size=8, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y.float())


def without_gradient(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    with pyro.plate("data", size=8, subsample_size=len(x)):
        pyro.sample("y", dist.Categorical(logits=x @ w.detach()), obs=y)


def moving_support(x: Tensor, y: Tensor) -> None:
    top = pyro.sample("top", dist.HalfNormal(1.0))
    pyro.sample("w", dist.Uniform(0.0, top))


def changing_sites() -> Callable[[Tensor, Tensor], None]:
    calls = []

    def model(x: Tensor, y: Tensor) -> None:
        calls.append(None)
        pyro.sample(f"w{len(calls) > 1}", dist.Normal(0.0, 1.0))

    return model


def vanishing_site() -> Callable[[Tensor, Tensor], None]:
    calls = []

    def model(x: Tensor, y: Tensor) -> None:
        calls.append(None)
        pyro.sample("w", dist.Normal(0.0, 1.0))
        if len(calls) == 1:
            pyro.sample("v", dist.Normal(0.0, 1.0))

    return model


def twice(x: Tensor, y: Tensor) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("w", dist.Normal(0.0, 1.0))


def two_dtypes(x: Tensor, y: Tensor) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("v", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))


UNSUPPORTED = {
    "discrete": (lambda x, y: pyro.sample("w", dist.Bernoulli(0.5)), 'site "w".* discrete one .Bernoulli'),
    "counts": (lambda x, y: pyro.sample("w", dist.Poisson(torch.ones(3)).to_event(1)), "discrete one .Poisson"),
    "delta": (lambda x, y: pyro.sample("w", dist.Delta(torch.tensor(1.0))), "a Delta"),
    "local": (local, 'subsampled plate "data"'),
    "without gradient": (without_gradient, "no gradient at .'y'."),
    "moving support": (moving_support, "depends on another site"),
    "a new site": (changing_sites, "a new one"),
    "a site less": (vanishing_site, "none of .'v'."),
    "a name twice": (twice, "one site of that name, got two"),
    "two dtypes": (two_dtypes, "one dtype and device"),
    "no latent site": (lambda x, y: None, "at least one latent site"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_models(case: str) -> None:
    model, message = UNSUPPORTED[case]
    model = model() if model in (changing_sites, vanishing_site) else model
    with pytest.raises(UnsupportedModelError, match=message):
        SGLD(model, data=(X, Y), batch_size=4).setup(0)


class FlatOnTheLogScale(dist.TorchDistribution):
    """An improper law, as a room of distributions might have one: it says so, and cannot be drawn from."""

    improper, arg_constraints = True, {}
    support = torch.distributions.constraints.positive

    def __init__(self, *batch_shape: int) -> None:
        super().__init__(torch.Size(batch_shape), torch.Size(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlatOnTheLogScale":
        return FlatOnTheLogScale(*batch_shape)


IMPROPER = {
    "bare": lambda: FlatOnTheLogScale(),
    "independent": lambda: FlatOnTheLogScale().expand([3]).to_event(1),
    "expanded by Pyro": lambda: FlatOnTheLogScale().expand_by([3]),
    "masked": lambda: FlatOnTheLogScale().mask(False),
}


@pytest.mark.parametrize("case", IMPROPER)
def test_improper_priors_are_refused_with_the_reason(case: str) -> None:
    def model() -> None:
        pyro.sample("scale", IMPROPER[case]())

    with pytest.raises(ImproperPriorError, match=r"Hron, Matthews & Ghahramani 2018.*half-Cauchy"):
        SGLD(model).setup(0)
    with pytest.raises(ImproperPriorError, match='"scale"'):
        require_proper_priors(model)


def nan_at(call: int, where: str) -> Callable[[Tensor], None]:
    """A program whose log density, or its gradient, is NaN from some run on."""
    calls = []

    def model(x: Tensor) -> None:
        calls.append(None)
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        bad = len(calls) >= call
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(w.sum() * (math.nan if bad and where == "density" else 1.0), 1.0), obs=x)
        if bad and where == "gradient":
            pyro.factor("root", (w - w).sum().sqrt())

    return model


@pytest.mark.parametrize(("where", "site"), [("density", "y"), ("gradient", "w")])
def test_nan_stops_at_its_update_and_keeps_the_parameters(where: str, site: str) -> None:
    """The program runs twice at setup; its sixth run is update 3."""
    chain = SGLD(nan_at(6, where), step_size=1e-3)
    chain.setup(9, torch.ones(3))  # whose draws are not looked at by further runs
    params = chain.initial_params
    for _ in range(3):
        params = chain.sample(params)
    with pytest.raises(NumericalError, match=rf"update 3: the .* of {site} is not finite"):
        chain.sample(params)
    assert chain.state["w"].equal(params["w"])


def test_too_large_a_step_ends_in_an_error_not_in_nan() -> None:
    chain = SGLD(lambda: pyro.sample("w", dist.Normal(torch.zeros(4), 1e-3).to_event(1)), step_size=1.0)
    mcmc = MCMC(chain, num_samples=100, warmup_steps=0, disable_progbar=True)
    with pytest.raises(NumericalError, match="update"):
        mcmc.run()
    assert torch.isfinite(chain.state["w"]).all()


def test_a_schedule_that_leaves_the_positive_numbers() -> None:
    chain = kernel(step_size=lambda t: 1e-3 if t < 2 else -1e-3)
    chain.setup(0)
    params = chain.sample(chain.sample(chain.initial_params))
    with pytest.raises(InputError, match=r"step_size: expected a positive finite number, got -0\.001 for update 2"):
        chain.sample(params)
    assert chain.state["w"].equal(params["w"])


@settings(max_examples=60, deadline=None)
@given(
    log_scale=st.floats(-46.0, 23.0),
    log_step=st.floats(-60.0, 20.0),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    positive=st.booleans(),
    size=st.integers(1, 4),
)
def test_extreme_numbers_are_finite_or_refused(
    log_scale: float, log_step: float, dtype: torch.dtype, positive: bool, size: int
) -> None:
    """Prior scales from 1e-20 to 1e10 and any step size: finite draws, or an error of ours that names the site."""

    def model() -> None:
        scale = torch.full((size,), math.exp(log_scale), dtype=dtype)
        law = dist.HalfNormal(scale) if positive else dist.Normal(torch.zeros_like(scale), scale)
        pyro.sample("w", law.to_event(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            chain = SGLD(model, step_size=math.exp(log_step))
            chain.setup(0)
            params = chain.initial_params
            for _ in range(5):
                params = chain.sample(params)
        except BDLError as error:
            refused = str(error)
        else:
            refused = "w"
            assert torch.isfinite(params["w"]).all()
            assert torch.isfinite(chain.sample_stats()["lp"]).all()
    assert "w" in refused


def test_the_kernel_can_be_pickled_before_setup() -> None:
    """For Pyro's processes, that is; nothing of ours is stored so."""
    copy = pickle.loads(pickle.dumps(kernel()))
    copy.setup(0)
    assert copy.sample(copy.initial_params)["w"].shape == (2, 3)
