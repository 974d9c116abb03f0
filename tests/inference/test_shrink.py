"""Fits that shrink: what is cut, that all is whole again afterwards, and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.pruning import unit_log_alpha
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.errors import BDLError, InputError, NumericalError, UnsupportedModelError
from pyro_bdl.inference import Shrink
from pyro_bdl.inference.shrink import still_on
from pyro_bdl.priors import Gaussian, SoftWeightSharing
from pyro_bdl.weight_moments import weight_posterior
from tests.inference import shrunk
from tests.inference.shrunk import PRIORS, N, data, mlp, off_masks, program, switch_off


@pytest.mark.parametrize("estimator", ["local", "flipout", "plain"])
def test_a_fit_in_which_nothing_is_cut_is_the_same_bit_for_bit(estimator: Any) -> None:
    options: dict[str, Any] = {"estimator": estimator, "kl_warmup": 2.0}
    fit, digest = shrunk.run(None, 4, shrink=False, **options)
    fit.kept = {}
    for shrink in (Shrink(every=1, threshold=math.inf), Shrink(every=1, threshold={"0": 1e9})):
        again, _ = shrunk.run(None, 4, shrink=shrink, **options)
        assert (again.losses, again.kls) == (fit.losses, fit.kls)
        assert torch.equal(again.guide.loc, fit.guide.loc)
        assert all(bool(mask.all()) for mask in again.kept.values())
    assert digest


def test_all_is_whole_after_a_fit_and_for_callbacks() -> None:
    told: list[Any] = []
    loose: list[Any] = []

    def look(progress: Any) -> None:
        if not loose:
            loose.extend([progress.guide.loc, progress.guide.log_variance, progress.guide.sites])
        assert progress.guide.loc is loose[0]
        assert progress.guide.sites is loose[2]
        told.append(progress.architecture)

    fit, _ = shrunk.run(None, 16, callbacks=[look])
    guide, bnn = fit.guide, fit.model.network
    assert told[0] == "6-20-10"
    assert len(set(told)) > 2
    assert (guide.loc, guide.log_variance, guide.sites) == tuple(loose) or guide.loc is loose[0]
    assert [p.shape for p in bnn.parameters()] == [(20, 6), (20,), (10, 20), (10,), (3, 10), (3,)]
    store = pyro.get_param_store()
    assert store[f"{guide._pyro_name}.loc"].unconstrained() is guide.loc
    fresh = bdl.guides.AutoMeanField(fit.model)
    fresh.load_state_dict(guide.state_dict())
    x, y = data(torch.float32)
    scores = unit_log_alpha(weight_posterior(bnn, guide, x, y), find_units(bnn.net, x[:2]))
    for name, mask in fit.kept.items():
        assert bool((scores[name][~mask] == math.inf).all())
        assert bool(mask.any())
    small = bdl.compress(bnn, guide, example_input=x[:2])
    for name, mask in fit.kept.items():
        assert not bool((small.kept[name] & ~mask).any())
    again = bdl.fit_svi(fit.model, guide, (x, y), epochs=1, progress=False)
    assert math.isfinite(again.losses[0])


class Failing(torch.optim.Adam):
    """Fails once the parameters have become fewer."""

    error: BaseException

    def step(self, closure: Any = None) -> None:
        if self.param_groups[0]["params"][0].numel() < 419:
            raise self.error
        super().step()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), NumericalError("x"), MemoryError()])
def test_after_an_error_all_is_whole(error: BaseException) -> None:
    guides: list[Any] = []
    make = type("F", (Failing,), {"error": error})
    with pytest.raises(type(error)):
        shrunk.run(None, 16, callbacks=[lambda t: guides.append(t.guide)], optimizer=lambda p: make(p, lr=4e-2))
    guide = guides[0]
    assert guide.loc.numel() == sum(site.size for site in guide.sites) == 419
    x, y = data(torch.float32)
    assert guide(x, y)["0.weight.raw"].shape == (20, 6)


def test_batch_normalisation_and_training_modes(recwarn: pytest.WarningsRecorder) -> None:
    """Running statistics of the units that are left are put back."""
    net = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    bnn, model, guide = program(Gaussian(), net)
    x, y = data(torch.float32)
    guide(x, y)
    kept = {"0": torch.arange(6) > 1}
    switch_off(guide, *off_masks(bnn, kept))
    seen: list[Tensor] = []
    runs = int(net[1].num_batches_tracked)
    fit = bdl.fit_svi(
        model, guide, (x, y), epochs=4, progress=False, estimator="plain", seed=0,
        shrink=Shrink(every=1, threshold={"0": 12.0}), callbacks=[lambda _: seen.append(net[1].running_mean.clone())],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
    )  # fmt: skip
    assert fit.kept["0"].tolist() == kept["0"].tolist()
    assert bool((seen[3] != seen[1])[kept["0"]].all())
    assert torch.equal(seen[3][~kept["0"]], seen[1][~kept["0"]])
    assert net[1].num_batches_tracked == runs + 4


def _two_networks() -> Any:
    one, two = (bdl.BayesianModule(nn.Linear(6, 3), name=name) for name in "ab")
    return bdl.Classifier(lambda x: one(x) + two(x), size=N)


def _by_hand() -> Any:
    bnn = bdl.BayesianModule(mlp())
    return bdl.Classifier(lambda x: torch.func.functional_call(bnn.net, bnn.sample(), (x,)), size=N)


def _of_prior(prior: Any) -> Any:
    return lambda: bdl.Classifier(bdl.BayesianModule(mlp(), prior), size=N)


UNSUPPORTED: dict[str, tuple[Callable[[], Any], str]] = {
    "two networks": (_two_networks, "one BayesianModule, got 2"),
    "no call": (_by_hand, "one BayesianModule, got 0"),
    "one scale for all": (_of_prior(shrunk.OneScale()), "the prior of tau"),
    "by shape": (_of_prior(shrunk.ByShape()), "the prior of .*weight"),
    "learned mixture": (_of_prior(SoftWeightSharing(components=2)), "what the prior learns"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_cannot_shrink_is_refused_before_it_begins(case: str) -> None:
    make, message = UNSUPPORTED[case]
    model = make()
    guide = bdl.guides.AutoMeanField(model)
    x, y = data(torch.float32)
    guide(x, y)
    before = guide.loc.detach().clone()
    with pytest.raises(UnsupportedModelError, match=message):
        bdl.fit_svi(model, guide, (x, y), epochs=2, progress=False, shrink=True)
    assert torch.equal(guide.loc, before)


def test_other_guides_and_bounds_are_refused() -> None:
    _, model, guide = program(Gaussian(), mlp())
    x, y = data(torch.float32)
    for other, elbo in ((pyro.infer.autoguide.AutoNormal(model), None), (guide, bdl.MeanFieldELBO())):
        with pytest.raises(UnsupportedModelError, match="AutoMeanField"):
            bdl.fit_svi(model, other, (x, y), epochs=1, progress=False, shrink=True, elbo=elbo)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "every": (lambda: Shrink(every=0), "Shrink.every"),
    "after": (lambda: Shrink(after=1.5), "Shrink.after"),  # type: ignore[arg-type]
    "threshold": (lambda: Shrink(threshold=math.nan), "Shrink.threshold"),
    "thresholds": (lambda: Shrink(threshold={"0": "x"}), "Shrink.threshold"),  # type: ignore[dict-item]
    "least": (lambda: Shrink(least=1.1), "Shrink.least"),
    "kind": (lambda: shrunk.run(None, 1, shrink=3), "shrink: expected True"),
    "unknown group": (lambda: shrunk.run(None, 2, shrink=Shrink(threshold={"fc9": 1.0})), "groups among"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options(case: str) -> None:
    run, message = BAD[case]
    with pytest.raises(InputError, match=message):
        run()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from([torch.float32, torch.float64]), sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    prior=st.sampled_from(sorted(PRIORS)), loc=st.sampled_from([0.0, 1e-30, 1.0, 1e8]),
    log_variance=st.sampled_from([-80.0, -5.0, 20.0]), threshold=st.sampled_from([-20.0, 0.0, 3.0]),
)  # fmt: skip
def test_extremes(dtype: Any, sizes: Any, prior: str, loc: float, log_variance: float, threshold: float) -> None:
    """Finite, or an error of ours; whole in any case."""
    net = nn.Sequential(
        nn.Linear(6, sizes[0]), nn.Tanh(), nn.Linear(sizes[0], sizes[1]), nn.Tanh(), nn.Linear(sizes[1], 3)
    )
    _, model, guide = program(PRIORS[prior](), net.to(dtype))
    x, y = data(dtype)
    guide(x, y)
    whole = guide.loc
    with torch.no_grad():
        rows = torch.rand(len(whole)) < 0.5
        whole[rows] = loc
        guide.log_variance[torch.rand(len(whole)) < 0.5] = log_variance
    try:
        fit = bdl.fit_svi(model, guide, (x, y), epochs=3, progress=False, shrink=Shrink(every=1, threshold=threshold))
    except BDLError:
        pass
    else:
        assert all(map(math.isfinite, fit.losses))
        assert all(bool(mask.any()) for mask in fit.kept.values())
    assert guide.loc is whole
    assert bool(torch.isfinite(whole).all())


def test_a_group_of_which_all_is_off_waits_for_the_others() -> None:
    """Two of four inputs drown all hidden units in noise; with them gone, half of these are signal."""
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    units = find_units(net, torch.zeros(1, 4))
    mean = {name: torch.full_like(p, 1.0) for name, p in net.named_parameters()}
    variance = {name: torch.full_like(p, 0.01) for name, p in net.named_parameters()}
    variance["0.weight"][:, 2:] = 1e4
    variance["0.weight"][3:, :2], mean["0.weight"][3:] = 4.0, 0.3
    posterior, every = WeightPosterior(mean, variance), {n: torch.ones_like(m) for n, m in mean.items()}
    kept = {name: torch.ones(group.size, dtype=torch.bool) for name, group in units.groups.items()}
    first = still_on(Shrink(), posterior, every, units=units, kept=kept)
    assert first is not None
    assert [int(mask.sum()) for mask in first.values()] == [2, 6]
    left = every | {"0.weight": torch.ones(6, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0])}
    then = still_on(Shrink(), posterior, left, units=units, kept=first)
    assert then is not None
    assert [int(mask.sum()) for mask in then.values()] == [2, 3]
    assert still_on(Shrink(threshold=-9.0), posterior, every, units=units, kept=kept) is None
