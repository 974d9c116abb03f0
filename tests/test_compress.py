"""`compress` from a fitted guide to a file: what is promised of the result, and what is refused or warned of."""

import copy
import io
import math
import subprocess
import sys
import warnings
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from rich.console import Console
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.compression.coding.codebook import Clustered
from pyro_bdl.compression.compressed import CompressedNetwork, load_compressed
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.errors import InputError, NumericalError, UnsupportedModelError
from pyro_bdl.weight_moments import weight_posterior
from tests.compression.units.pruned_networks import make
from tests.compression.units.unprunable_networks import UNPRUNABLE
from tests.fresh_state import fresh_state  # noqa: F401


def sure(net: nn.Module, *, noise: float = 0.02, dead: bool = True) -> WeightPosterior:
    """A posterior that is sure of most weights, and of which every third row of each matrix is noise."""
    mean = {name: p.detach().clone() for name, p in net.named_parameters()}
    variance = {name: torch.full_like(m, noise**2) for name, m in mean.items()}
    for name, m in mean.items():
        if m.dim() > 1 and dead:
            variance[name][2::3] = 25 * m[2::3].square() + noise**2
    return WeightPosterior(mean, variance)


def separable(points: int = 300) -> tuple[Tensor, Tensor]:
    x = torch.randn(points, 6)
    return x, (x[:, 0] > 0).long()


def trained() -> nn.Module:
    """A network that separates `separable`, with twelve hidden units."""
    net, (x, y) = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2)), separable()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


def compressed(net: nn.Module, **options: Any) -> CompressedNetwork:
    return bdl.compress(net, sure(net), example_input=torch.zeros(1, 6), **options)


def require_reloads(small: CompressedNetwork, net: nn.Module, path: Any, *inputs: Tensor) -> None:
    """The file gives back the module, bit for bit, and its length is what is reported."""
    size = small.save(path)
    assert size == path.stat().st_size == small.report().file_bytes == len(small.to_bytes())
    again = load_compressed(path, net)
    state = small.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert list(state) == list(again.state_dict())
    with torch.no_grad():
        got, expected = again(*inputs), small.module(*inputs)
    assert torch.equal(got, expected) if isinstance(got, Tensor) else all(map(torch.equal, got, expected))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("mlp", torch.float64), ("lenet_5", torch.float32), ("batch_norm", torch.float64), ("resnet", torch.float32)],
)
def test_the_reloaded_network_is_the_small_one(name: str, dtype: torch.dtype, tmp_path: Any) -> None:
    net, inputs = make(name, dtype)
    small = bdl.compress(net, sure(net), example_input=inputs)
    require_reloads(small, net, tmp_path / "n.bdl", *inputs)
    assert sum(p.numel() for p in small.module.parameters()) < sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        assert small.module(*inputs).shape == net(*inputs).shape


def test_several_inputs(tmp_path: Any) -> None:
    net, inputs = make("mixed")
    labels = torch.zeros(8).long()
    images, more = torch.randn(8, 1, 6, 6), torch.randn(8, 3)
    small = bdl.compress(net, sure(net), example_input=inputs, validation=((images, more), labels))
    require_reloads(small, net, tmp_path / "n.bdl", *inputs)
    assert small.example_shape == (1, 1, 6, 6)


def test_the_reports_numbers() -> None:
    net = trained()
    small = compressed(net, validation=separable())
    report = small.report()
    weights = 6 * 12 + 12 + 12 * 2 + 2
    dense = sum(p.numel() for p in small.module.parameters())
    nonzero = sum(int(p.count_nonzero()) for p in small.module.parameters())
    at_width = sum(report.bits[name] * p.numel() for name, p in small.module.named_parameters())
    assert (report.weights, report.dense, report.nonzero) == (weights, dense, nonzero)
    assert report.pruning == weights / dense
    assert report.pruning_sparse == weights / nonzero
    assert report.fast == 32 * weights / at_width
    assert report.maximum == 4 * weights / len(small.to_bytes())
    assert report.layer_bits == f"{report.bits['0.weight']}-{report.bits['2.weight']}"
    assert sum(report.bytes_by_part.values()) == report.file_bytes
    inputs, hidden = report.architecture.split("-")
    assert (int(inputs), int(hidden)) == (small.module[0].weight.shape[1], small.module[0].weight.shape[0])
    assert report.as_dict()["bits"] == dict(report.bits)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(report)
    assert "fast prediction" in str(report)
    assert "fast prediction" in console.export_text()


