"""Round trips from Pyro through ArviZ 0.23 (InferenceData) and the 1.x interface (DataTree)."""

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz_base
import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import HMC, MCMC, NUTS, Predictive
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from pyro_bdl.diagnostics import container as containers
from pyro_bdl.diagnostics import from_pyro, from_pyro_svi, guide_draws, pointwise_log_likelihood
from pyro_bdl.errors import InputError
from pyro_bdl.sgmcmc import SGLD, PolynomialDecay

pytestmark = pytest.mark.filterwarnings(
    "ignore:Estimated shape parameter of Pareto distribution",  # short chains on few data, which is not tested here
    "ignore:The inplace keyword in DataFrame",  # ArviZ's use of Pandas and Matplotlib, which deprecate it
    "ignore:Passing a dict or None as alias_mapping",
)

N, HIDDEN = 12, 3
CONTAINERS = ["inference_data", "datatree"]
generator = torch.Generator().manual_seed(1)
X = torch.linspace(-2, 2, N)[:, None]
Y = torch.sin(2 * X[:, 0]) + 0.1 * torch.randn(N, generator=generator)
GRID = torch.linspace(-3, 2, 5)[:, None]  # not zero, where a network without biases is constant


def network(x: Tensor) -> Tensor:
    """A tanh network whose weights are sample sites, and which does not broadcast over draws."""
    w1 = pyro.sample("fc1.weight", dist.Normal(torch.zeros(HIDDEN, 1), 1.0).to_event(2))
    w2 = pyro.sample("fc2.weight", dist.Normal(torch.zeros(1, HIDDEN), 1.0).to_event(2))
    hidden = torch.tanh(nn.functional.linear(x, w1))
    return nn.functional.linear(hidden, w2)


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    mean = pyro.deterministic("mean", network(x)[:, 0])
    with pyro.plate("data", N, subsample_size=len(x)):
        return pyro.sample("y", dist.Normal(mean, 0.3), obs=y)


def line(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(slope * x[:, 0], 0.3), obs=y)


def run_mcmc(kernel: Any, chains: int = 2) -> MCMC:
    """Short chains in one process."""
    mcmc = MCMC(kernel, num_samples=50, warmup_steps=30, num_chains=1, disable_progbar=True)
    runs = []
    for _ in range(chains):
        mcmc.run(X, Y)
        runs.append((mcmc._samples, mcmc._diagnostics[0]))
    mcmc.num_chains = chains
    mcmc._samples = {name: torch.cat([samples[name] for samples, _ in runs]) for name in runs[0][0]}
    mcmc._diagnostics = [diagnostics for _, diagnostics in runs]
    return mcmc


@pytest.fixture(scope="module")
def nuts() -> MCMC:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run_mcmc(NUTS(model, max_tree_depth=3))


@pytest.fixture(scope="module")
def straight_line() -> MCMC:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run_mcmc(HMC(line, num_steps=3))


@pytest.fixture(params=CONTAINERS)
def container(request: pytest.FixtureRequest, az: Any) -> str:
    return request.param


