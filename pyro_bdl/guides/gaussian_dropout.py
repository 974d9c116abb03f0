"""Gaussian dropout with learned rates, as a posterior of the weights."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_bdl.distributions import DropoutNormal, LogUniform
from pyro_bdl.errors import InputError
from pyro_bdl.guides.initial import init_to_network
from pyro_bdl.guides.mean_field import AutoMeanField, Moments, Site, _sites_of

Per = Literal["layer", "unit", "weight"]


class Rates(NamedTuple):
    """The dropout rates of one site: their shape, which broadcasts to the site's, and where they begin."""

    shape: tuple[int, ...]
    start: int


class GaussianDropout(AutoMeanField):
    r"""Gaussian dropout as a posterior: each weight's noise is proportional to the weight, at a learned rate.

    .. math:: q(w_{ij}) = N(\mu_{ij},\, \alpha\, \mu_{ij}^2)

    (Kingma, Salimans & Welling 2015, sections 3.1 and 3.2) for each matrix of weights whose prior
    is log-uniform (`priors.LogUniform`); all other sites have the posterior of `AutoMeanField`. The prior is the one
    under which the KL does not depend on mu, so that only the likelihood shapes the means.

    The KL is the fit of Molchanov, Ashukha & Vetrov 2017 (`distributions.kl.dropout_kl`), not the polynomial of the
    paper's appendix C: it is as good for alpha <= 1 and holds for all rates, and one prior then has one KL, whatever
    the guide.

    Rates are :math:`\alpha = \alpha_{max}\, \mathrm{sigmoid}(r)`, learned through r (`rate`); without a maximum
    :math:`\alpha = e^r`. Parameters: `loc` of all sites, `log_variance` of the sites without dropout, `rate`, all flat.
    Works with `fit_svi`, Pyro's own `SVI`, `local_reparameterization` (without which a rate for many weights has
    gradients of large variance) and `state_dict`, as `AutoMeanField` does.

    Args:
        model: a Pyro model with at least one log-uniform site.
        per: one rate for each "layer" (site), each input "unit" (channel, of convolutions) or each "weight". Default
            "layer".
        max_alpha: the largest rate, or `None`. Default 1, as in the paper (section 3.2): it is binary dropout of rate
            one half, and above it large gradient variance and poor local optima were met.
        init_alpha: the rate to begin with. Default 0.25: binary dropout of rate 0.2, as alpha = p / (1 - p).
        init_loc_fn, init_scale: as for `AutoMeanField`.

    Raises:
        InputError: a word or number that does not fit; no log-uniform matrix; a state that is not of a guide like this.

    >>> import pyro_bdl as bdl
    >>> bnn = bdl.BayesianModule(nn.Linear(3, 2), bdl.priors.LogUniform())
    >>> guide = GaussianDropout(bnn, per="unit")
    >>> _ = guide(torch.randn(5, 3))
    >>> guide.alphas()["weight"]
    tensor([[0.2500, 0.2500, 0.2500]])
    """

    rate: nn.Parameter

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        per: Per = "layer",
        max_alpha: float | None = 1.0,
        init_alpha: float = 0.25,
        init_loc_fn: Callable[..., Tensor] = init_to_network,
        init_scale: float = 0.01,
    ) -> None:
        if per not in ("layer", "unit", "weight"):
            raise InputError("per", expected='"layer", "unit" or "weight"', got=repr(per))
        largest = math.inf if max_alpha is None else max_alpha
        if not (isinstance(largest, (int, float)) and largest > 0.0):
            raise InputError("max_alpha", expected="a positive number or None", got=repr(max_alpha))
        if not (isinstance(init_alpha, (int, float)) and 0.0 < init_alpha < largest):
            raise InputError(
                "init_alpha", expected=f"a number between 0 and max_alpha = {largest}", got=repr(init_alpha)
            )
        super().__init__(model, init_loc_fn=init_loc_fn, init_scale=init_scale)
        self.per, self.max_alpha, self.init_alpha = per, float(largest), float(init_alpha)
        self.rates: dict[str, Rates] = {}

    def _law(self, site: Site, numbers: Any, support: Any, event_dim: int) -> dist.TorchDistribution:
        loc, log_scale = numbers
        if site.name in self.rates:
            return DropoutNormal(loc, log_scale).to_event(event_dim)
        return super()._law(site, Moments(loc, log_scale.exp()), support, event_dim)

    def moments(self) -> Iterator[Moments]:
        """Mean and variance of each site of `sites`."""
        for site, (loc, log_scale) in zip(self.sites, self._numbers(), strict=True):
            variance = log_scale.exp() * loc.square() if site.name in self.rates else log_scale.exp()
            yield Moments(loc, variance)

    def alphas(self) -> dict[str, Tensor]:
        """The dropout rates alpha of each site that has them, in shapes that broadcast to the site's; detached."""
        with torch.no_grad():
            numbers = zip(self.sites, self._numbers(), strict=True)
            return {site.name: log_scale.exp() for site, (_, log_scale) in numbers if site.name in self.rates}

    def _numbers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The mean of each site, and its log alpha or its log variance."""
        loc, log_variance, rate = (self._parameters[name] for name in ("loc", "log_variance", "rate"))
        assert loc is not None
        assert log_variance is not None
        assert rate is not None
        log_alpha = rate if self.max_alpha == math.inf else math.log(self.max_alpha) + F.logsigmoid(rate)
        start = 0
        for site in self.sites:
            mean = loc[site.start : site.start + site.size].view(site.shape)
            if site.name in self.rates:
                shape, at = self.rates[site.name]
                yield mean, log_alpha[at : at + math.prod(shape)].view(shape)
            else:
                yield mean, log_variance[start : start + site.size].view(site.shape)
                start += site.size

    def _lay_out(self) -> tuple[tuple[Site, ...], list[Tensor], list[Tensor]]:
        sites, locs, log_variances = super()._lay_out()
        assert self.prototype_trace is not None
        rates: dict[str, Rates] = {}
        at = 0
        for site in sites:
            node = self.prototype_trace.nodes[site.name]
            if len(site.shape) > 1 and _is_log_uniform(node["fn"]):
                shape = self._rate_shape(site.shape, node["infer"].get("unit_dim"))
                rates[site.name] = Rates(shape, at)
                at += math.prod(shape)
        if not rates:
            raise InputError(
                "the model", expected="a log-uniform matrix of weights", got="none",
                remedy="Dropout is the posterior of weights with the prior pyro_bdl.priors.LogUniform()",
            )  # fmt: skip
        if self.sites and rates != self.rates:
            raise InputError("the model's dropout rates", expected=f"{self.rates}, of the loaded state", got=f"{rates}")
        self.rates = rates
        return sites, locs, log_variances

    def _rate_shape(self, shape: tuple[int, ...], unit_dim: int | None) -> tuple[int, ...]:
        if self.per == "weight":
            return shape
        if self.per == "layer":
            return (1,) * len(shape)
        unit_dim = len(shape) - 1 if unit_dim is None else unit_dim
        return tuple(n if dim == unit_dim else 1 for dim, n in enumerate(shape))

    def _adopt(self, sites: tuple[Site, ...], loc: Tensor, log_variance: Tensor) -> None:
        ratio = self.init_alpha / self.max_alpha
        start = math.log(self.init_alpha) if self.max_alpha == math.inf else math.log(ratio) - math.log1p(-ratio)
        count = sum(math.prod(rates.shape) for rates in self.rates.values())
        kept = [log_variance[s.start : s.start + s.size] for s in sites if s.name not in self.rates]
        super()._adopt(sites, loc, torch.cat([log_variance.new_empty(0), *kept]))
        self.register_parameter("rate", nn.Parameter(loc.new_full((count,), start)))

    def get_extra_state(self) -> Tensor:
        """Those of `AutoMeanField`, with the rates' layout and their maximum, as JSON in a tensor of bytes."""
        largest = None if self.max_alpha == math.inf else self.max_alpha
        layout = [[name, list(rates.shape), rates.start] for name, rates in self.rates.items()]
        text = json.dumps({"sites": bytes(super().get_extra_state().tolist()).decode(), "per": self.per,
                           "max_alpha": largest, "rates": layout})  # fmt: skip
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        sites, rates, per, largest = _read(state_dict.get(f"{prefix}_extra_state"))
        if (per, largest) != (self.per, self.max_alpha):
            expected = f"per={self.per!r} and max_alpha={self.max_alpha}"
            raise InputError("the state", expected=expected, got=f"{per!r} and {largest}")
        if self.sites and (self.sites, self.rates) != (sites, rates):
            raise InputError("the state", expected=f"the sites {self.sites} with {self.rates}", got=f"{sites}, {rates}")
        sizes = {
            "loc": sum(site.size for site in sites),
            "log_variance": sum(site.size for site in sites if site.name not in rates),
            "rate": sum(math.prod(r.shape) for r in rates.values()),
        }
        values = {}
        for name, size in sizes.items():
            value = state_dict.get(f"{prefix}{name}")
            if not isinstance(value, Tensor) or value.shape != (size,):
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise InputError("the state", expected=f"{name} of {size} numbers", got=got)
            if not bool(torch.isfinite(value).all()):
                raise InputError("the state", expected="finite numbers", got="NaN or infinity")
            values[name] = value.detach().clone()
        if not self.sites:
            self.sites, self.rates = sites, rates
            for name, value in values.items():
                self.register_parameter(name, nn.Parameter(value))
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)


