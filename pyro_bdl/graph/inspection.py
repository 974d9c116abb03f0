"""The graph of a Pyro program, as Pyro's own inspection finds it, and a refusal where that would miss an edge."""

from collections.abc import Callable, Sequence
from typing import Any

import networkx as nx
import pyro
from pyro.infer.inspect import get_model_relations
from pyro.ops.provenance import get_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.subsample_messenger import _Subsample
from torch.overrides import TorchFunctionMode

from pyro_bdl.errors import InputError, UnsupportedModelError

Program = Callable[..., Any]

# What turns a tensor into something that Pyro's inspection cannot follow.
LEAVING = frozenset({
    "__array__", "__bool__", "__complex__", "__contains__", "__float__", "__index__", "__int__", "allclose", "equal",
    "is_nonzero", "item", "numpy", "tolist",
})  # fmt: skip


def of(model: Program, *args: Any, **kwargs: Any) -> nx.DiGraph:
    r"""The directed graph of a Pyro program: a node a sample site, an edge from each site that its law depends on.

    .. math:: p(x) = \prod_i p(x_i \mid x_{pa(i)})

    (Bishop 2006, equation 8.5.) The program is run once, by `pyro.infer.inspect.get_model_relations`, which marks each
    site's value and sees whose marks arrive in which log-probability. Tensors keep their marks through arithmetic,
    `torch.where` and indices into tables, so discrete sites are seen, too. What Pyro's inspection misses is added or
    refused here: a site's mask or scale that depends on another site is an edge; a value that leaves torch (`if rain:`,
    `int(z)`, `.item()`, `.numpy()`) is an error, as an edge would be lost in silence.

    - An edge means "may depend": `0 * rain` is one.
    - `pyro.deterministic` and Delta sites are no nodes; what depends on them depends on what they are computed from.
    - A site in a plate is one node, that of all its elements together.
    - `pyro.factor` is a node, an observed one, below the sites that it is a function of.

    Args:
        model: the program; arguments follow it.

    Returns:
        A `networkx.DiGraph`, nodes in the program's order, with the attributes `observed`, `factor` (booleans),
        `distribution` (its name) and `plates` (names, outermost first).

    Raises:
        UnsupportedModelError: a value that leaves torch; the message names the sites it came from.
        InputError: not a program; a program without sample sites.

    >>> import torch, pyro.distributions as dist
    >>> def model():
    ...     rain = pyro.sample("rain", dist.Bernoulli(0.2))
    ...     pyro.sample("wet", dist.Bernoulli(torch.tensor([0.1, 0.9])[rain.long()]))
    >>> of(model).edges
    OutEdgeView([('rain', 'wet')])
    """
    if not callable(model):
        raise InputError("the model", expected="a Pyro program, or a networkx.DiGraph", got=type(model).__name__)
    sites = _Sites()

    def watched(*args: Any, **kwargs: Any) -> None:
        with sites, _StayInTorch(sites):
            model(*args, **kwargs)

    with pyro.poutine.block(), pyro.get_param_store().scope():
        relations = get_model_relations(watched, args, kwargs)
    return _graph(sites, relations)


def _graph(sites: "_Sites", relations: dict[str, Any]) -> nx.DiGraph:
    graph = nx.DiGraph()
    for name, plates in sites.plates.items():
        kind = relations["sample_dist"][name]
        graph.add_node(
            name, observed=name in relations["observed"], factor=kind == "Unit", distribution=kind, plates=plates
        )
    if not graph:
        raise InputError("the model", expected="at least one sample site", got="none")
    for name in graph:
        parents = {*relations["sample_sample"][name], *sites.gates[name]}
        graph.add_edges_from((parent, name) for parent in sites.plates if parent in parents and parent != name)
    return graph


class _Sites(Messenger):
    """Notes the sites that become nodes, in order, with their plates and with whose marks gate them.

    Attributes:
        plates: the plates of each site, outermost first.
        gates: the sites on whose values its mask and scale depend.
        drawing: whether a site is being drawn: what its distribution does then with its own parameters is no loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plates: dict[str, Sequence[str]] = {}
        self.gates: dict[str, frozenset[str]] = {}
        self.drawing = False

    def _pyro_sample(self, msg: Message) -> None:
        self.drawing = True

    def _pyro_post_sample(self, msg: Message) -> None:
        self.drawing = False
        if isinstance(msg["fn"], _Subsample) or _base_name(msg["fn"]) == "Delta":
            return
        name = str(msg["name"])
        frames = sorted((f for f in msg["cond_indep_stack"] if f.vectorized), key=lambda frame: frame.dim or 0)
        self.plates[name] = tuple(frame.name for frame in frames)
        self.gates[name] = get_provenance((msg["mask"], msg["scale"]))


class _StayInTorch(TorchFunctionMode):
    """Refuses functions that take a marked value out of torch."""

    def __init__(self, sites: _Sites) -> None:
        super().__init__()
        self._sites = sites

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in LEAVING and not self._sites.drawing:
            marks = get_provenance((args, kwargs)) & set(self._sites.plates)  # a pyro.param may leave
            if marks:
                raise UnsupportedModelError(
                    "the model", expected="sites whose values stay tensors, to be followed to what depends on them",
                    got=f"{func.__name__} of a value that comes from {', '.join(map(repr, sorted(marks)))}",
                    remedy="Write torch.where, or an index into a table, for an `if`; or give a networkx.DiGraph",
                )  # fmt: skip
        return func(*args, **(kwargs or {}))


def _base_name(fn: Any) -> str:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__