def test_every_group_and_its_sizes(nuts: MCMC, container: str) -> None:
    flat = nuts.get_samples()
    prior = Predictive(model, num_samples=7)(X)
    data = from_pyro(
        nuts,
        functions={"f": (network, GRID)},
        deterministic=True,
        log_likelihood=True,
        prior=prior,
        posterior_predictive=Predictive(model, flat)(X),
        predictions=Predictive(model, flat)(GRID),
        constant_data={"x": X},
        predictions_constant_data={"grid": GRID},
        coords={"data": np.arange(N) * 10, "f_point": GRID[:, 0].numpy()},
        dims={"x": ["data", "feature"]},
        pred_dims={"y": ["new"]},
        container=container,
    )
    sizes = {
        group: {name: dict(variable.sizes) for name, variable in data[group].data_vars.items()}
        for group in ("posterior", "log_likelihood", "observed_data", "posterior_predictive", "predictions")
    }
    draws = {"chain": 2, "draw": 50}
    assert sizes["posterior"] == {
        "fc1.weight": {**draws, "fc1.weight_dim_0": HIDDEN, "fc1.weight_dim_1": 1},
        "fc2.weight": {**draws, "fc2.weight_dim_0": 1, "fc2.weight_dim_1": HIDDEN},
        "mean": {**draws, "mean_dim_0": N},
        "f": {**draws, "f_point": 5, "f_output": 1},
    }
    assert sizes["log_likelihood"] == {"y": {**draws, "data": N}}
    assert sizes["observed_data"] == {"y": {"data": N}}
    assert sizes["posterior_predictive"]["y"] == {**draws, "data": N}
    assert sizes["predictions"]["y"] == {**draws, "new": 5}
    assert set(data["prior"].data_vars) == {"fc1.weight", "fc2.weight", "mean"}
    assert set(data["prior_predictive"].data_vars) == {"y"}
    assert dict(data["constant_data"]["x"].sizes) == {"data": N, "feature": 1}
    assert data["sample_stats"]["diverging"].dtype == bool
    np.testing.assert_array_equal(data["log_likelihood"]["data"], np.arange(N) * 10)
    np.testing.assert_array_equal(data["observed_data"]["y"], Y)
    assert data["posterior"].attrs["inference_library"] == "pyro-ppl"
    assert data["posterior"].attrs["kernel"] == "NUTS"
    assert len(data["posterior"].attrs["acceptance_rate"]) == 2


def test_values_by_hand(nuts: MCMC, container: str) -> None:
    data = from_pyro(nuts, functions={"f": (network, GRID)}, log_likelihood=True, container=container)
    samples = nuts.get_samples(group_by_chain=True)
    for chain, draw in ((0, 0), (1, 0), (1, 49)):
        w1, w2 = (samples[name][chain, draw] for name in ("fc1.weight", "fc2.weight"))
        f = torch.tanh(GRID @ w1.T) @ w2.T
        mean = (torch.tanh(X @ w1.T) @ w2.T)[:, 0]
        np.testing.assert_allclose(data["posterior"]["f"][chain, draw], f, atol=1e-5)
        expected = dist.Normal(mean, 0.3).log_prob(Y)
        np.testing.assert_allclose(data["log_likelihood"]["y"][chain, draw], expected, rtol=1e-4, atol=1e-5)


def test_arviz_0_23_summary_loo_compare_plot(nuts: MCMC, straight_line: MCMC, az: Any) -> None:
    bnn = from_pyro(nuts, functions={"f": (network, GRID)}, log_likelihood=True, container="inference_data")
    straight = from_pyro(straight_line, log_likelihood=True, container="inference_data")
    assert isinstance(bnn, az.InferenceData)
    summary = az.summary(bnn, var_names=["f"])
    assert len(summary) == 5
    assert np.isfinite(summary[["mean", "sd", "r_hat", "ess_bulk"]].to_numpy()).all()
    loo = az.loo(bnn, pointwise=True)
    assert loo.n_data_points == N
    assert loo.loo_i.shape == (N,)
    table = az.compare({"network": bnn, "line": straight})
    assert list(table.index) == ["network", "line"]  # the data are a sine
    axes = az.plot_trace(bnn, var_names=["f"])
    assert axes.shape == (1, 2)
    import matplotlib.pyplot as plt

    plt.close("all")


def test_arviz_1_summary_loo_compare_ess_rhat(nuts: MCMC, straight_line: MCMC) -> None:
    bnn = from_pyro(nuts, functions={"f": (network, GRID)}, log_likelihood=True, container="datatree")
    straight = from_pyro(straight_line, log_likelihood=True, container="datatree")
    assert isinstance(bnn, xr.DataTree)
    assert len(arviz_stats.summary(bnn, var_names=["f"])) == 5
    loo = arviz_stats.loo(bnn, pointwise=True)
    assert loo.n_data_points == N
    assert list(arviz_stats.compare({"network": bnn, "line": straight}).index) == ["network", "line"]
    assert np.isfinite(arviz_stats.ess(bnn, var_names=["f"])["f"]).all()
    assert (arviz_stats.rhat(bnn, var_names=["f"])["f"] < 2).all()