def _is_log_uniform(fn: Any) -> bool:
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    return isinstance(fn, LogUniform)


def _read(state: Any) -> tuple[tuple[Site, ...], dict[str, Rates], str, float]:
    """Sites, rates, what a rate is for, and the largest rate, from the bytes of a saved state."""
    try:
        told = json.loads(bytes(state.tolist()).decode())
        sites = _sites_of(torch.tensor(list(told["sites"].encode()), dtype=torch.uint8))
        rates = {str(name): Rates(tuple(int(n) for n in shape), int(at)) for name, shape, at in told["rates"]}
        per, largest = str(told["per"]), math.inf if told["max_alpha"] is None else float(told["max_alpha"])
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        got = f"an unreadable layout ({error})"
        raise InputError("the state", expected="that of a GaussianDropout", got=got) from error
    shapes = {site.name: site.shape for site in sites}
    at = 0
    for name, (shape, start) in rates.items():
        fits = len(shape) == len(shapes.get(name, ())) and all(
            n in (1, m) for n, m in zip(shape, shapes.get(name, ()), strict=True)
        )
        if name not in shapes or not fits or start != at:
            raise InputError("the state", expected="rates of its sites, one after the other", got=f"{rates}")
        at += math.prod(shape)
    return sites, rates, per, largest
