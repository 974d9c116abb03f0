"""On which other sites each sample site of a Pyro program depends, by one run of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer.inspect import site_is_deterministic
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample

from pyro_bdl.provenance import Marks, SiteNames
from pyro_bdl.record import Node, Record


@dataclass(frozen=True)
class Site:
    """A sample site.

    Attributes:
        node: what Pyro knows of it; its value is marked with its name.
        parents: the sites that its log density is made of, its mask and scale and a computed observation included.
    """

    node: Node
    parents: SiteNames


def dependencies(model: Callable[..., Any], args: Any, kwargs: Any, marks: Marks) -> dict[str, Site]:
    """The sample sites of a program, in its order, but for plates' own and `pyro.deterministic`.

    Delta sites are among them, but no parents: what depends on them depends on what they are computed from.

    Args:
        model, args, kwargs: the program.
        marks: those of the run.

    Raises:
        InputError: two sites of one name.

    >>> import pyro.distributions as dist
    >>> def line(x):
    ...     slope, noise = pyro.sample("slope", dist.Normal(0.0, 1.0)), pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(slope * x, noise))
    >>> sites = dependencies(line, (2.0,), {}, Marks(lambda function, names: None))
    >>> {name: sorted(site.parents) for name, site in sites.items()}
    {'slope': [], 'noise': [], 'y': ['noise', 'slope']}
    """
    record, parents = Record(), _Parents(marks)
    with torch.no_grad(), pyro.validation_enabled(False), marks.followed(), record, parents:
        model(*args, **kwargs)
    known = parents.found.keys()  # arguments may have the marks of a program around this one
    return {name: Site(record.nodes[name], found & known) for name, found in parents.found.items()}


def base_name(fn: Any) -> str:
    """The name of the innermost distribution."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__


class _Parents(Messenger):
    """Notes whose marks arrive in a site's log density, as soon as it is drawn: its parameters may change later.

    What a distribution does with its own parameters, to draw and to be evaluated, is no loss.
    """

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks
        self.found: dict[str, SiteNames] = {}

    def _pyro_sample(self, msg: Message) -> None:
        self._marks.may_leave = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) and not site_is_deterministic(msg):
            value = msg["value"] if msg["is_observed"] else self._marks.without(msg["value"])
            log_density = msg["fn"].log_prob(value)
            self.found[msg["name"]] = self._marks.of((log_density, msg["mask"], msg["scale"]))
            if base_name(msg["fn"]) != "Delta":
                msg["value"] = self._marks.put(value, msg["name"])
        self._marks.may_leave = False