@pytest.mark.filterwarnings("ignore:num_chains=2 is more than available_cpu")
def test_chains_that_pyro_ran_itself(container: str) -> None:
    mcmc = MCMC(HMC(line, num_steps=3), num_samples=20, warmup_steps=10, num_chains=2, disable_progbar=True)
    mcmc.run(X, Y)
    data = from_pyro(mcmc, log_likelihood=True, container=container)
    slope = mcmc.get_samples(group_by_chain=True)["slope"]
    np.testing.assert_array_equal(data["posterior"]["slope"], slope)
    expected = dist.Normal(slope[..., None] * X[:, 0], 0.3).log_prob(Y)
    np.testing.assert_allclose(data["log_likelihood"]["y"], expected, rtol=1e-4)
    assert data["sample_stats"]["diverging"].shape == (2, 20)


def exact_leave_one_out() -> float:
    """Of `line`: slope ~ N(0, 1) and noise 0.3, so that each point's predictive given the others is Gaussian."""
    x, total = X[:, 0].double(), 0.0
    for i in range(N):
        others = torch.arange(N) != i
        precision = 1 + (x[others] ** 2).sum() / 0.09
        mean = (x[others] * Y[others]).sum() / 0.09 / precision
        total += dist.Normal(mean * x[i], (0.09 + x[i] ** 2 / precision).sqrt()).log_prob(Y[i].double()).item()
    return total


def test_loo_is_exact_leave_one_out(az: Any) -> None:
    """Eight replicates of 200 draws from the exact posterior; a log-likelihood scaled as if of 50 points is caught.

    Student's t of 7 degrees of freedom is below 16 but for 1e-6; 0.02 nats allow for the bias of smoothed importance
    sampling. The scale moves the sum by tens of nats.
    """
    x = X[:, 0]
    precision = 1 + (x**2).sum() / 0.09
    slopes = (x * Y).sum() / 0.09 / precision + torch.randn(8, 200) / precision.sqrt()
    terms = [pointwise_log_likelihood(line, {"slope": replicate}, X, Y)["y"].numpy() for replicate in slopes]
    loo = {"inference_data": lambda data: az.loo(data).elpd_loo, "datatree": lambda data: arviz_stats.loo(data).elpd}
    for container in CONTAINERS:
        for scale in (1.0, 50 / N):
            groups = [
                {"posterior": {"slope": slope[None].numpy()}, "log_likelihood": {"y": term[None] * scale}}
                for slope, term in zip(slopes, terms, strict=True)
            ]
            values = [loo[container](containers.from_arrays(group, container=container)) for group in groups]
            gap = abs(np.mean(values) - exact_leave_one_out())
            assert (gap < 16 * np.std(values, ddof=1) / 8**0.5 + 0.02) == (scale == 1.0)


def test_both_interfaces_hold_the_same_numbers(nuts: MCMC, az: Any) -> None:
    old, new = (from_pyro(nuts, log_likelihood=True, container=kind) for kind in CONTAINERS)
    for group in ("posterior", "sample_stats", "log_likelihood", "observed_data"):
        xr.testing.assert_equal(old[group], new[group].to_dataset())


def test_through_a_file_and_back(nuts: MCMC, container: str, az: Any, tmp_path: Path) -> None:
    data = from_pyro(nuts, functions={"f": (network, GRID)}, log_likelihood=True, container=container)
    path = tmp_path / "posterior.nc"
    if container == "inference_data":
        data.to_netcdf(str(path), engine="h5netcdf")
        back = az.from_netcdf(str(path), engine="h5netcdf")
        groups = data.groups()
    else:
        data.to_netcdf(path, engine="h5netcdf")
        back = xr.open_datatree(path, engine="h5netcdf")
        groups = list(data.children)
    assert len(groups) == 4
    for group in groups:
        xr.testing.assert_equal(
            *(tree[group] if container == "inference_data" else tree[group].to_dataset() for tree in (data, back))
        )


