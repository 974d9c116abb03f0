"""Fits that shrink: the part's steps are the whole's, everything is put back, and a resumed fit ends bit for bit."""

import copy
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
from pyro_bdl.compression.pruning import unit_log_alpha
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import BDLError, InputError, NumericalError, UnsupportedModelError
from pyro_bdl.inference import Shrink, shrinking
from pyro_bdl.inference.cut_tensors import Cut
from pyro_bdl.inference.shrinking import Shrinking
from pyro_bdl.inference.steps import FlatStep
from pyro_bdl.minibatches import Batch
from pyro_bdl.priors import Gaussian, SoftWeightSharing
from pyro_bdl.priors.weight import Weight
from pyro_bdl.weight_moments import weight_posterior
from tests.inference import shrunk
from tests.inference.shrunk import PRIORS, B, N, convolutional, data, mlp, off_masks, program, switch_off
from tests.statistics import means_agree

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True),
}
SELECTED: Any = ["*.weight"]


class Given(Tensor):
    """Noise that is what it is, whenever it is asked for."""

    def normal_(self, *_: Any, **__: Any) -> "Given":
        return self


class Bench:
    """A fit of a few steps by hand, then of the part and of the whole with units off."""

    def __init__(
        self, prior: str, net: Any = mlp, *, optimizer: str = "Adam", estimator: str = "plain", select: Any = None
    ) -> None:
        torch.manual_seed(4)
        self.bnn, self.model, self.guide = program(PRIORS[prior](), net().double(), select=select)
        x, y = data()
        self.batch, self.estimator = Batch((x[:B], y[:B]), torch.arange(B)), estimator
        self.step = self.make_step()
        self.optimizer = OPTIMIZERS[optimizer](self.step.parameters)
        for _ in range(2):
            self.step(self.batch, 1.0)
            self.optimizer.step()
        self.units, self.kept = off_masks(self.bnn)
        self.switch_off()

    def make_step(self) -> FlatStep:
        wrapped = None if self.estimator == "plain" else bdl.local_reparameterization(self.guide, model=self.model)
        return FlatStep(self.model, self.guide, wrapped, SubsampleIndices(size=N), self.batch)

    @torch.no_grad()
    def switch_off(self) -> None:
        """No mean, no variance, no momentum; learned biases too."""
        switch_off(self.guide, self.units, self.kept, log_variance=-60.0)
        gone = self.guide.log_variance == -60.0
        learned = {name: p for name, p in self.bnn.net.named_parameters() if any(p is q for q in self.step.parameters)}
        for parameter in (self.guide.loc, self.guide.log_variance):
            for value in self.optimizer.state[parameter].values():
                if isinstance(value, Tensor) and value.shape == gone.shape:
                    value[gone] = 0.0
        for name, group in self.units.groups.items():
            for member in group.of("bias"):
                if member.name in learned:
                    p = learned[member.name]
                    for value in (p, *self.optimizer.state[p].values()):
                        if isinstance(value, Tensor) and value.shape == p.shape:
                            value[member.cut(self.kept[name])] = 0.0

    def shrinking(self) -> Shrinking:
        return Shrinking(Shrink(every=1), self.guide, self.step, self.make_step, kl_warmup=0.0)

    def run(self, step: FlatStep, noise: Tensor, steps: int = 3) -> list[float]:
        losses = []
        for k in range(steps):
            step._noise = noise[k].as_subclass(Given)
            losses.append(step(self.batch, 1.0).total)
            self.optimizer.step()
            if self.guide.loc is self.step.parameters[0]:
                self.switch_off()  # a pruned input would learn again
        return losses

    def state(self, left: list[Tensor]) -> list[Tensor]:
        """Parameters, and what the optimizer knows of them, where they are left."""
        found = []
        for parameter, mask in zip(self.step.parameters, left, strict=True):
            state = [v for _, v in sorted(self.optimizer.state[parameter].items()) if isinstance(v, Tensor)]
            tensors = [parameter.detach(), *state]
            found += [v[mask].clone() if v.shape == mask.shape else v.clone() for v in tensors]
        return found


