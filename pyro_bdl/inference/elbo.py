"""The evidence lower bound of mean-field guides, with its KL in closed form."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from pyro_bdl.estimators import Estimator
from pyro_bdl.inference.enumeration import Enumeration, expected, first_free_dim
from pyro_bdl.inference.kl_terms import kl_terms
from pyro_bdl.inference.numbers import refuse_non_finite
from pyro_bdl.log_density import log_density
from pyro_bdl.number_checks import not_negative, require_count
from pyro_bdl.record import Node, Record, latent, posterior_of, sample_sites


class MeanFieldELBO(ELBO):
    r"""Expected log-likelihood of the observed sites minus the KL of each latent site.

    .. math:: \mathcal L = E_q[\log p(y \mid \theta)] - \beta \sum_s KL(q_s(\theta_s)\, \|\, p_s(\theta_s))

    (Kingma & Welling 2014, equation 3; beta other than 1: Higgins et al. 2017, equation 4.)

    Each KL is in closed form where `torch.distributions.kl` has a rule for the pair (see `pyro_bdl.distributions.kl`),
    else estimated from the draw, also for guides that are no mean field, and where a guide draws the latent variables
    in another order than the model (see `pyro_bdl.site_kl.turned`). No log-probability is computed that is not used.
    The guide may be any reparameterised Pyro guide, or one within `local_reparameterization` or `flipout`.

    Discrete sites that the *guide* marks with `infer={"enumerate": "parallel"}` are summed out exactly, all values at
    once, :math:`E_{q(y)}[\,\cdot\,] = \sum_y q(y) [\,\cdot\,]`; what depends on them must stand in their plates, of
    which the first call must have all. For those that only the model has, take Pyro's own `TraceEnum_ELBO`.

    *Free bits* (Kingma et al. 2016, equation 15): each latent number within a plate counts, averaged over the batch, as
    at least :math:`\lambda` nats, :math:`\sum_j \max(\lambda, E_{batch}[KL_j])`, so that it costs nothing to use it a
    little, and the posterior does not collapse to the prior at the start.

    Args:
        num_particles: draws of the guide per step, averaged. Default 1.
        kl_weight: beta, a number or a function without arguments that gives one (warm-up). Default 1, the bound.
        free_bits: lambda, in nats for each latent number. Default 0, the bound.

    Attributes:
        kl: of the last call, in nats over the whole data, without beta.

    Raises:
        InputError: numbers out of range; a latent site of the model that the guide lacks: Pyro would silently draw it
            from the prior.
        UnsupportedModelError: a site of the guide that is neither reparameterised nor enumerated; an enumerated one
            with `num_samples`, or on which sites outside of its plates depend; with free bits one within a plate whose
            KL has no closed form.
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

    def __init__(
        self,
        num_particles: int = 1,
        *,
        kl_weight: float | Callable[[], float] = 1.0,
        free_bits: float = 0.0,
    ) -> None:
        require_count("num_particles", num_particles)
        not_negative("free_bits", free_bits)
        if not callable(kl_weight):
            not_negative("kl_weight", kl_weight)
        super().__init__(num_particles=num_particles)
        self.kl_weight, self.free_bits = kl_weight, free_bits
        self.kl = torch.tensor(torch.nan)
        self._enumerated: tuple[Any, Any, int] | None = None  # a model, its guide, and the first free dimension of both

    def __getstate__(self) -> dict[str, Any]:
        """Without the model and guide that it has met."""
        return vars(self) | {"_enumerated": None}

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
        weight = not_negative("kl_weight()", self.kl_weight()) if callable(self.kl_weight) else self.kl_weight
        misfit: Any = 0.0
        kl: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            enumeration = Enumeration.of(guide_trace)
            for node in _observed(model_trace):
                term = _log_likelihood(node, enumeration)
                misfit = misfit - refuse_non_finite(term, "the log-likelihood", node["name"])
            for site, term in kl_terms(model_trace, guide_trace, enumeration=enumeration, free_bits=self.free_bits):
                kl = kl + refuse_non_finite(term, "the KL", site)
        self.kl = torch.as_tensor(kl / self.num_particles).detach()
        return (misfit + weight * kl) / self.num_particles

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The traces of both; of a model and guide not yet met the second, where there is something to enumerate."""
        if self._enumerated is None or self._enumerated[:2] != (model, guide):
            both = _traces(model, guide, args, kwargs)
            dim = first_free_dim(*both)
            if dim is None:
                return both
            self._enumerated = (model, guide, dim)
        with EnumMessenger(first_available_dim=self._enumerated[-1]):
            return _traces(model, guide, args, kwargs)


def _traces(model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    guide_trace = Record.of(guide, *args, **kwargs)
    model_trace = Record.of(model, *args, answers=guide_trace.nodes, **kwargs)
    for node in latent(model_trace):
        posterior_of(node, guide_trace)  # refuses a guide that lacks it
    return model_trace, guide_trace


def _log_likelihood(node: Node, enumeration: Enumeration | None) -> Tensor:
    if enumeration is None:
        return log_density(node["fn"], node["value"], scale=node["scale"], mask=node["mask"])
    term = expected(node["fn"].log_prob(node["value"]), node, enumeration)
    return scale_and_mask(term, node["scale"], node["mask"]).sum()


def _observed(trace: Any) -> Iterator[Node]:
    return (node for node in sample_sites(trace) if node["is_observed"] and not node["infer"].get("_deterministic"))
