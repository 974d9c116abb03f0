"""The evidence lower bound of mean-field guides, with its KL in closed form."""

from collections.abc import Callable, Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.estimators import Estimator
from pyro_bdl.inference.numbers import refuse_non_finite
from pyro_bdl.log_density import log_density

Node = dict[str, Any]


class MeanFieldELBO(ELBO):
    r"""Expected log-likelihood of the observed sites minus the KL of each latent site.

    .. math:: \mathcal L = E_q[\log p(y \mid \theta)] - \beta \sum_s KL(q_s(\theta_s)\, \|\, p_s(\theta_s))

    Each KL is in closed form where `torch.distributions.kl` has a rule for the pair (see `pyro_bdl.distributions.kl`),
    else estimated from the draw, also for guides that are no mean field. No log-probability is computed that is not
    used. The guide may be any reparameterised Pyro guide, or one within `local_reparameterization` or `flipout`. For
    discrete latent variables take Pyro's own `TraceEnum_ELBO`.

    Args:
        num_particles: draws of the guide per step, averaged. Default 1.
        kl_weight: beta, a number or a function without arguments that gives one (warm-up). Default 1, the bound.

    Raises:
        InputError: a latent site of the model that the guide lacks: Pyro would silently draw it from the prior.
        UnsupportedModelError: a site of the guide that is not reparameterised (discrete, say).
        NumericalError: a likelihood or KL that is not finite; the message names the site.

    >>> import pyro, torch, pyro_bdl as bdl
    >>> x, y = torch.randn(20, 3), torch.randint(0, 2, (20,))
    >>> model = bdl.Classifier(bdl.BayesianModule(torch.nn.Linear(3, 2)))
    >>> guide = bdl.guides.AutoMeanField(model)
    >>> optimizer = pyro.optim.Adam({"lr": 0.01})
    >>> svi = pyro.infer.SVI(model, bdl.local_reparameterization(guide), optimizer, MeanFieldELBO())
    >>> svi.step(x, y) > 0
    True
    """

    def __init__(self, num_particles: int = 1, *, kl_weight: float | Callable[[], float] = 1.0) -> None:
        if num_particles < 1:
            raise InputError("num_particles", expected="at least 1", got=str(num_particles))
        super().__init__(num_particles=num_particles)
        self.kl_weight = kl_weight

    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """The negative bound, without gradients."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """The negative bound, its gradients added to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The negative bound as a tensor."""
        if isinstance(guide, Estimator) and not guide.examined:
            guide.examine(model, args, kwargs)
        weight = self.kl_weight() if callable(self.kl_weight) else self.kl_weight
        loss: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            for node in _observed(model_trace):
                loss = loss - refuse_non_finite(_log_likelihood(node), "the log-likelihood", node["name"])
            for site, term in kl_terms(model_trace, guide_trace):
                loss = loss + weight * refuse_non_finite(term, "the KL", site)
        return loss / self.num_particles

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        for node in _latent(model_trace):
            if node["name"] not in guide_trace.nodes:
                raise InputError(
                    "the guide", expected=f"a site {node['name']!r}, latent in the model", got="none of that name"
                )
        return model_trace, guide_trace


def kl_terms(model_trace: Any, guide_trace: Any) -> Iterator[tuple[str, Tensor]]:
    """The KL of each latent site of the model, scaled by its plates; one draw's estimate where no rule is known.

    A guide may draw an auxiliary site and hand its values on as Delta sites (Pyro's autoguides do). Where the Delta is
    the auxiliary value itself, the pair is that of a mean field; else log q of the auxiliary site is a term of its own.
    """
    auxiliary = {
        name: node
        for name, node in guide_trace.nodes.items()
        if node["type"] == "sample" and name not in model_trace and not isinstance(node["fn"], _Subsample)
    }
    for node in _latent(model_trace):
        posterior = guide_trace.nodes[node["name"]]
        if isinstance(_base(posterior), dist.Delta):
            name = next((n for n, other in auxiliary.items() if other["value"] is _base(posterior).v), None)
            posterior = posterior if name is None else auxiliary.pop(name)
        _refuse_score_function(posterior)
        kl = _closed_form(posterior["fn"], node["fn"])
        if kl is None:
            kl = _log_prob(posterior) - _log_prob(node)
        yield node["name"], scale_and_mask(kl, node["scale"], node["mask"]).sum()
    for name, node in auxiliary.items():
        _refuse_score_function(node)
        yield name, scale_and_mask(_log_prob(node), node["scale"], node["mask"]).sum()


def _closed_form(q: Any, p: Any) -> Tensor | None:
    """The KL, if there is a rule; that of a Delta would leave out its log density."""
    if isinstance(_base({"fn": q}), dist.Delta):
        return None
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _base(node: Node) -> Any:
    fn = node["fn"]
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    return fn


def _refuse_score_function(node: Node) -> None:
    if not node["fn"].has_rsample:
        raise UnsupportedModelError(
            f"the guide's site {node['name']}", expected="a reparameterised distribution",
            got=f"{type(_base(node)).__name__}, through whose draws no gradient passes",
            remedy="Take pyro.infer.Trace_ELBO or TraceEnum_ELBO",
        )  # fmt: skip


def _log_prob(node: Node) -> Tensor:
    value, base = node["value"], _base(node)
    if isinstance(base, dist.Delta) and base.v is value:
        return base.log_density  # without comparing each element with itself
    return node["fn"].log_prob(value.value() if hasattr(value, "roots") else value)


def _log_likelihood(node: Node) -> Tensor:
    return log_density(node["fn"], node["value"], scale=node["scale"], mask=node["mask"])


def _observed(trace: Any) -> Iterator[Node]:
    for node in trace.nodes.values():
        if node["type"] == "sample" and node["is_observed"] and not node["infer"].get("_deterministic"):
            yield node


def _latent(trace: Any) -> Iterator[Node]:
    for node in trace.nodes.values():
        if node["type"] == "sample" and not node["is_observed"] and not isinstance(node["fn"], _Subsample):
            yield node