def wrong_share(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(-1) != y).double().mean())


def test_the_errors_are_those_of_the_networks_that_the_rates_are_about() -> None:
    net, (x, y) = trained(), separable()
    small = compressed(net, validation=(x, y), tolerance=0.02)
    errors = small.errors
    assert list(errors) == ["posterior mean", "pruned", "fast", "fast in floats", "fast by unit", "coded"]
    assert errors["posterior mean"] == pytest.approx(wrong_share(net, x, y))
    assert errors["coded"] == pytest.approx(wrong_share(small.module, x, y))
    assert errors["coded"] <= errors["posterior mean"] + 0.02
    fast = copy.deepcopy(small.module)  # the small network with the means at their widths in the place of the integers
    positions = torch.where(small.kept["input"])[0], torch.where(small.kept["0"])[0]
    mean = dict(net.named_parameters())
    values = {
        "0.weight": mean["0.weight"][positions[1]][:, positions[0]], "0.bias": mean["0.bias"][positions[1]],
        "2.weight": mean["2.weight"][:, positions[1]], "2.bias": mean["2.bias"],
    }  # fmt: skip
    with torch.no_grad():
        for name, p in fast.named_parameters():
            p.copy_(values[name])
    assert errors["pruned"] == pytest.approx(wrong_share(fast, x, y))
    with torch.no_grad():
        for name, p in fast.named_parameters():
            p.copy_(small.widths.fixed[name].round(values[name]))
    assert errors["fast"] == pytest.approx(wrong_share(fast, x, y))
    for variant, module in small.variants.items():
        assert errors[variant] == pytest.approx(wrong_share(module, x, y))
        assert [p.shape for p in module.parameters()] == [p.shape for p in small.module.parameters()]
    with torch.no_grad():
        for name, p in fast.named_parameters():
            p.copy_(small.widths.floats[name].round(values[name]))
    for p, q in zip(fast.parameters(), small.variants["fast in floats"].parameters(), strict=True):
        assert torch.equal(p, q)


def test_widths_are_the_narrowest_within_a_tenth_of_a_point() -> None:
    net = trained()
    report = compressed(net, validation=separable(1000)).report()
    assert report.errors["fast"] <= report.errors["pruned"] + 0.001 + 1e-12
    assert set(report.errors_one_bit_below) == {name for name, bits in report.bits.items() if bits}
    for error in report.errors_one_bit_below.values():
        assert error > report.errors["pruned"] + 0.001


@pytest.mark.slow
def test_widths_on_digits() -> None:
    """Within 0.1 points of 32 bits on the data that chose them; a bit below in one layer the error is worse."""
    d = bdl.data.load("digits", seed=0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
    model = bdl.Classifier(bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys()))
    guide = bdl.guides.AutoMeanField(model)
    bdl.fit_svi(
        model, guide, (d.x_train, d.y_train), epochs=150, batch_size=64, kl_warmup=30, progress=False,
        optimizer=partial(torch.optim.Adam, lr=5e-3, fused=True), seed=0,
    )  # fmt: skip
    validation = d.x_validation, d.y_validation
    small = bdl.compress(net, guide, example_input=d.x_train[:1], validation=validation)
    report = small.report()
    assert report.errors["fast"] <= report.errors["pruned"] + 0.001
    assert max(report.errors_one_bit_below.values()) > report.errors["fast"]
    assert report.fast > 4 * report.pruning  # under eight bits a weight
    assert wrong_share(small.module, d.x_test, d.y_test) < 0.08
    alone = bdl.compress(net, guide, example_input=d.x_train[:1])  # by the posterior alone
    assert wrong_share(alone.module, *validation) <= report.errors["posterior mean"] + 0.04


def test_without_validation_data() -> None:
    x, y = separable()
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))
    model = bdl.Classifier(bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys()))
    guide = bdl.guides.AutoMeanField(model)
    bdl.fit_svi(
        model, guide, (x, y), epochs=300, batch_size=300, progress=False, optimizer=partial(torch.optim.Adam, lr=0.02),
        seed=0,
    )  # fmt: skip
    small = bdl.compress(net, guide, example_input=x[:1])
    report = small.report()
    assert not report.errors
    assert not report.errors_one_bit_below
    assert report.maximum > 5
    assert wrong_share(small.module, *separable(1000)) < 0.1


