"""A network plus a prior is a Pyro program."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_bdl.errors import InputError
from pyro_bdl.estimators.passes import begin_pass, is_dry_run
from pyro_bdl.parameters import own_parameter
from pyro_bdl.priors import Gaussian, Prior, Weight
from pyro_bdl.priors.weight import WeightProgram

Select = Sequence[str] | Callable[[str, nn.Parameter], bool]


class BayesianModule(nn.Module):
    r"""Any `torch.nn.Module` whose parameters are random, without touching the module.

    Called inside a Pyro program it lets the prior sample its weights, :math:`w \sim p(w)`, one Pyro site a parameter
    named after it (`fc1.weight`), and returns :math:`f(x; w)`, the network run with these in the places of its own.
    Tied parameters are one site. The same object serves prior predictive, SVI, SGLD and NUTS.

    Args:
        net: the network. Its parameters' own values are where guides begin: hand over a fresh network (He, Glorot) or
            a trained one.
        prior: a prior of `pyro_bdl.priors`. Default: independent N(0, 1).
        name: put before the site names (`encoder` gives `encoder.fc1.weight`), so that two networks can live in one
            model.
        select: which parameters are random: name patterns (`["*.weight"]`) or a function of name and parameter.
            Default: all. The others are ordinary learned parameters (`pyro.param`).

    Raises:
        InputError: nothing selected, or a pattern that fits no parameter.

    >>> import pyro, torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> bnn = BayesianModule(net, Gaussian(1.0, fan_in=True))
    >>> sites = pyro.poutine.trace(bnn).get_trace(torch.randn(5, 2))
    >>> [name for name in sites.stochastic_nodes]
    ['0.weight', '0.bias', '2.weight', '2.bias']
    >>> bnn(torch.randn(5, 2)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self, net: nn.Module, prior: Prior | None = None, *, name: str = "", select: Select | None = None
    ) -> None:
        super().__init__()
        self.net, self.name = net, name
        self.prior: Prior = Gaussian() if prior is None else prior
        owned = list(net.named_parameters())
        chosen = _chosen(owned, select)
        if not chosen:
            raise InputError("the network", expected="at least one random parameter", got="none")
        self._random = chosen
        self._learned = [n for n, _ in owned if n not in set(chosen)]
        self._places = _places(net)
        self._coupling = [module for module in net.modules() if isinstance(module, _BatchNorm)]
        self._bound: tuple[Any, WeightProgram] | None = None
        self._wholes: Mapping[str, Weight] = {}
        self._stand_in: list[BayesianModule] = []  # a list, so that it is no submodule
        self._program()  # a prior that does not fit is refused here

    @property
    def weights(self) -> list[Weight]:
        """The random weights: site name, the network's own value, layer."""
        return [w for _, w in self._weights()]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Sample weights and run the network; arguments and result are the network's own."""
        if self._stand_in:
            return self._stand_in[0](*args, **kwargs)
        # What torch.func.functional_call does, with less Python in each step, and also under torch.jit.trace.
        values = self.sample()
        own = [(self._owner(path), leaf, values[name]) for path, leaf, name in self._places if name in values]
        held = [slots[leaf] for slots, leaf, _ in own]
        try:
            for slots, leaf, value in own:
                slots[leaf] = value
            return self.net(*args, **kwargs)
        finally:
            for (slots, leaf, _), value in zip(own, held, strict=True):
                slots[leaf] = value

    def part(self, net: nn.Module) -> "BayesianModule":
        """The same program around a network out of which units were cut; fan-ins stay those of the whole."""
        random = frozenset(self._random)
        part = BayesianModule(net, self.prior, name=self.name, select=lambda name, _: name in random)
        part._wholes, part._bound = dict(self._weights()), None
        part._coupling = part._coupling if self._coupling else []  # warned already
        return part

    def delegate(self, part: "BayesianModule | None") -> None:
        """Let a part of this module answer all calls; `None`: answer them itself."""
        self._stand_in = [] if part is None else [part]

    def own_learned(self) -> None:
        """Give the names of its learned parameters in Pyro's store back to this module's own."""
        for name in self._learned:
            own_parameter(self._prefix + name, self.net.get_parameter(name))

    def sample(self) -> dict[str, Tensor]:
        """One `pyro.sample` of all weights, by the network's own parameter names."""
        if self._stand_in:
            return self._stand_in[0].sample()
        drawn = self._program()()
        prefix = len(self._prefix)
        tensors = {name[prefix:]: begin_pass(value) for name, value in drawn.items()}
        if self._coupling and any(hasattr(value, "roots") for value in tensors.values()):
            self._warn_of_coupling()
        for name in self._learned:
            tensors[name] = own_parameter(self._prefix + name, self.net.get_parameter(name))
        if is_dry_run():  # running statistics and the like stay as they are
            tensors |= {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        return tensors

    def _owner(self, path: tuple[str, ...]) -> dict[str, Any]:
        """The dictionary in which the module at `path` keeps its parameters, or its buffers."""
        module, kind = self.net, path[-1]
        for name in path[:-1]:
            module = module._modules[name]  # type: ignore[assignment]
        return getattr(module, kind)

    def _warn_of_coupling(self) -> None:
        """Say once that batch statistics make the outputs of data points depend on one another's draws."""
        if any(module.training or module.running_mean is None for module in self._coupling):
            self._coupling = []
            warnings.warn(
                "batch normalisation in training mode couples the data points of a batch, and weights drawn for each "
                "data point are right only where data points do not meet: take the plain estimator, or net.eval()",
                stacklevel=4,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the bound program, which is made anew where the module arrives (another process, say)."""
        return self.__dict__ | {"_bound": None}

    @property
    def _prefix(self) -> str:
        return f"{self.name}." if self.name else ""

    def _weights(self) -> Iterator[tuple[str, Weight]]:
        for name in self._random:
            path, _, leaf = name.rpartition(".")
            module = self.net.get_submodule(path)
            yield name, Weight(self._prefix + name, getattr(module, leaf).detach(), module, self._wholes.get(name))

    def _program(self) -> WeightProgram:
        first = self.net.get_parameter(self._random[0])
        place = (first.device, first.dtype, first.data_ptr())
        if self._bound is None or self._bound[0] != place:
            self._bound = (place, self.prior.bind(self.weights))
        return self._bound[1]


def _places(net: nn.Module) -> list[tuple[tuple[str, ...], str, str]]:
    """Where a network keeps its tensors: the path to their owner, the name there, and the name in the network.

    A tied parameter has more than one place, all under its first name.
    """
    places = []
    for kind, tensors in (
        ("_parameters", net.named_parameters(remove_duplicate=False)),
        ("_buffers", net.named_buffers(remove_duplicate=False)),
    ):
        first: dict[int, str] = {}
        for name, tensor in tensors:
            *path, leaf = name.split(".")
            places.append(((*path, kind), leaf, first.setdefault(id(tensor), name)))
    return places


def _chosen(owned: list[tuple[str, nn.Parameter]], select: Select | None) -> list[str]:
    if select is None:
        return [name for name, _ in owned]
    if callable(select):
        return [name for name, parameter in owned if select(name, parameter)]
    names = [name for name, _ in owned]
    for pattern in select:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"select={pattern!r}", expected=f"a pattern that fits one of {names}", got="none that fits"
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in select)]
