"""Signal to noise of weights and units, and what thresholds keep."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.pruning import keep_below, unit_information, unit_log_alpha, weight_log_alpha
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.compression.units.unit_groups import Units
from pyro_bdl.errors import InputError
from tests.compression.units.pruned_networks import make
from tests.fresh_state import fresh_state  # noqa: F401


def random_posterior(network: nn.Module) -> WeightPosterior:
    mean = {name: torch.randn_like(p).detach() for name, p in network.named_parameters()}
    return WeightPosterior(mean, {name: torch.rand_like(m) for name, m in mean.items()})


def ratio(posterior: WeightPosterior, name: str, *index: object) -> float:
    """The definition, on a part of one tensor."""
    mean, variance = (np.asarray(x[name], dtype=float)[index] for x in (posterior.mean, posterior.variance))
    return math.log(variance.sum() / np.square(mean).sum())


def test_units_of_a_multilayer_perceptron() -> None:
    network, inputs = make("mlp")
    posterior = random_posterior(network)
    scores = unit_log_alpha(posterior, find_units(network, inputs))
    every = slice(None)
    for u in range(7):
        assert scores["input"][u] == pytest.approx(ratio(posterior, "0.weight", every, u))
    for u in range(9):
        made, read = ratio(posterior, "0.weight", u), ratio(posterior, "2.weight", every, u)
        assert scores["0"][u] == pytest.approx(max(made, read))


def test_units_of_lenet_5() -> None:
    network, inputs = make("lenet_5")
    posterior = random_posterior(network)
    scores = unit_log_alpha(posterior, find_units(network, inputs))
    every = slice(None)
    for u in (0, 7, 49):
        made = ratio(posterior, "conv2.weight", u)
        read = ratio(posterior, "fc1.weight", every, slice(16 * u, 16 * u + 16))
        assert scores["conv2"][u] == pytest.approx(max(made, read))
    for u in (0, 7, 799):
        assert scores["fc1.input"][u] == pytest.approx(ratio(posterior, "fc1.weight", every, u))


def nats(posterior: WeightPosterior, name: str, *index: object) -> float:
    """The information of a part of one tensor, by its definition."""
    mean, variance = (np.asarray(x[name], dtype=float)[index] for x in (posterior.mean, posterior.variance))
    return float(0.5 * np.log(1 + np.square(mean) / variance).sum())


def test_information_of_units() -> None:
    network, inputs = make("lenet_5")
    posterior = random_posterior(network)
    found = unit_information(posterior, find_units(network, inputs))
    every = slice(None)
    for u in (0, 7, 49):
        made, read = (
            nats(posterior, "conv2.weight", u),
            nats(posterior, "fc1.weight", every, slice(16 * u, 16 * u + 16)),
        )
        assert found["conv2"][u] == pytest.approx(min(made, read))
    for u in (0, 7, 799):
        assert found["fc1.input"][u] == pytest.approx(nats(posterior, "fc1.weight", every, u))


def test_information_of_certain_and_of_empty_weights() -> None:
    network, inputs = make("mlp")
    units = find_units(network, inputs)
    posterior = random_posterior(network)
    for name, index, value in (("0.weight", (1,), 0.0), ("2.weight", (slice(None), 1), 0.0)):
        posterior.mean[name][index], posterior.variance[name][index] = value, 0.0
    posterior.variance["0.weight"][2], posterior.variance["2.weight"][:, 2] = 0.0, 0.0
    found = unit_information(posterior, units)["0"]
    assert found[1] == 0
    assert found[2] == math.inf
    assert found.isfinite().sum() == len(found) - 1
    kept = unit_information(WeightPosterior({"2.bias": torch.ones(3)}, {"2.bias": torch.ones(3)}), units)
    assert all((values == math.inf).all() for values in kept.values())


def test_noise_that_does_no_harm_hides_no_unit_from_the_information() -> None:
    """Two inputs of ten are read with enormous noise: by log alpha all hidden units are noise alike."""
    network = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 2))
    units = find_units(network, torch.zeros(1, 10))
    mean = {name: torch.ones_like(p).detach() for name, p in network.named_parameters()}
    variance = {name: torch.full_like(m, 0.01) for name, m in mean.items()}
    mean["0.weight"][3:] = 0.01
    variance["0.weight"][:, 8:] = 1e6
    posterior = WeightPosterior(mean, variance)
    assert unit_log_alpha(posterior, units)["0"].min() > 3
    found = unit_information(posterior, units)["0"]
    assert found[:3].min() > 100 * found[3:].max()


def test_a_residual_unit_is_off_only_if_all_that_make_it_are() -> None:
    network, inputs = make("resnet")
    posterior = random_posterior(network)
    units = find_units(network, inputs)
    scores = unit_log_alpha(posterior, units)["0"]
    every = slice(None)
    for u in range(8):
        made = min(ratio(posterior, "0.weight", u), ratio(posterior, "3.conv2.weight", u))
        readers = ("3.conv1.weight", "4.conv1.weight", "4.short.0.weight")
        read = min(ratio(posterior, name, every, u) for name in readers)
        assert scores[u] == pytest.approx(max(made, read))


def test_biases_and_normalisation_do_not_count() -> None:
    network, inputs = make("batch_norm")
    posterior = random_posterior(network)
    units = find_units(network, inputs)
    other = {n: m if m.dim() > 1 else 100 * m for n, m in posterior.mean.items()}
    for a, b in zip(
        unit_log_alpha(posterior, units).values(),
        unit_log_alpha(WeightPosterior(other, posterior.variance), units).values(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_weights_that_are_no_random_variables() -> None:
    network, inputs = make("mlp")
    units = find_units(network, inputs)
    full = random_posterior(network)

    def without(*names: str) -> dict[str, Tensor]:
        parts = ({n: x for n, x in d.items() if n not in names} for d in (full.mean, full.variance))
        return unit_log_alpha(WeightPosterior(*parts), units)

    scores = without("2.weight")
    assert scores["0"][3] == pytest.approx(ratio(full, "0.weight", 3))
    assert scores["2"][3] == pytest.approx(ratio(full, "4.weight", slice(None), 3))
    assert (without("0.weight", "2.weight")["0"] == -math.inf).all()


def test_the_posterior_of_another_network_is_refused() -> None:
    network, inputs = make("mlp")
    units = find_units(network, inputs)
    small = random_posterior(nn.Sequential(nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    with pytest.raises(InputError, match="posterior of"):
        unit_log_alpha(small, units)


numbers = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers.map(abs)), min_size=3, max_size=3),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_extreme_posteriors_are_never_nan(moments: list[tuple[float, float]], dtype: torch.dtype) -> None:
    limit = torch.finfo(dtype).max
    mean, variance = (
        torch.tensor([[x]], dtype=torch.float64).clamp(-limit, limit).to(dtype).reshape(1, 3)
        for x in ([m for m, _ in moments], [v for _, v in moments])
    )
    posterior = WeightPosterior({"0.weight": mean, "1.weight": mean.T}, {"0.weight": variance, "1.weight": variance.T})
    alone = weight_log_alpha(posterior)["0.weight"]
    assert not alone.isnan().any()
    for score, m, v in zip(alone[0].tolist(), mean[0].tolist(), variance[0].tolist(), strict=True):
        if m and v:
            assert score == pytest.approx(math.log(v) - 2 * math.log(abs(m)))
        else:
            assert score == (math.inf if not m else -math.inf)
    together = unit_log_alpha(posterior, _two_layers())
    assert not any(score.isnan().any() for score in together.values())
    keep_below({"0.weight": alone}, math.inf)


_found: list[Units] = []


def _two_layers() -> Units:
    if not _found:
        _found.append(find_units(nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 3)), torch.zeros(1, 3)))
    return _found[0]


def test_extreme_scales_within_a_tensor_do_not_hide_each_other() -> None:
    posterior = WeightPosterior(
        {"weight": torch.tensor([[1e-200, 1e200]], dtype=torch.float64)},
        {"weight": torch.tensor([[1e-300, 1e300]], dtype=torch.float64)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        units = find_units(nn.Linear(2, 1).double(), torch.zeros(1, 2))
    scores = unit_log_alpha(posterior, units)["input"]
    torch.testing.assert_close(scores, torch.tensor([100.0, -100.0], dtype=torch.float64) * math.log(10))


def test_thresholds_by_name() -> None:
    scores = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([[1.0], [3.0]])}
    kept = keep_below(scores, {"a": 2.0})
    assert kept["a"].tolist() == [True, False]
    assert kept["b"].tolist() == [[True], [True]]
    assert keep_below(scores, 3.0)["a"].tolist() == [True, True]


def test_one_is_kept_and_named() -> None:
    scores = {
        "fc1": torch.tensor([5.0, 4.0, 9.0]),
        "fc2": torch.tensor([math.inf, math.inf]),
        "fc3": torch.tensor([0.0]),
    }
    with pytest.warns(UserWarning, match="fc1, fc2") as caught:
        kept = keep_below(scores, 3.0)
    assert kept["fc1"].tolist() == [False, True, False]
    assert int(kept["fc2"].sum()) == 1
    assert "fc3" not in str(caught[0].message)


def test_one_feature_of_the_channels_that_stay_is_kept() -> None:
    network, inputs = make("lenet_5")
    units = find_units(network, inputs)
    scores = {name: torch.zeros(group.size) for name, group in units.groups.items()}
    scores["conv2"][1:] = 9.0
    scores["fc1.input"][:16] = 9.0
    scores["fc1.input"][5] = 8.0
    with pytest.warns(UserWarning, match="fc1.input"):
        kept = keep_below(scores, 3.0, units=units)
    assert kept["fc1.input"].nonzero().flatten().tolist() == [5]
    assert units.architecture(kept) == "20-1-1-500"


@pytest.mark.parametrize("thresholds", [math.nan, {"a": math.nan}, {"b": 1.0}])
def test_bad_thresholds_are_refused(thresholds: float | dict[str, float]) -> None:
    with pytest.raises(InputError, match="threshold"):
        keep_below({"a": torch.zeros(2)}, thresholds)


def test_log_alpha_that_is_nan_is_refused() -> None:
    with pytest.raises(InputError, match="log alpha"):
        keep_below({"a": torch.tensor([math.nan, 0.0])}, 3.0)
