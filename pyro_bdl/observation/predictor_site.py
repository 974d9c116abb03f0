"""A Pyro function in which the value of one `pyro.deterministic` site is replaced by a network's output."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pyro_bdl.dependencies import dependencies
from pyro_bdl.errors import InputError
from pyro_bdl.provenance import Marks, SiteNames

Program = Callable[..., Any]


class WithPredictor:
    """The program `model` with `network(inputs)` for the value of its deterministic site.

    Latent sites that reached the data only through that value are gone: the weights of the linear predictor, and what
    their prior hangs on. Which these are is found at the first call, from the provenance of each site's log density
    (Wingate et al. 2011); one whose value leaves torch (`float(w)`, `if w > 0:`) stays. Learned parameters
    (`pyro.param`) of the linear predictor stay, without a use.

    Args:
        model: a Pyro program.
        network: called with what `inputs` makes of the arguments.
        site: the name of the deterministic site.
        inputs: what the network sees, from the program's arguments.

    Raises:
        InputError: there is no such site, or the network's output has another shape than its value.
    """

    def __init__(self, model: Program, network: Program, site: str, inputs: Program) -> None:
        self.model, self.network, self.site, self.inputs = model, network, site, inputs
        self._unused: Mapping[str, Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The program's own result."""
        value = self.network(self.inputs(*args, **kwargs))
        if self._unused is None:
            self._unused = unused_without(self.site, self.model, args, kwargs)
        with _Replace(self.site, value, self._unused):
            return self.model(*args, **kwargs)


def unused_without(site: str, model: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The latent sites that reach others only through a deterministic site, each with a value of its prior.

    Raises:
        InputError: there is no such site.

    >>> import pyro
    >>> def line(x, y):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    ...     mean = pyro.deterministic("mean", slope * x)
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("y", dist.Normal(mean, noise), obs=y)
    >>> list(unused_without("mean", line, (torch.ones(3), torch.ones(3)), {}))
    ['slope']
    """
    left: set[str] = set()  # sites whose values went out of torch: they may be anywhere
    marks = Marks(lambda _, names: left.update(names))
    cut = _Cut(site, marks)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), poutine.block(), cut:
        sites = dependencies(model, args, kwargs, marks)
    if cut.upstream is None:
        raise InputError(
            "predictor", got=f"the sites {cut.names}",
            expected=f"an attribute {site!r} that is a program, or a site pyro.deterministic({site!r}, ...)",
        )  # fmt: skip
    parents = {name: found.parents for name, found in sites.items()}
    above = _ancestors(cut.upstream & sites.keys(), parents)
    rest = {name for name in sites if name not in above or sites[name].node["is_observed"]}
    unused = above - _ancestors(rest | (left & sites.keys()), parents)
    return {name: marks.without(found.node["value"]) for name, found in sites.items() if name in unused}


class _Cut(Messenger):
    """Notes on what the value of a deterministic site hangs, hides that from what follows, and lists all sites."""

    def __init__(self, site: str, marks: Marks) -> None:
        super().__init__()
        self.site, self.marks = site, marks
        self.names: list[str | None] = []
        self.upstream: SiteNames | None = None

    def _pyro_post_sample(self, msg: Message) -> None:
        self.names.append(msg["name"])
        if msg["name"] == self.site and (msg["infer"] or {}).get("_deterministic"):
            value: Any = msg["value"]
            self.upstream = self.marks.of(value)
            msg["value"] = self.marks.without(value)


class _Replace(Messenger):
    """Gives a deterministic site another value, and keeps the sites that have lost their use to itself."""

    def __init__(self, site: str, value: Tensor, unused: Mapping[str, Any]) -> None:
        super().__init__()
        self.site, self.value, self.unused = site, value, unused

    def _pyro_sample(self, msg: Message) -> None:
        name: Any = msg["name"]
        if name in self.unused:
            known, fn = self.unused[name], cast(Any, msg["fn"])
            fits = known.shape == fn.shape()  # not where it belongs to the data points of another batch
            msg["value"], msg["done"], msg["stop"] = known if fits else fn.sample(), True, True
        elif name == self.site:
            old: Any = msg["value"]
            if old.shape != self.value.shape:
                raise InputError("the network's output", expected=f"shape {tuple(old.shape)}, that of {name!r}",
                                 got=f"shape {tuple(self.value.shape)}")  # fmt: skip
            law: Any = dist.Delta(self.value, event_dim=self.value.dim()).mask(False)
            msg["fn"], msg["value"] = law, self.value


def _ancestors(names: set[str] | SiteNames, parents: Mapping[str, SiteNames]) -> set[str]:
    found, left = set(), set(names)
    while left:
        name = left.pop()
        found.add(name)
        left |= parents[name] - found
    return found