def same_steps(bench: Bench) -> None:
    """Three steps of the whole, and three of the part with the same noise."""
    noise = torch.randn(3, len(bench.guide.loc), dtype=torch.float64)
    begin = copy.deepcopy(bench.optimizer.state_dict()), [p.detach().clone() for p in bench.step.parameters]
    losses = bench.run(bench.step, noise)
    whole = list(bench.step.parameters)
    after = copy.deepcopy(bench.optimizer.state_dict()), [p.detach().clone() for p in whole]
    bench.optimizer.load_state_dict(begin[0])
    with torch.no_grad():
        for parameter, value in zip(whole, begin[1], strict=True):
            parameter.copy_(value)
    small = bench.shrinking()
    step = small.begin_epoch(1, bench.optimizer)
    assert small.part is not None
    assert all(torch.equal(small.kept[name], mask) for name, mask in bench.kept.items())
    lefts = {id(cut.whole): cut.left for cut in small.part.cuts}
    left = [lefts.get(id(p), torch.ones_like(p, dtype=torch.bool)) for p in whole]
    found = bench.run(step, noise[:, left[0]])
    assert found[0] == pytest.approx(losses[0], rel=1e-9)  # later other scales of what was cut count in the whole
    bench.step = step
    part = bench.state([torch.ones_like(p, dtype=torch.bool) for p in step.parameters])
    small.close()
    assert all(p is q for p, q in zip((bench.guide.loc, bench.guide.log_variance), whole, strict=False))
    for mask, p, value in zip(left, whole, after[1], strict=True):
        torch.testing.assert_close(p[mask], value[mask], rtol=1e-9, atol=1e-10)
    bench.step = bench.make_step()
    bench.optimizer = type(bench.optimizer)(whole, lr=1.0)
    bench.optimizer.load_state_dict(after[0])
    with torch.no_grad():
        for parameter, value in zip(whole, after[1], strict=True):
            parameter.copy_(value)
    for a, b in zip(part, bench.state(left), strict=True):
        torch.testing.assert_close(a.reshape(-1), b.reshape(-1), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("net", [mlp, convolutional])
@pytest.mark.parametrize("prior", PRIORS)
def test_steps_of_the_part_are_those_of_the_whole(prior: str, net: Any) -> None:
    same_steps(Bench(prior, net))


@pytest.mark.parametrize("select", [None, SELECTED])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_and_learned_parameters(optimizer: str, select: Any) -> None:
    same_steps(Bench("GroupNormalJeffreys", optimizer=optimizer, select=select))


def _forgets(optimizer: torch.optim.Optimizer, changes: Any) -> None:
    """A mutant: the new parameters begin without a state."""
    new = {id(c.whole): c.part for c in changes}
    for group in optimizer.param_groups:
        group["params"] = [new.get(id(p), p) for p in group["params"]]


def _takes_the_first(optimizer: torch.optim.Optimizer, changes: Any) -> None:
    """A mutant: the state of the first elements instead of those that are left."""
    first = [torch.arange(c.left.numel()).view(c.left.shape) < c.part.numel() for c in changes]
    EXCHANGE(optimizer, [Cut(c.whole, c.part, left) for c, left in zip(changes, first, strict=True)])


EXCHANGE = shrinking.exchange_parameters
STATE_MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "state forgotten": (shrinking, "exchange_parameters", _forgets),
    "state of others": (shrinking, "exchange_parameters", _takes_the_first),
    "nothing put back": (Cut, "put_back", lambda self: None),
    "KL of the cut left out": (FlatStep, "kl", lambda self: 0.0),
}  # fmt: skip


@pytest.mark.parametrize("mutant", STATE_MUTANTS)
def test_mutants_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("GroupNormalJeffreys")
    if mutant == "KL of the cut left out":
        small = bench.shrinking()  # which asks for the KL to see what the model calls
        monkeypatch.setattr(bench, "shrinking", lambda: small)
    where, name, what = STATE_MUTANTS[mutant]
    monkeypatch.setattr(where, name, what)
    with pytest.raises(AssertionError):
        same_steps(bench)


def test_a_fan_in_of_the_part_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("fan-in")
    make: Any = Weight.__init__
    monkeypatch.setattr(
        Weight, "__init__", lambda self, name, value, module, whole=None: make(self, name, value, module)
    )
    with pytest.raises(UnsupportedModelError, match="the prior of"):
        bench.shrinking()


@pytest.mark.parametrize("net", [mlp, convolutional])
def test_local_gradients_agree_in_mean(net: Any) -> None:
    """With local draws the noise differs, the expected gradient does not."""
    bench = Bench("GroupNormalJeffreys", net, estimator="local")
    whole = []
    for _ in range(600):
        bench.step(bench.batch, 1.0)
        whole.append(torch.cat([bench.guide.loc.grad, bench.guide.log_variance.grad]))
    small = bench.shrinking()
    step = small.begin_epoch(1, bench.optimizer)
    assert small.part is not None
    left = small.part.cuts[0].left
    part = []
    for _ in range(600):
        step(bench.batch, 1.0)
        part.append(torch.cat([bench.guide.loc.grad, bench.guide.log_variance.grad]))
    small.close()
    means_agree(torch.stack(whole)[:, torch.cat([left, left])], torch.stack(part))


def test_a_kept_unit_is_judged_without_the_noise_of_what_was_cut() -> None:
    bench = Bench("Gaussian")
    switch_off(bench.guide, bench.units, bench.kept, log_variance=4.0)
    small = bench.shrinking()
    small.begin_epoch(1, bench.optimizer)
    before = {name: mask.clone() for name, mask in small.kept.items()}
    small.begin_epoch(2, bench.optimizer)
    assert all(torch.equal(small.kept[name], mask) for name, mask in before.items())
    small.close()


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


def test_the_reported_kl_goes_on_where_it_was() -> None:
    """What is cut adds a constant: right after a cut the KL is that of the whole, whose idle means are zero."""
    bench = Bench("Gaussian")
    small = bench.shrinking()
    step = small.begin_epoch(1, bench.optimizer)
    found = step.kl() + step.constant_kl
    small.close()
    assert found == pytest.approx(bench.make_step().kl(), rel=1e-12)
    assert step.constant_kl > 100.0


class Interrupted(Exception):
    pass


def _raise_at(epoch: int, error: BaseException) -> Callable[[Any], None]:
    def callback(told: Any) -> None:
        if told.epoch == epoch:
            raise error

    return callback


@pytest.mark.parametrize("epoch", [7, 8, 9, 11, 14])
def test_resumed_bit_for_bit(epoch: int, tmp_path: Any) -> None:
    whole, digest = shrunk.run(None, 16)
    assert sum(int((~mask).sum()) for mask in whole.kept.values()) > 10
    with pytest.raises(Interrupted):
        shrunk.run(tmp_path / "fit", 16, callbacks=[_raise_at(epoch, Interrupted())])
    torch.rand(3)
    resumed, again = shrunk.run(tmp_path / "fit", 16)
    assert (resumed.losses, resumed.kls) == (whole.losses, whole.kls)
    assert again == digest
    assert shrunk.run(tmp_path / "fit", 16)[1] == digest  # done already


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Any) -> None:
    shrunk.run(tmp_path / "fit", 12)
    for shrink in (False, True):
        with pytest.raises(InputError, match="Name another file"):
            shrunk.run(tmp_path / "fit", 14, shrink=shrink)


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
