"""The graph of a Pyro program, by the marks that its sites leave, and a refusal where an edge would be missed."""

from collections.abc import Callable
from typing import Any

import networkx as nx
import pyro
import torch
from pyro import poutine
from pyro.distributions import ExpandedDistribution, Independent, MaskedDistribution

from pyro_bdl.dependencies import Site, base_name, dependencies
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.provenance import Marks, SiteNames

Program = Callable[..., Any]


def of(model: Program, *args: Any, **kwargs: Any) -> nx.DiGraph:
    r"""The directed graph of a Pyro program: a node a sample site, an edge from each site that its law depends on.

    .. math:: p(x) = \prod_i p(x_i \mid x_{pa(i)})

    (Bishop 2006, equation 8.5.) The program is run once. Each site's value is marked, and whose marks arrive in a
    log-density, in its mask or its scale are the site's parents. Tensors keep their marks through arithmetic,
    `torch.where`, indices into tables, TorchScript and `torch.func`, so discrete sites are seen, too; and what a value
    is written into in place has its marks, as a whole. A value that leaves torch (`if rain:`, `int(z)`, `x[:z]`,
    `.item()`, `.numpy()`) is an error, as an edge would be lost in silence. Not seen is what depends on the shape of a
    tensor alone (`len(x[mask])`); see `pyro_bdl.provenance.Marks`.

    - An edge means "may depend": `0 * rain` is one.
    - `pyro.deterministic` and Delta sites are no nodes; what depends on them depends on what they are computed from.
    - A site in a plate is one node, that of all its elements together.
    - `pyro.factor` is a node, an observed one, below the sites that it is a function of.
    - A site whose observed value is computed from other sites is below those, too.

    Args:
        model: the program; arguments follow it.

    Returns:
        A `networkx.DiGraph`, nodes in the program's order, with the attributes `observed`, `factor` (booleans),
        `distribution` (its name) and `plates` (names, outermost first).

    Raises:
        UnsupportedModelError: a value that leaves torch; the message names the sites it came from.
        InputError: not a program; a program without sample sites, or with two of one name.

    >>> import torch, pyro.distributions as dist
    >>> def model():
    ...     rain = pyro.sample("rain", dist.Bernoulli(0.2))
    ...     pyro.sample("wet", dist.Bernoulli(torch.tensor([0.1, 0.9])[rain.long()]))
    >>> of(model).edges
    OutEdgeView([('rain', 'wet')])
    """
    if not callable(model):
        raise InputError("the model", expected="a Pyro program, or a networkx.DiGraph", got=type(model).__name__)
    with torch.random.fork_rng(), poutine.block(), pyro.get_param_store().scope():
        sites = dependencies(model, args, kwargs, Marks(_refuse))
    nodes = {name: site for name, site in sites.items() if base_name(site.node["fn"]) != "Delta"}
    if not nodes:
        raise InputError("the model", expected="at least one sample site", got="none")
    graph = nx.DiGraph()
    graph.add_nodes_from((name, _attributes(site)) for name, site in nodes.items())
    graph.add_edges_from((parent, name) for name in nodes for parent in nodes if parent in nodes[name].parents)
    return graph


def _attributes(site: Site) -> dict[str, Any]:
    law, frames = site.node["fn"], site.node["cond_indep_stack"]
    while isinstance(law, (Independent, ExpandedDistribution, MaskedDistribution)):
        law = law.base_dist
    kind = type(law).__name__
    outermost_first = sorted((frame for frame in frames if frame.vectorized), key=lambda frame: frame.dim or 0)
    plates = tuple(frame.name for frame in outermost_first)
    return {"observed": site.node["is_observed"], "factor": kind == "Unit", "distribution": kind, "plates": plates}


def _refuse(function: str, names: SiteNames) -> None:
    raise UnsupportedModelError(
        "the model", expected="sites whose values stay tensors, to be followed to what depends on them",
        got=f"{function} of a value that comes from {', '.join(map(repr, sorted(names)))}",
        remedy="Write torch.where, or an index into a table, for an `if`; or give a networkx.DiGraph",
    )  # fmt: skip