def test_given_choices_are_kept() -> None:
    net = trained()
    small = compressed(net, validation=separable(), unit_thresholds=math.inf, spread=0.01, trade=0.0, tolerance=1.0)
    assert small.report().architecture == "6-12"
    grid = dict(net.named_parameters())
    for name, quantised in small.parameters.items():
        assert torch.equal(quantised.levels, (grid[name].double() / 2.0**quantised.exponent).round().long())


def test_a_posterior_that_is_sure_beyond_what_a_file_takes(tmp_path: Any) -> None:
    for dtype, noise in ((torch.float32, 1e-18), (torch.float64, 1e-150)):
        net = trained().to(dtype)
        posterior = sure(net, noise=noise, dead=False)
        small = bdl.compress(net, posterior, example_input=torch.zeros(1, 6))
        require_reloads(small, net, tmp_path / "n.bdl", torch.randn(4, 6, dtype=dtype))
        x = torch.randn(50, 6, dtype=dtype)
        assert float((small.module(x) - net(x)).detach().abs().max()) < 0.05


def shared_values(small: CompressedNetwork) -> set[float]:
    return set(torch.cat([p.detach().flatten() for p in small.module.parameters()]).tolist())


@pytest.mark.parametrize("scales", [True, False], ids=["posterior", "points"])
@pytest.mark.parametrize("validation", [True, False])
def test_a_codebook_by_k_means(scales: bool, validation: bool, tmp_path: Any) -> None:
    net, (x, y) = trained(), separable(1000)
    posterior = sure(net)
    if not scales:
        posterior = WeightPosterior(posterior.mean, {n: 0 * v for n, v in posterior.variance.items()})
    options = {"validation": (x, y), "tolerance": 0.02} if validation else {}
    small = bdl.compress(net, posterior, example_input=x[:1], codebook=64, **options)
    require_reloads(small, net, tmp_path / "n.bdl", x)
    values = shared_values(small)
    assert 2 <= len(values) <= 65
    report = small.report()
    assert sum(report.bytes_by_part.values()) == report.file_bytes
    assert report.bytes_by_part["codebook"] <= 2 * len(values) + 4
    like: nn.Module = net  # which it must be about as good as
    if scales and not validation:  # in 25 such cases within 0.006 of what integers make of the same made-up posterior
        like = bdl.compress(net, posterior, example_input=x[:1]).module
    assert wrong_share(small.module, x, y) <= wrong_share(like, x, y) + (0.02 if validation else 0.05)
    if validation:
        assert report.errors["coded"] <= report.errors["posterior mean"] + 0.02
        with warnings.catch_warnings(record=True) as said:  # of some data 64 values cannot keep all of the accuracy
            warnings.simplefilter("always")
            tight = bdl.compress(net, posterior, example_input=x[:1], codebook=64, validation=(x, y), tolerance=0.0)
        errors = tight.report().errors
        missed = any("No choice tried keeps the tolerance" in str(warning.message) for warning in said)
        assert missed == (errors["coded"] > errors["posterior mean"])


def test_a_codebook_of_a_mixture(tmp_path: Any) -> None:
    """Soft weight sharing of point weights from fit to file, and of a part of a network beside another prior."""
    x, y = separable(1000)
    for everything in (True, False):
        net = trained()
        prior = bdl.priors.SoftWeightSharing(components=12, zero_share=0.5, hyper_weight=0.2)
        chosen: Any = prior if everything else bdl.priors.ByName({"*.bias": bdl.priors.Gaussian(), "*": prior})
        model = bdl.Classifier(bdl.BayesianModule(net, chosen, name="net"))
        guide = AutoDelta(model, init_loc_fn=bdl.guides.init_to_network)
        bdl.fit_svi(
            model, guide, (x, y), epochs=300, batch_size=500, progress=False, estimator="plain", kl_weight=0.2,
            optimizer=partial(torch.optim.Adam, lr=0.01), seed=0,
        )  # fmt: skip
        before = {name: value.clone() for name, value in prior.state_dict().items()}
        small = bdl.compress(net, guide, example_input=x[:1], codebook=prior, validation=(x, y), tolerance=0.02)
        assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())
        require_reloads(small, net, tmp_path / "n.bdl", x)
        assert small.errors["coded"] <= small.errors["posterior mean"] + 0.02
        weights = [p for name, p in small.module.named_parameters() if everything or name.endswith("weight")]
        values = torch.cat([p.detach().flatten() for p in weights]).unique()
        means = prior.components.means
        assert 2 <= len(values) <= len(means)
        assert float((values[:, None] - means).abs().amin(1).max()) < 0.02  # of merged ones that between theirs
        assert everything == all(isinstance(p, Clustered) for p in small.parameters.values())
        with pytest.raises(UnsupportedModelError, match="point values"):
            bdl.compress(net, guide, example_input=x[:1])