def test_divergences_and_statistics_of_other_kernels(straight_line: MCMC, container: str) -> None:
    mcmc = copy.copy(straight_line)
    mcmc._diagnostics = [
        {"divergences": [0, 7], "sample_stats": {"step_size": torch.linspace(1, 0.1, 50), "lp": [0.5] * 50}, "n": 3},
        {"divergences": [], "sample_stats": {"step_size": torch.linspace(1, 0.1, 50), "lp": [0.5] * 50}, "n": 4},
    ]
    stats = from_pyro(mcmc, container=container)["sample_stats"]
    assert set(stats.data_vars) == {"diverging", "step_size", "lp"}
    assert stats["step_size"].shape == (2, 50)
    assert [tuple(map(int, place)) for place in np.argwhere(stats["diverging"].to_numpy())] == [(0, 0), (0, 7)]
    thinned = from_pyro(mcmc, container=container, thin=7)
    assert np.flatnonzero(thinned["sample_stats"]["diverging"][0]).tolist() == [0, 1]
    np.testing.assert_array_equal(thinned["posterior"]["slope"], mcmc.get_samples(group_by_chain=True)["slope"][:, ::7])
    assert from_pyro(mcmc, container=container)["posterior"].attrs["n"] == [3.0, 4.0]


def test_a_kernel_without_diagnostics(straight_line: MCMC, container: str) -> None:
    mcmc = copy.copy(straight_line)
    mcmc._diagnostics = [{}, {}]
    data = from_pyro(mcmc, log_likelihood=True, container=container)
    assert "sample_stats" not in (data.groups() if container == "inference_data" else data.children)


@pytest.mark.parametrize("source", ["tensors", "loader", "plate"])
def test_stochastic_gradient_kernels(source: str, container: str) -> None:
    def picks(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N, subsample_size=4) as rows:
            pyro.sample("y", dist.Normal(slope * x[rows, 0], 0.3), obs=y[rows])

    data: dict[str, Any] = {
        "tensors": {"data": (X, Y), "batch_size": 4},
        "loader": {"data": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=4)},
        "plate": {},
    }[source]
    kernel = SGLD(picks if source == "plate" else line, step_size=PolynomialDecay(a=0.01, b=10.0, gamma=0.5), **data)
    mcmc = MCMC(kernel, num_samples=30, warmup_steps=5, disable_progbar=True)
    mcmc.run(*((X, Y) if source == "plate" else ()))
    if source == "loader":
        with pytest.raises(InputError, match="model_args"):
            from_pyro(mcmc, log_likelihood=True, container=container)
        assert from_pyro(mcmc, container=container)["posterior"]["slope"].shape == (1, 30)
    options = {"model_args": (X, Y)} if source == "loader" else {}
    tree = from_pyro(mcmc, log_likelihood=True, container=container, **options)
    slope = mcmc.get_samples()["slope"]
    np.testing.assert_allclose(
        tree["log_likelihood"]["y"][0], dist.Normal(slope[:, None] * X[:, 0], 0.3).log_prob(Y), rtol=1e-4
    )
    np.testing.assert_array_equal(tree["observed_data"]["y"], Y)
    np.testing.assert_array_equal(tree["sample_stats"]["step_size"][0], kernel.sample_stats()["step_size"])
    assert np.isfinite(tree["sample_stats"]["lp"]).all()


def test_weights_left_out_still_give_functions_and_likelihood(nuts: MCMC, container: str) -> None:
    everything = from_pyro(nuts, log_likelihood=True, container=container)
    options = {"var_names": [], "functions": {"f": (network, GRID)}, "log_likelihood": True}
    data = from_pyro(nuts, container=container, **options)
    assert list(data["posterior"].data_vars) == ["f"]
    np.testing.assert_array_equal(data["log_likelihood"]["y"], everything["log_likelihood"]["y"])


def hand_written(x: Tensor, y: Tensor | None = None) -> None:
    for name, shape in (("fc1.weight", (HIDDEN, 1)), ("fc2.weight", (1, HIDDEN))):
        loc = pyro.param(f"{name}.loc", torch.full(shape, 0.5))
        pyro.sample(name, dist.Normal(loc, 0.1).to_event(2))


class Wrapped:
    """A handler that keeps the plain guide as its attribute, and itself does something else."""

    def __init__(self, guide: Callable[..., Any]) -> None:
        self.guide = guide

    def __call__(self, *args: Any) -> None:
        raise AssertionError("the plain guide is to be used")


GUIDES: dict[str, Callable[[], Callable[..., Any]]] = {
    "AutoNormal": lambda: AutoNormal(model),
    "AutoDiagonalNormal": lambda: AutoDiagonalNormal(model),
    "AutoDelta": lambda: AutoDelta(model),
    "hand-written": lambda: hand_written,
    "wrapped": lambda: Wrapped(hand_written),
}


