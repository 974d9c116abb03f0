"""The fit loop: data of all kinds, warm-up, schedule, callbacks, seeds."""

import math
import subprocess
import sys
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

import pyro_bdl as bdl
from pyro_bdl.errors import InputError
from tests.latent.programs import LinearGaussian, rows

X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def make(**options: Any) -> tuple[Any, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model = bdl.Classifier(bdl.BayesianModule(net), **options)
    return model, bdl.guides.AutoMeanField(model)


def fit(data: Any = (X, Y), *, model: Any = None, guide: Any = None, **options: Any) -> bdl.Fit:
    if model is None:
        model, guide = make()
    return bdl.fit_svi(model, guide, data, **{"epochs": 2, "progress": False, "seed": 0} | options)


class Batches:
    """An iterable that nobody knows the length of."""

    def __iter__(self) -> Any:
        return iter([(X[:30], Y[:30]), [X[30:], Y[30:]]])


DATA: dict[str, tuple[Any, dict[str, Any], int]] = {
    "tensors": ((X, Y), {"batch_size": 10}, 50),
    "short last batch": ((X, Y), {"batch_size": 16}, 50),
    "all at once": ((X, Y), {}, 50),
    "loader": (DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True), {}, 50),
    "loader of a part": (DataLoader(TensorDataset(X, Y), 8, sampler=SubsetRandomSampler(range(20))), {}, 20),
    "list": ([(X[:30], Y[:30]), (X[30:], Y[30:])], {}, 50),
    "iterable": (Batches(), {}, 50),
}


@pytest.mark.parametrize("estimator", ["local", "flipout", "plain"])
@pytest.mark.parametrize("case", DATA)
def test_data_of_all_kinds(case: str, estimator: Any) -> None:
    """N is the data's: the plate's scale times the batch's length is N at each step."""
    data, options, n = DATA[case]
    model, guide = make()
    seen = []

    class Watch(pyro.poutine.messenger.Messenger):
        def _pyro_post_sample(self, msg: Any) -> None:
            if msg["name"] == "y":
                seen.append(msg["scale"] * len(msg["value"]))

    with Watch():
        result = fit(data, model=model, guide=guide, estimator=estimator, **options)
    assert len(result.losses) == len(result.kls) == 2
    assert seen
    assert all(s == pytest.approx(n) for s in seen)
    assert all(torch.isfinite(p).all() for p in guide.parameters())
    assert bool(result.coverage) == (estimator != "plain")


@pytest.mark.parametrize("estimator", ["local", "flipout", "plain"])
def test_it_learns(estimator: Any) -> None:
    adam = lambda p: torch.optim.Adam(p, lr=0.02)  # noqa: E731
    result = fit(epochs=60, batch_size=25, estimator=estimator, optimizer=adam)
    assert result.losses[-1] < 0.8 * result.losses[0]


def test_kl_warmup() -> None:
    told: list[Any] = []
    result = fit(epochs=6, batch_size=25, kl_weight=0.5, kl_warmup=3.0, callbacks=[told.append])
    weights = [t.kl_weight for t in told]
    assert weights == pytest.approx([0.5 * w for w in (0.5 / 3, 1.5 / 3, 2.5 / 3, 1.0, 1.0, 1.0)])
    assert [t.epoch for t in told] == list(range(6))
    assert [t.loss for t in told] == result.losses


def test_a_kl_weight_by_the_fraction_of_steps_done() -> None:
    told: list[Any] = []
    fit(epochs=4, batch_size=100, kl_weight=lambda t: 1.0 if t < 0.5 else 0.25, kl_warmup=2.0, callbacks=[told.append])
    assert [t.kl_weight for t in told] == [0.0, 0.5, 0.25, 0.25]
    with pytest.raises(InputError, match=r"kl_weight\(0.5\)"):
        fit(epochs=2, batch_size=100, kl_weight=lambda t: 1.0 - 4 * t)


