"""Many draws of each data point's latent variables at once, and what each weighs."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyro
from pyro.distributions import Independent
from torch import Tensor

from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.record import Node, Record, posterior_of, sample_sites
from pyro_bdl.site_kl import turned


class Particles(pyro.plate):
    """A plate of K draws to the left of the data plate, around the sites that stand in the data plate only.

    Weights of a network, and whatever else is not of single data points, are drawn once.

    >>> import pyro.distributions as dist
    >>> with Particles(7):
    ...     weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", 3):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    >>> weight.shape, z.shape
    (torch.Size([]), torch.Size([7, 3]))
    """

    def __init__(self, count: int) -> None:
        super().__init__("_particles", size=count, dim=-2)

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and _plates(msg):
            super()._process_message(msg)


class Weighed(NamedTuple):
    r"""Draws :math:`z_{kn} \sim q(z \mid x_n)` and what they weigh.

    .. math:: \log w_{kn} = \log p(x_n, z_{kn}) - \log q(z_{kn} \mid x_n)

    Attributes:
        log_weights: (K, B).
        scale: of the data plate, N/B.
        latent: of each latent site of single data points the pair of nodes in model and guide.
        shared: of each other latent site, likewise.
        turned: the names of those whose KL has to be that of the draw.
    """

    log_weights: Tensor
    scale: float
    latent: list[tuple[Node, Node]]
    shared: list[tuple[Node, Node]]
    turned: set[str]


def traces(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, options: Any, count: int
) -> tuple[Any, Any]:
    """The traces of model and guide, with `count` draws of each data point's latent variables."""
    with Particles(count):
        guide_trace = Record.of(guide, *data, **options)
        model_trace = Record.of(model, *data, answers=guide_trace.nodes, **options)
    return model_trace, guide_trace


def weighed(model_trace: Any, guide_trace: Any, *, posterior_law: Callable[[Any], Any] = lambda law: law) -> Weighed:
    """Weigh the draws of `traces`.

    Args:
        model_trace: of a model with one data plate, in which the latent variables of single data points stand.
        guide_trace: of its guide, with a site for each latent one of the model.
        posterior_law: what stands for a guide's distribution in its log density. Default: itself.

    Raises:
        InputError: a latent site of the model that the guide lacks, or one of the guide's alone.
        UnsupportedModelError: no latent variables of single data points, other plates within the data plate or beside
            it, masked sites, sites of single data points that are scaled differently.
    """
    total: Any = 0.0
    pairs: dict[bool, list[tuple[Node, Node]]] = {True: [], False: []}
    plates: set[str] = set()
    scales: set[float] = set()
    for node in _sites(model_trace):
        local = _check_local(node)
        if not node["is_observed"]:
            posterior = posterior_of(node, guide_trace)
            pairs[local].append((node, posterior))
            if local:
                total = total - posterior_law(posterior["fn"]).log_prob(node["value"])
        if local:
            total = total + node["fn"].log_prob(node["value"])
            plates |= {plate.name for plate in _plates(node)}
            scales.add(float(node["scale"]))
        elif node["is_observed"]:
            site = f"the observed site {node['name']}"
            raise UnsupportedModelError(site, expected="one in the data plate", got="none")
    names = {node["name"] for node in _sites(guide_trace)} - {node["name"] for node in _sites(model_trace)}
    if names or not pairs[True]:
        raise UnsupportedModelError(
            "the model and its guide", expected="the same latent sites, some of them in one data plate",
            got=f"of the guide alone {sorted(names)}, in the data plate {[node['name'] for node, _ in pairs[True]]}",
        )  # fmt: skip
    if len(plates) != 1:
        raise UnsupportedModelError("the model", expected="one data plate", got=", ".join(sorted(plates)))
    if len(scales) != 1:
        got = ", ".join(f"{scale:g}" for scale in sorted(scales))
        raise UnsupportedModelError(f"the plate {plates.pop()}", expected="one scale of all its sites", got=got)
    return Weighed(total, scales.pop(), pairs[True], pairs[False], turned(model_trace, guide_trace))


def detached(law: Any) -> Any:
    """The same distribution, through whose parameters no gradient passes."""
    if isinstance(law, Independent):
        return Independent(detached(law.base_dist), law.reinterpreted_batch_ndims)
    own = {name: value.detach() for name in law.arg_constraints if isinstance(value := law.__dict__.get(name), Tensor)}
    try:
        return type(law)(**own, validate_args=False)
    except (TypeError, ValueError) as error:
        kind = type(law).__name__
        raise UnsupportedModelError("a guide's law", expected="one made of its own parameters", got=kind) from error


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """The logarithm of the mean weight (B,) of log-weights (K, B)."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _sites(trace: Any) -> Iterator[Node]:
    return (node for node in sample_sites(trace) if not node["infer"].get("_deterministic"))


def _plates(node: Any) -> Sequence[Any]:
    return [frame for frame in node["cond_indep_stack"] if frame.vectorized and frame.name != "_particles"]


def _check_local(node: Node) -> bool:
    """Whether a site is of single data points."""
    plates = _plates(node)
    if len(plates) > 1 or node["mask"] is not None:
        raise UnsupportedModelError(
            f"the site {node['name']}", expected="no more than one plate, and no mask",
            got=", ".join(plate.name for plate in plates) + (" and a mask" if node["mask"] is not None else ""),
        )  # fmt: skip
    return bool(plates)