@pytest.mark.parametrize("name", GUIDES)
def test_any_guide(name: str, container: str) -> None:
    guide = GUIDES[name]()
    data = from_pyro_svi(
        model,
        guide,
        model_args=(X, Y),
        num_samples=20,
        functions={"f": (network, GRID)},
        log_likelihood=True,
        container=container,
    )
    assert set(data["posterior"].data_vars) == {"fc1.weight", "fc2.weight", "f"}
    assert dict(data["log_likelihood"]["y"].sizes) == {"chain": 1, "draw": 20, "data": N}
    assert data["posterior"].attrs["inference_kind"] == "svi"
    flat = {k: torch.tensor(data["posterior"][k].to_numpy()[0]) for k in ("fc1.weight", "fc2.weight")}
    expected = pointwise_log_likelihood(model, flat, X, Y)["y"]
    np.testing.assert_allclose(data["log_likelihood"]["y"][0], expected, rtol=1e-5)


def test_svi_loo_and_summary_on_both_interfaces(az: Any) -> None:
    options: dict[str, Any] = {"model_args": (X, Y), "num_samples": 200, "log_likelihood": True, "seed": 0}
    old = from_pyro_svi(model, hand_written, container="inference_data", **options)
    new = from_pyro_svi(model, hand_written, container="datatree", **options)
    xr.testing.assert_equal(old["posterior"], new["posterior"].to_dataset())
    assert az.loo(old).n_data_points == N
    assert arviz_stats.loo(new).n_data_points == N
    assert len(az.summary(old)) == len(arviz_stats.summary(new)) == 2 * HIDDEN


def test_a_seed_repeats_the_draws_and_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    one, two = (guide_draws(hand_written, X, num_samples=5, seed=3) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = guide_draws(hand_written, X, num_samples=5, seed=4)
    assert not torch.equal(one["fc1.weight"], other["fc1.weight"])


def test_a_pyro_module_network(container: str) -> None:
    net = PyroModule[nn.Linear](1, 1)
    net.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))

    def program(x: Tensor, y: Tensor) -> None:
        mean = net(x)[:, 0]
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=y)

    mcmc = run_mcmc(NUTS(program, max_tree_depth=4))
    data = from_pyro(mcmc, log_likelihood=True, functions={"f": (net, GRID)}, container=container)
    weight = data["posterior"]["weight"].to_numpy()[..., 0, 0]
    expected = weight[..., None] * GRID[:, 0].numpy() + net.bias.item()
    np.testing.assert_allclose(data["posterior"]["f"][..., 0], expected, atol=1e-5)


def test_a_potential_function_has_draws_but_no_likelihood(container: str) -> None:
    def potential(z: dict[str, Tensor]) -> Tensor:
        return 0.5 * z["z"].square().sum()

    mcmc = MCMC(
        NUTS(potential_fn=potential),
        num_samples=10,
        warmup_steps=5,
        initial_params={"z": torch.zeros(2)},
        disable_progbar=True,
    )
    mcmc.run()
    assert from_pyro(mcmc, container=container)["posterior"]["z"].shape == (1, 10, 2)
    with pytest.raises(InputError, match="log_likelihood"):
        from_pyro(mcmc, log_likelihood=True, container=container)


