"""Steps of a network without the units that are off: those of the whole, for each prior and optimizer."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_bdl as bdl
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.inference import Shrink, shrinking
from pyro_bdl.inference.cut_tensors import Cut
from pyro_bdl.inference.shrinking import Shrinking
from pyro_bdl.inference.steps import FlatStep
from pyro_bdl.minibatches import Batch
from pyro_bdl.priors.weight import Weight
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


def test_the_reported_kl_goes_on_where_it_was() -> None:
    """What is cut adds a constant: right after a cut the KL is that of the whole, whose idle means are zero."""
    bench = Bench("Gaussian")
    small = bench.shrinking()
    step = small.begin_epoch(1, bench.optimizer)
    found = step.kl() + step.constant_kl
    small.close()
    assert found == pytest.approx(bench.make_step().kl(), rel=1e-12)
    assert step.constant_kl > 100.0
