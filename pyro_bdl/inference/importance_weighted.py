"""The importance-weighted bound."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from torch import Tensor

from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.inference.kl_terms import refuse_score_function
from pyro_bdl.inference.numbers import refuse_non_finite
from pyro_bdl.number_checks import require_count
from pyro_bdl.particles import Weighed, detached, log_mean_exp, traces, weighed
from pyro_bdl.site_kl import kl_term

Gradient = Literal["reparameterised", "doubly-reparameterised"]


class ImportanceWeightedELBO(ELBO):
    r"""The bound of K weighed draws for each data point (Burda, Grosse & Salakhutdinov 2016, equation 8).

    .. math:: \mathcal L_K = \sum_n E\Big[\log \frac 1K \sum_{k=1}^K w_{nk}\Big], \qquad
              w_{nk} = \frac{p(x_n, z_{nk})}{q(z_{nk} \mid x_n)}, \quad z_{nk} \sim q(z \mid x_n)

    It rises with K from the evidence lower bound (K = 1) to the log evidence. For models with latent variables of
    single data points in one data plate; what is shared by all, such as random weights, is drawn once and its KL taken
    off.

    The gradient with respect to the guide has a signal-to-noise ratio that falls with K if it is merely reparameterised
    (Rainforth et al. 2018). "doubly-reparameterised" (Tucker et al. 2019, equation 8) takes the score term out,

    .. math:: \nabla_\phi = E\Big[\sum_k \tilde w_k^2\, \frac{\partial \log w_k}{\partial z_k}
              \frac{\partial z_k}{\partial \phi}\Big], \qquad \tilde w_k = w_k / \sum_j w_j

    whose ratio rises; that of the model stays :math:`\sum_k \tilde w_k \nabla_\theta \log w_k`.

    Args:
        num_samples: K. Default 5.
        gradient: "reparameterised" or, for one latent site, "doubly-reparameterised". Default "reparameterised".

    Raises:
        InputError: K no integer or below 1, another gradient, a latent site that the guide lacks.
        UnsupportedModelError: no latent variables of single data points, more than one plate; with
            "doubly-reparameterised" more than one latent site; for gradients, sites that are not reparameterised.
        NumericalError: a bound that is not finite.

    >>> import pyro, pyro_bdl as bdl
    >>> vae = bdl.VariationalAutoencoder(torch.nn.Linear(6, 4), torch.nn.Linear(2, 6), 2)
    >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), ImportanceWeightedELBO(5))
    >>> svi.step(torch.ones(20, 6)) > 0
    True
    """

    def __init__(self, num_samples: int = 5, *, gradient: Gradient = "reparameterised") -> None:
        require_count("num_samples", num_samples)
        if gradient not in ("reparameterised", "doubly-reparameterised"):
            raise InputError("gradient", expected='"reparameterised" or "doubly-reparameterised"', got=repr(gradient))
        super().__init__()
        self.num_samples, self.gradient = num_samples, gradient

    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """The negative bound, without gradients."""
        with torch.no_grad():
            return float(_loss(weighed(*self._get_trace(model, guide, args, kwargs))))

    def loss_and_grads(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """The negative bound, its gradients added to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The negative bound as a tensor, whose gradient is the estimator."""
        both = self._get_trace(model, guide, args, kwargs)
        if self.gradient == "reparameterised":
            return _loss(_reparameterised(weighed(*both)))
        draws = _reparameterised(weighed(*both, posterior_law=detached))
        value = _loss(draws)
        normalised = draws.log_weights.detach().softmax(0)
        _weigh_gradient(draws, normalised)
        surrogate = -draws.scale * (normalised * draws.log_weights).sum() + _shared(draws)
        return surrogate + (value - surrogate).detach()

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return traces(model, guide, args, kwargs, self.num_samples)


def _reparameterised(draws: Weighed) -> Weighed:
    """The draws, if a gradient passes through all of them."""
    for _, posterior in draws.latent + draws.shared:
        refuse_score_function(posterior)
    return draws


def _loss(draws: Weighed) -> Tensor:
    bound = draws.scale * log_mean_exp(draws.log_weights).sum()
    return _shared(draws) - refuse_non_finite(bound, "the importance-weighted bound", draws.latent[0][0]["name"])


def _shared(draws: Weighed) -> Tensor:
    """The KL of what all data points share."""
    total: Any = draws.log_weights.new_zeros(())
    for node, posterior in draws.shared:
        kl = kl_term(node, posterior, drawn=node["name"] in draws.turned)
        total = total + refuse_non_finite(scale_and_mask(kl, node["scale"]).sum(), "the KL", node["name"])
    return total


def _weigh_gradient(draws: Weighed, normalised: Tensor) -> None:
    """Multiply what comes back to each draw by its normalised weight once more: it is on its way to the guide."""
    (_, posterior), *more = draws.latent
    value = posterior["value"]
    if more:
        names = [node["name"] for node, _ in draws.latent]
        raise UnsupportedModelError("doubly reparameterised gradients", expected="one latent site", got=f"{names}")
    if value.requires_grad:
        weights = normalised.reshape(*normalised.shape, *(1,) * len(posterior["fn"].event_shape))
        value.register_hook(lambda gradient: gradient * weights)