def test_latents_that_the_sampler_did_not_keep_matter_only_to_the_likelihood(container: str) -> None:
    def program(x: Tensor, y: Tensor) -> None:
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(slope * x[:, 0], noise), obs=y)

    mcmc = MCMC(NUTS(program, max_tree_depth=4), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(X, Y)
    del mcmc._samples["noise"]
    data = from_pyro(mcmc, container=container, batch_size=5)
    np.testing.assert_array_equal(data["observed_data"]["y"], Y)
    with pytest.raises(InputError, match=r"'noise'.*never drawn from the prior"):
        from_pyro(mcmc, container=container, log_likelihood=True)


def test_draws_of_a_guide_are_not_kept_in_memory() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def guide(x: Tensor, y: Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(pyro.sample("slope", dist.Normal(0.0, 1.0))))
        most = max(most, sum(ref() is not None for ref in alive))

    options: dict[str, Any] = {"num_samples": 30, "var_names": [], "log_likelihood": True, "container": "datatree"}
    from_pyro_svi(line, guide, model_args=(X, Y), **options)
    assert most <= 3


def test_names_that_a_plate_and_a_variable_share(container: str) -> None:
    def program(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("y", N):
            pyro.sample("observed", dist.Normal(slope * x[:, 0], 0.3), obs=y)
        with pyro.plate("draw", 1):
            pyro.sample("y2", dist.Normal(slope, 0.3), obs=y[:1])

    data = from_pyro(
        run_mcmc(NUTS(program, max_tree_depth=4)), log_likelihood=True, container=container, constant_data={"y": Y}
    )
    assert dict(data["log_likelihood"]["observed"].sizes) == {"chain": 2, "draw": 50, "y_dim": N}
    assert dict(data["log_likelihood"]["y2"].sizes) == {"chain": 2, "draw": 50, "draw_dim": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"var_names": ["fc9.weight"]}, "var_names"),
        ({"deterministic": ["median"]}, "deterministic"),
        ({"deterministic": True, "log_likelihood": ["mean"]}, "log_likelihood"),
        ({"functions": {"mean": "mean"}}, "functions"),
        ({"functions": {"fc1.weight": (network, GRID)}}, "a name that no site has"),
        ({"functions": {"f": (lambda: "no tensor",)}}, "return value"),
        ({"log_likelihood": ["z"]}, "log_likelihood"),
        ({"log_likelihood": {"y": np.zeros((3, N))}}, "log_likelihood"),
        ({"posterior_predictive": {"y": np.zeros((3, N))}}, "posterior_predictive"),
        ({"predictions": {"y": torch.zeros(99, N)}}, "predictions"),
        ({"thin": 0}, "thin"),
        ({"thin": 1.5}, "thin"),
        ({"batch_size": -1}, "batch_size"),
        ({"data_plate": "rows"}, "data_plate"),
        ({"container": "pickle"}, "container"),
        ({"model_args": (X,), "log_likelihood": True}, "'y'.*hand its values to the model"),
    ],
)
def test_bad_input_to_from_pyro(nuts: MCMC, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_pyro(nuts, **{"container": "datatree", **change})


def test_objects_that_are_no_posterior() -> None:
    with pytest.raises(InputError, match="MCMC"):
        from_pyro({"w": torch.zeros(3)})
    with pytest.raises(InputError, match="has run"):
        from_pyro(MCMC(NUTS(model), num_samples=5))


def test_bad_input_to_from_pyro_svi() -> None:
    def half(x: Tensor, y: Tensor | None = None) -> None:
        pyro.sample("fc1.weight", dist.Normal(torch.zeros(HIDDEN, 1), 1.0).to_event(2))

    def per_point(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", N, subsample_size=3):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match=r"'fc2.weight'.*never drawn from the prior"):
        from_pyro_svi(model, half, model_args=(X, Y), num_samples=3)
    with pytest.raises(InputError, match="whole data"):
        from_pyro_svi(model, per_point, model_args=(X, Y), num_samples=3)
    with pytest.raises(InputError, match="latent sample site"):
        from_pyro_svi(model, lambda x, y: None, model_args=(X, Y), num_samples=3)
    with pytest.raises(InputError, match="num_samples"):
        from_pyro_svi(model, hand_written, model_args=(X, Y), num_samples=0)


def test_the_container_follows_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed, expected in (("0.23.4", "inference_data"), ("1.3.0", "datatree")):
        monkeypatch.setattr(containers, "version", lambda name, value=installed: value)
        assert containers._known(None) == expected


def test_plain_arrays_make_a_data_tree_that_arviz_reads() -> None:
    groups = {"posterior": {"f": np.random.default_rng(0).normal(size=(4, 100, 2))}, "constant_data": {"x": np.ones(2)}}
    tree = containers.from_arrays(groups, dims={"f": ["point"], "x": ["point"]}, container="datatree")
    assert len(arviz_stats.summary(tree)) == 2
    assert isinstance(arviz_base.convert_to_datatree(tree), xr.DataTree)