def test_schedule_multiplies_the_learning_rate() -> None:
    rates: list[float] = []

    class Recorder(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            rates.append(self.param_groups[0]["lr"])

    fit(epochs=4, batch_size=25, schedule=lambda t: 1 - t, optimizer=lambda p: Recorder(p, lr=0.8))
    assert rates == pytest.approx([0.8 * (1 - k / 8) for k in range(8)])


@pytest.mark.parametrize("answer", [None, False, 1, torch.ones(3)])
def test_callbacks_go_on(answer: Any) -> None:
    assert len(fit(epochs=3, callbacks=[lambda told: answer]).losses) == 3


def test_callbacks_stop() -> None:
    later: list[Any] = []
    result = fit(epochs=9, callbacks=[lambda told: told.epoch == 1, later.append])
    assert len(result.losses) == len(later) == 2


def parameters_after(seed: int | None, **options: Any) -> Tensor:
    model, guide = make()
    fit(model=model, guide=guide, seed=seed, batch_size=16, epochs=3, **options)
    return torch.cat([p.detach() for p in guide.parameters()])


@pytest.mark.parametrize("estimator", ["local", "flipout", "plain"])
def test_seed(estimator: Any) -> None:
    before = torch.get_rng_state()
    first = parameters_after(7, estimator=estimator)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(parameters_after(7, estimator=estimator), first)
    assert not torch.equal(parameters_after(8, estimator=estimator), first)


def test_without_a_seed_the_global_generator_decides() -> None:
    results = []
    for _ in range(2):
        pyro.set_rng_seed(3)
        results.append(parameters_after(None))
    assert torch.equal(*results)


SCRIPT = """
import hashlib, torch
torch.set_num_threads(1)
from tests.inference.test_fit import parameters_after
print(hashlib.sha256(parameters_after(5).numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_same_seed_in_several_processes() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True) for _ in range(10)
    ]
    assert len({run.stdout for run in runs}) == 1


def test_own_elbo_with_its_kl_weight() -> None:
    """The warm-up multiplies the caller's weight; the caller's object stays as it was."""
    elbo = bdl.MeanFieldELBO(kl_weight=0.25)
    losses = []
    for options in ({"elbo": elbo}, {"elbo": bdl.MeanFieldELBO()}, {"elbo": bdl.MeanFieldELBO(kl_weight=0.0)}):
        frozen = lambda p: torch.optim.SGD(p, lr=0.0)  # noqa: E731
        losses.append(fit(epochs=1, batch_size=50, optimizer=frozen, **options).losses[0])
    assert losses[0] == pytest.approx(losses[2] + 0.25 * (losses[1] - losses[2]), rel=1e-5)
    assert elbo.kl_weight == 0.25


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_kl_of_any_guide_is_told(weight: float) -> None:
    """In closed form here, over the whole data and without its weight, to the user and to callbacks."""
    problem, told = LinearGaussian.example(), []
    vae, x = problem.vae(), rows(20)
    result = bdl.fit_svi(
        vae.model, vae.guide, x, epochs=3, batch_size=10, elbo=bdl.MeanFieldELBO(2, kl_weight=0.7), kl_weight=weight,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.0), callbacks=[told.append], progress=False,
    )  # fmt: skip
    assert result.kls == pytest.approx([float(problem.kl(x).sum().detach())] * 3)
    assert [one.kl for one in told] == result.kls


def test_a_bound_without_a_kl_apart_tells_none() -> None:
    vae = LinearGaussian.example().vae()
    result = bdl.fit_svi(vae.model, vae.guide, rows(20), epochs=1, elbo=bdl.objective("iwae"), progress=False)
    assert math.isnan(result.kls[0])


def test_particles_of_a_plate_without_subsampling_count_once() -> None:
    bnn = bdl.BayesianModule(nn.Linear(3, 2))

    def model(x: Tensor, y: Tensor) -> None:
        logits = bnn(x)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def loss(particles: int) -> float:
        frozen = lambda p: torch.optim.SGD(p, lr=0.0)  # noqa: E731
        guide = bdl.guides.AutoMeanField(model)
        return fit(model=model, guide=guide, epochs=1, optimizer=frozen, num_particles=particles).losses[0]

    assert loss(4) == pytest.approx(loss(1), rel=0.01)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "epochs": ({"epochs": 0}, "epochs: expected at least 1, got 0"),
    "particles": ({"num_particles": 0}, "num_particles: expected at least 1"),
    "particles twice": ({"num_particles": 2, "elbo": bdl.MeanFieldELBO(3)}, "num_particles: expected 1 with an ELBO"),
    "KL weight": ({"kl_weight": -1.0}, "kl_weight: expected"),
    "KL weight function": ({"kl_weight": lambda _: float("nan")}, r"kl_weight\(0\): expected"),
    "KL weight NaN": ({"kl_weight": float("nan")}, "kl_weight: expected"),
    "warm-up": ({"kl_warmup": -1.0}, "kl_warmup: expected"),
    "warm-up of Pyro's": (
        {"kl_warmup": 1.0, "elbo": pyro.infer.Trace_ELBO()},
        "kl_weight and kl_warmup: expected 1 and 0",
    ),
    "estimator": ({"estimator": "lokal"}, "estimator: expected .* got 'lokal'"),
    "estimator of Renyi's": ({"elbo": pyro.infer.RenyiELBO(num_particles=2)}, 'estimator: expected "plain"'),
    "batch size of nothing": ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    "batch size": ({"batch_size": -3}, "batch_size: expected at least 1"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case: str) -> None:
    options, message = BAD_OPTIONS[case]
    with pytest.raises(InputError, match=message):
        fit(**options)


@pytest.mark.parametrize("name", ["elbo", "monte-carlo", "score-function", "iwae", "dreg"])
def test_every_objective_moves_the_networks(name: Any) -> None:
    """Pyro's `Trace_ELBO` silently gives no gradients to programs that do not tell it their parameters."""
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((20, 6), 0.5))
    vae = bdl.VariationalAutoencoder(nn.Linear(6, 4), nn.Linear(2, 6), 2)
    before = [parameter.clone() for parameter in vae.parameters()]
    bdl.fit_svi(vae.model, vae.guide, x, epochs=1, elbo=bdl.objective(name), progress=False, seed=0)
    assert not any(bool((old == new).all()) for old, new in zip(before, vae.parameters(), strict=True))