def test_thresholds_that_cut_a_layer_to_nothing(tmp_path: Any) -> None:
    net = trained()
    with pytest.warns(UserWarning, match=r"cut these to nothing.*: input, 0"):
        small = compressed(net, unit_thresholds=-1000.0)
    assert small.report().architecture == "1-1"
    require_reloads(small, net, tmp_path / "n.bdl", torch.randn(3, 6))


def test_a_posterior_of_noise_only(tmp_path: Any) -> None:
    net = trained()
    noise = WeightPosterior(
        {n: p.detach() for n, p in net.named_parameters()}, {n: 1e6 + 0 * p for n, p in net.named_parameters()}
    )
    with pytest.warns(UserWarning, match="cut these to nothing"):
        small = bdl.compress(net, noise, example_input=torch.zeros(1, 6))
    require_reloads(small, net, tmp_path / "n.bdl", torch.randn(3, 6))
    assert small.report().nonzero == 0


def test_a_tolerance_that_no_choice_keeps_is_warned_of() -> None:
    net = trained()
    states = iter([0.0])
    with pytest.warns(UserWarning, match="No choice tried keeps the tolerance"):
        compressed(net, validation=lambda _: next(states, 0.5), tolerance=0.1)


@pytest.mark.parametrize("name", ["lstm", "gated"])
def test_layers_that_cannot_be_pruned_are_named_and_kept_whole(name: str, tmp_path: Any) -> None:
    net, shape, whole, _ = UNPRUNABLE[name]
    with pytest.warns(UserWarning, match="Layers kept whole") as told:
        small = bdl.compress(net, sure(net), example_input=torch.zeros(shape))
    assert all(layer in str(told[0].message) for layer in whole)
    require_reloads(small, net, tmp_path / "n.bdl", torch.randn(shape))


