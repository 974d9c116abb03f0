"""Fits whose network becomes smaller while they run."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.compression.units.cutting import cut
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.compression.units.shrinking import elements_left
from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.guides.mean_field import AutoMeanField, Site
from pyro_bdl.inference.cut_tensors import Cut, cut_buffers, exchange_parameters
from pyro_bdl.inference.numbers_left import NumbersLeft, numbers_left
from pyro_bdl.inference.shrink import Shrink, require_groups, still_on
from pyro_bdl.inference.steps import FlatStep
from pyro_bdl.parameters import own_parameter
from pyro_bdl.weight_moments import weight_posterior


@dataclass(frozen=True, eq=False)
class Part:
    """What is fitted in the place of the whole.

    Attributes:
        kept: by group, which units it has.
        module: the smaller program.
        sites, loc, log_variance: the guide's.
        cuts: the parameters of the step that lost elements, those of the guide first.
        buffers: those of the network.
    """

    kept: Mapping[str, Tensor]
    module: BayesianModule
    sites: tuple[Site, ...]
    loc: nn.Parameter
    log_variance: nn.Parameter
    cuts: list[Cut]
    buffers: list[Cut]


class Shrinking:
    """Cuts units out of a fit and puts everything back.

    The `BayesianModule` and the guide stay the user's objects. While a part is *in place* the module lets a smaller one
    answer its calls and the guide has shorter vectors; `whole` and `close` write what was learned to its places in the
    whole and put that in place. Of a unit that is cut the means of all its weights are 0 from then on and the variances
    what they were, so its log alpha is infinite; it adds a constant to the KL, which the reported one includes.

    Args:
        options: when to cut.
        guide: called once.
        step: of the whole.
        make_step: makes a step of what is in place.
        kl_warmup: epochs before which nothing is cut.

    Raises:
        InputError: thresholds for groups that are not there; a network without units that can be cut.
        UnsupportedModelError: another guide, or a model that does not call one `BayesianModule`; a prior whose part
            does not follow from the whole.

    Warns:
        UserWarning: names the layers whose units cannot be cut.
    """

    def __init__(
        self,
        options: Shrink,
        guide: AutoMeanField,
        step: FlatStep,
        make_step: Callable[[], FlatStep],
        *,
        kl_warmup: float,
    ) -> None:
        self.options, self.guide, self.step, self.make_step = options, guide, step, make_step
        self.first = max(options.after, math.ceil(kl_warmup))
        self._plate, self._batch = step.plate, step.first
        self._whole_sites, self._whole = guide.sites, list(step.parameters)
        with _aside():
            self.module, example = _module_of(step)
            self.units: Units = find_units(self.module.net, example)
            require_groups(options, self.units)
            self.kept = self.units.complete({})
            one_less = {name: torch.arange(len(mask)) > 0 for name, mask in self.kept.items() if len(mask) > 1}
            self._cut_out(self.units.complete(self.units.with_channels(self.kept | one_less)))  # is it possible?
        self.part: Part | None = None

    @property
    def architecture(self) -> str:
        """The units left: `278-98-13`."""
        return self.units.architecture(self.kept)

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What the optimizer works on."""
        return self.step.parameters

    def begin_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> FlatStep:
        """The step of this epoch, after a look at the units if it is time for one."""
        late = epoch - self.first
        if late < 0 or late % self.options.every:
            return self.step
        with _aside():
            self._put_back()
            kept = self._still_on()
            if kept is not None:
                self._replace(kept, optimizer)
            elif self.part is not None:
                self._put_in_place(self.part)
        return self.step

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within, module and guide are whole."""
        self._put_back()
        yield
        if self.part is not None:
            self._put_in_place(self.part)
            for each in self.part.cuts:
                each.take()

    def close(self) -> None:
        """Leave module and guide whole, for good."""
        self._put_back()
        if self.part is not None:
            for name, parameter in (("loc", self._whole[0]), ("log_variance", self._whole[1])):
                own_parameter(f"{self.guide._pyro_name}.{name}", parameter)  # type: ignore[arg-type]
            self.module.own_learned()
            self.part = None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint needs besides the parameters of the step: tensors, and facts as JSON has them."""
        if self.part is None:
            return {}, {}
        tensors = {f"kept.{i}": mask for i, mask in enumerate(self.kept.values())}
        tensors |= {f"whole.{i}": parameter.detach() for i, parameter in enumerate(self._whole)}
        return tensors, {"constant_kl": self.step.constant_kl}

    def load_state(
        self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], optimizer: torch.optim.Optimizer
    ) -> None:
        """Cut what was cut when `state` was asked for; the parameters' own values come later."""
        if not facts:
            return
        kept = {name: tensors[f"kept.{i}"] for i, name in enumerate(self.kept)}
        with torch.no_grad():
            for i, parameter in enumerate(self._whole):
                parameter.copy_(tensors[f"whole.{i}"])
        with _aside():
            self._replace(self.units.complete(kept), optimizer, constant_kl=float(facts["constant_kl"]))

    def _still_on(self) -> dict[str, Tensor] | None:
        """The units to keep from now on, if enough are off; the whole is in place."""
        self._plate.set(self._batch)
        with self._plate:
            posterior = weight_posterior(self.module.net, self.guide, *self._batch.args)
        left = elements_left(self.module.net, self.units, self.kept)
        return still_on(self.options, posterior, left, units=self.units, kept=self.kept)

    def _cut_out(self, kept: Mapping[str, Tensor]) -> tuple[list[Cut], list[Cut], BayesianModule, NumbersLeft]:
        """Parameters, buffers, program and numbers without these units; nothing is in place yet."""
        net = self.module.net
        left = elements_left(net, self.units, kept)
        part = self.module.part(cut(copy.deepcopy(net), list(self.units.groups.values()), kept))
        numbers = numbers_left(self.guide, self.module, part, left)
        cuts = [Cut(p, nn.Parameter(p.detach()[numbers.left]), numbers.left) for p in self._whole[:2]]
        names = {id(parameter): name for name, parameter in net.named_parameters()}
        for p in self._whole[2:]:
            name = names.get(id(p))
            if name is None:  # of the model or the prior
                cuts.append(Cut(p, p, torch.ones_like(p, dtype=torch.bool)))
            else:
                cuts.append(Cut(p, part.net.get_parameter(name), left[name]))
        return cuts, cut_buffers(net, part.net, left), part, numbers

    def _replace(
        self, kept: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, *, constant_kl: float | None = None
    ) -> None:
        """Put the part with these units in the place of the whole, and in the optimizer in the place of the last."""
        cuts, buffers, module, numbers = self._cut_out(kept)
        with torch.no_grad():
            self._whole[0][numbers.idle] = 0.0
        total = self.make_step().kl() if constant_kl is None else 0.0
        lost = [each for each in cuts if each.part is not each.whole]
        loc, log_variance = (each.part for each in cuts[:2])
        assert isinstance(loc, nn.Parameter)
        assert isinstance(log_variance, nn.Parameter)
        before = {id(each.whole): each for each in self.part.cuts} if self.part is not None else {}
        self.part = Part(dict(kept), module, numbers.sites, loc, log_variance, lost, buffers)
        self._put_in_place(self.part)
        self.kept = dict(kept)
        self.step = self.make_step()
        self.step.constant_kl = total - self.step.kl() if constant_kl is None else constant_kl
        changes = []
        for each in lost:
            last = before.get(id(each.whole))
            if last is None:
                changes.append(each)
            else:
                changes.append(Cut(last.part, each.part, each.left[last.left].view(last.part.shape)))
        exchange_parameters(optimizer, changes)

    def _put_in_place(self, part: Part) -> None:
        own = dict(self.module.net.named_modules())
        for name, layer in part.module.net.named_modules():
            layer.training = own[name].training
        self._set_guide(part.sites, part.loc, part.log_variance)
        self.module.delegate(part.module)

    def _put_back(self) -> None:
        if self.part is None or self.guide._parameters["loc"] is self._whole[0]:
            return
        for each in (*self.part.cuts, *self.part.buffers):
            each.put_back()
        self.module.delegate(None)
        self._set_guide(self._whole_sites, *self._whole[:2])

    def _set_guide(self, sites: tuple[Site, ...], loc: Any, log_variance: Any) -> None:
        self.guide.sites = sites
        self.guide._parameters["log_variance"] = log_variance
        self.guide._parameters["loc"] = loc


def _module_of(step: FlatStep) -> tuple[BayesianModule, tuple[Any, ...]]:
    """The one `BayesianModule` that the model calls, and what it is called with."""
    calls: list[tuple[BayesianModule, tuple[Any, ...]]] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, BayesianModule):
            calls.append((module, args))

    hook = register_module_forward_pre_hook(note)
    try:
        step.kl()
    finally:
        hook.remove()
    if len({id(module) for module, _ in calls}) != 1:
        raise UnsupportedModelError(
            "the model of a fit with shrink=", expected="one that calls one BayesianModule",
            got=f"{len({id(module) for module, _ in calls})} of them called", remedy="Fit without shrink=",
        )  # fmt: skip
    return calls[0]


@contextmanager
def _aside() -> Iterator[None]:
    """Random numbers of its own, and numbers that are not finite left for the steps to tell."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False):
        yield