def test_nothing_is_changed() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    net.train()
    net[1].eval()
    model = bdl.Classifier(bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys(), select=["*.weight"]))
    guide = bdl.guides.AutoMeanField(model)
    x, y = separable(50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guide(x, y)
        net[0].bias.requires_grad_(False)
        tensors = [*net.parameters(), *guide.parameters()]
        for p in tensors:
            p.grad = torch.ones_like(p)
        before = copy.deepcopy([*net.state_dict().values(), *guide.state_dict().values()])
        state = torch.get_rng_state()
        with pyro.get_param_store().scope():  # whose names the network takes over
            small = bdl.compress(net, guide, example_input=x[:2], validation=(x, y))
    after = [*net.state_dict().values(), *guide.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in net.modules()] == [True, True, False, True, True]
    assert all(p.grad is not None and bool((p.grad == 1).all()) for p in tensors)
    assert not net[0].bias.requires_grad
    assert not any(module.training for module in small.module.modules())
    assert not small.module[0].bias.requires_grad
    assert small.module[0].weight.requires_grad


def test_the_module_is_used_as_any_other(tmp_path: Any) -> None:
    net, (x,) = make("batch_norm")
    module = bdl.compress(net, sure(net), example_input=x).module
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), module(x))
    state = copy.deepcopy(module)
    state.load_state_dict(module.state_dict())
    module(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_takes_the_module(tmp_path: Any) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    net, (x,) = make("lenet_5")
    module = bdl.compress(net, sure(net), example_input=x).module
    torch.onnx.export(module, (x,), tmp_path / "n.onnx", dynamo=True)
    onnx.checker.check_model(onnx.load(tmp_path / "n.onnx"))


def test_another_dtype_of_the_example_and_a_bayesian_module() -> None:
    net = trained()
    bnn = bdl.BayesianModule(net)
    guide = bdl.guides.AutoMeanField(bdl.Classifier(bnn))
    guide(*separable(5))
    a = bdl.compress(bnn, guide, example_input=torch.zeros(3, 6, dtype=torch.float64))
    b = bdl.compress(net, guide, example_input=torch.zeros(1, 6))
    assert a.to_bytes() == b.to_bytes()


def test_models_that_want_more_than_the_input() -> None:
    net, (x, y) = trained(), separable(20)
    bnn = bdl.BayesianModule(net)

    def model(x: Tensor, y: Tensor) -> None:
        logits = bnn(x)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    guide = bdl.guides.AutoMeanField(model)
    guide(x, y)
    with pytest.raises(InputError, match="Hand over weight_posterior"):
        bdl.compress(net, guide, example_input=x)
    bdl.compress(net, weight_posterior(net, guide, x, y), example_input=x)


def file_of_a_fixed_posterior() -> str:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    return bdl.compress(net, sure(net), example_input=torch.zeros(1, 1, 4, 4)).to_bytes().hex()


def test_the_same_file_from_another_process() -> None:
    code = "from tests.test_compress import file_of_a_fixed_posterior as f; print(f())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == file_of_a_fixed_posterior()


X, Y = torch.randn(10, 6), torch.zeros(10).long()


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"validation": (X, Y[:9])}, InputError, "a label each"),
        ({"validation": (X[:0], Y[:0])}, InputError, "a label each"),
        ({"validation": (X[:, :5], Y)}, RuntimeError, "mat1"),
        ({"validation": (X, Y.float())}, InputError, "integers, one a point"),
        ({"validation": (X, Y[:, None])}, InputError, "integers, one a point"),
        ({"validation": (X, Y + 2)}, InputError, r"integers in \[0, 2\)"),
        ({"validation": (X, Y - 1)}, InputError, r"integers in \[0, 2\)"),
        ({"validation": (X / 0, Y)}, NumericalError, "NaN or infinity"),
        ({"validation": X}, InputError, "inputs and labels"),
        ({"validation": (X, None)}, InputError, "tensors"),
        ({"validation": lambda net: 0.1}, InputError, "a number, with a function"),
        ({"validation": lambda net: math.nan, "tolerance": 0.1}, NumericalError, "nan"),
        ({"validation": lambda net: 3.0, "tolerance": 0.1}, NumericalError, r"fraction in \[0, 1\]"),
        ({"validation": (X, Y), "tolerance": -0.1}, InputError, "tolerance"),
        ({"validation": (X, Y), "tolerance": math.nan}, InputError, "tolerance"),
        ({"unit_thresholds": {"nobody": 3.0}}, InputError, "nobody"),
        ({"unit_thresholds": math.nan}, InputError, "NaN"),
        ({"codebook": 0}, InputError, "number of clusters"),
        ({"codebook": "k-means"}, InputError, "number of clusters"),
        ({"codebook": bdl.priors.SoftWeightSharing()}, InputError, "the prior of weights of this network"),
        ({"spread": 0.0}, InputError, "spread"),
        ({"spread": math.nan}, InputError, "spread"),
        ({"trade": -1.0}, InputError, "trade"),
        ({"example_input": torch.zeros(1, 5)}, InputError, "the example input"),
        ({"example_input": torch.zeros(0, 6)}, InputError, "the example input"),
        ({"example_input": [[0.0] * 6]}, InputError, "the example input"),
        ({"example_input": None}, InputError, "the example input"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], told: str) -> None:
    net = trained()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error, match=told):
        bdl.compress(net, sure(net), **{"example_input": torch.zeros(1, 6), **options})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_posteriors_that_do_not_fit() -> None:
    net, other, x = trained(), nn.Linear(6, 2), torch.zeros(1, 6)
    mean = {name: p.detach() for name, p in net.named_parameters()}
    with pytest.raises(UnsupportedModelError, match="no variance but zero"):
        bdl.compress(net, WeightPosterior(mean, {n: 0 * m for n, m in mean.items()}), example_input=x)
    with pytest.raises(InputError, match="moments of"):
        bdl.compress(net, sure(other), example_input=x)
    guide = bdl.guides.AutoMeanField(bdl.Classifier(bdl.BayesianModule(other)))
    guide(x, torch.zeros(1).long())
    with pytest.raises(InputError, match="does not call"):
        bdl.compress(net, guide, example_input=x)
    with pytest.raises(InputError, match="a network with parameters"):
        bdl.compress(nn.ReLU(), guide, example_input=x)
