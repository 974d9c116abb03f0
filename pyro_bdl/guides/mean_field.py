"""A factorised Gaussian over all latent sites of a model."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from pyro_bdl.distributions import VarianceNormal
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.guides.initial import init_to_network, support_of
from pyro_bdl.parameters import own_parameter

FAMILIES = ("normal", "log_normal", "transformed")
INDEPENDENT: Any = {"independent": True}  # of all other sites: see `pyro_bdl.site_kl.turned`


class Moments(NamedTuple):
    """Mean and variance of one site in unconstrained space, in the site's own shape."""

    loc: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Site:
    """How one latent site lies in the flat parameters.

    Attributes:
        name: the site.
        shape: its shape in unconstrained space.
        start: where it begins in the flat vectors.
        family: "normal" on the reals, "log_normal" on the positive reals, "transformed" elsewhere.
        in_plate: whether it stands within a plate, so that a draw belongs to more than the network.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    family: str
    in_plate: bool = False

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class AutoMeanField(AutoGuide):
    r"""The mean-field guide: each latent number has its own Gaussian, in unconstrained space.

    .. math:: q(u) = \prod_i N(u_i;\, \mu_i, \sigma_i^2), \qquad \theta = T(u)

    The family of a site follows from its support: normal on the reals, log-normal on the positive reals, else a
    Gaussian through the bijection that `torch.distributions.biject_to` names. Means and log-variances of *all* sites
    lie in two flat parameters, `loc` and `log_variance`, so a step of an optimizer is one operation each, whatever the
    number of layers.

    Without a warm-up call, `load_state_dict` of a fresh guide restores a saved one: its state tells the sites.

    Args:
        model: a Pyro model. Latent sites within a subsampled plate are refused; they want an amortised guide.
        init_loc_fn: where sites begin that do not say it themselves, as for Pyro's autoguides. Default
            `init_to_network`: each weight at its network's own value (He, Glorot, or trained), node scales at one.
        init_scale: the standard deviation to begin with. Default 0.01: small against weights of order
            1/sqrt(fan-in), so that training starts as it would for the plain network (log-variance -9 in the code of
            Louizos et al. 2017).

    Raises:
        InputError: a scale that is not positive; a state that is not of a guide like this; a model whose sites differ
            from those of the loaded state.
        UnsupportedModelError: discrete latent sites, or latent sites within a subsampled plate.

    >>> import pyro_bdl as bdl
    >>> bnn = bdl.BayesianModule(nn.Linear(2, 1))
    >>> guide = AutoMeanField(bnn)
    >>> draw = guide(torch.randn(5, 2))
    >>> {name: tuple(value.shape) for name, value in draw.items()}
    {'weight': (1, 2), 'bias': (1,)}
    >>> fresh = AutoMeanField(bnn)
    >>> _ = fresh.load_state_dict(guide.state_dict())
    >>> bool((fresh.median()["weight"] == bnn.net.weight).all())
    True
    """

    loc: nn.Parameter
    log_variance: nn.Parameter

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_loc_fn: Callable[..., Tensor] = init_to_network,
        init_scale: float = 0.01,
    ) -> None:
        if not (isinstance(init_scale, (int, float)) and 0.0 < init_scale < math.inf):
            raise InputError("init_scale", expected="a positive finite number", got=repr(init_scale))
        super().__init__(model)
        self.init_loc_fn, self.init_scale = init_loc_fn, float(init_scale)
        self.sites: tuple[Site, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample all latent sites; arguments are the model's own."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        for name, parameter in self.named_parameters():
            own_parameter(f"{self._pyro_name}.{name}", parameter)
        assert self.prototype_trace is not None
        plates: dict[str, pyro.plate] = {}
        values = {}
        for site, numbers in zip(self.sites, self._numbers(), strict=True):
            node = self.prototype_trace.nodes[site.name]
            with ExitStack() as stack:
                for frame in node["cond_indep_stack"]:  # whole plates: _check refused subsampled ones
                    if frame.name not in plates:
                        plates[frame.name] = pyro.plate(frame.name, frame.size, dim=frame.dim)
                    stack.enter_context(plates[frame.name])
                q = self._law(site, numbers, support_of(node["fn"]), node["fn"].event_dim)
                values[site.name] = pyro.sample(site.name, q, infer=INDEPENDENT)
        return values

    def _numbers(self) -> Iterator[Any]:
        """What the law of each site of `sites` is made of."""
        return self.moments()

    def _law(self, site: Site, numbers: Any, support: Any, event_dim: int) -> dist.TorchDistribution:
        """The posterior of a site."""
        return posterior(site, numbers, support, event_dim)

    def moments(self) -> Iterator[Moments]:
        """Mean and variance of each site of `sites`, views of two flat vectors."""
        sizes = [site.size for site in self.sites]
        # Read past PyroModule, which would look the name up in Pyro's global store.
        flat_loc, flat_log_variance = self._parameters["loc"], self._parameters["log_variance"]
        assert flat_loc is not None
        assert flat_log_variance is not None
        locs, variances = flat_loc.split(sizes), flat_log_variance.exp().split(sizes)
        for site, loc, variance in zip(self.sites, locs, variances, strict=True):
            yield Moments(loc.view(site.shape), variance.view(site.shape))

    def distributions(self) -> dict[str, dist.TorchDistribution]:
        """The posterior of each site by name, detached, all dimensions being event dimensions."""
        with torch.no_grad():
            own = (Moments(loc.detach(), variance) for loc, variance in self.moments())  # a view keeps its gradient
            pairs = zip(self.sites, own, strict=True)
            laws = {site.name: posterior(site, moments, self.support(site)) for site, moments in pairs}
            return {name: q.to_event(len(q.batch_shape)) for name, q in laws.items()}

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The median of each site: its mean in unconstrained space, carried over."""
        return self.quantiles([0.5], *args, **kwargs, _squeeze=True)

    def quantiles(self, quantiles: list[float], *args: Any, _squeeze: bool = False, **kwargs: Any) -> dict[str, Tensor]:
        """Quantiles of each element of each site, stacked along a new first dimension.

        >>> guide = AutoMeanField(lambda: pyro.sample("s", dist.LogNormal(0.0, 1.0)), init_scale=1.0)
        >>> guide.quantiles([0.5, 0.84134])["s"]
        tensor([1.0000, 2.7182])
        """
        unknown = any(site.family == "transformed" for site in self.sites) and self.prototype_trace is None
        if unknown or not self.sites:
            self._setup_prototype(*args, **kwargs)
        with torch.no_grad():
            result = {}
            for site, (loc, variance) in zip(self.sites, self.moments(), strict=True):
                p = torch.as_tensor(quantiles, dtype=loc.dtype, device=loc.device)
                z = torch.special.ndtri(p).reshape(-1, *(1,) * loc.dim())
                value = _transform(site, self.support(site))(loc + variance.sqrt() * z)
                result[site.name] = value[0] if _squeeze else value
            return result

    def support(self, site: Site) -> Any:
        """The support of a site."""
        if site.family == "normal":
            return constraints.real
        if site.family == "log_normal":
            return constraints.positive
        if self.prototype_trace is None:
            raise InputError(
                f"the support of {site.name}", expected="a guide that was called once", got="one that was only loaded"
            )
        return support_of(self.prototype_trace.nodes[site.name]["fn"])

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        model = self._model
        self._model = (InitMessenger(self._start)(model[0]),)
        try:
            super()._setup_prototype(*args, **kwargs)
            sites, locs, log_variances = self._lay_out()
        except BaseException:
            self.prototype_trace = None
            raise
        finally:
            self._model = model
        if not self.sites:
            self._adopt(sites, torch.cat(locs), torch.cat(log_variances))
        elif sites != self.sites:
            self.prototype_trace = None
            raise InputError("the model's sites", expected=f"{self.sites}, those of the loaded state", got=f"{sites}")

    def _start(self, site: dict[str, Any]) -> Tensor:
        _refuse_discrete(site["name"], site["fn"])
        return self.init_loc_fn(site)

    def _lay_out(self) -> tuple[tuple[Site, ...], list[Tensor], list[Tensor]]:
        sites: list[Site] = []
        locs: list[Tensor] = []
        log_variances: list[Tensor] = []
        assert self.prototype_trace is not None
        for name, node in self.prototype_trace.iter_stochastic_nodes():
            support, infer = support_of(node["fn"]), node["infer"]
            _check(name, node)
            loc = biject_to(support).inv(node["value"].detach())
            start = sites[-1].start + sites[-1].size if sites else 0
            sites.append(Site(name, tuple(loc.shape), start, _family(support), bool(node["cond_indep_stack"])))
            scale = float(infer.get("initial_scale", self.init_scale))
            locs.append(loc.reshape(-1))
            log_variances.append(torch.full_like(locs[-1], 2.0 * math.log(scale)))
        if not sites:
            raise InputError("the model", expected="at least one latent sample site", got="none")
        return tuple(sites), locs, log_variances

    def _adopt(self, sites: tuple[Site, ...], loc: Tensor, log_variance: Tensor) -> None:
        self.sites = sites
        # Not by assignment, which within a call would take another guide's parameters from Pyro's global store.
        self.register_parameter("loc", nn.Parameter(loc.contiguous()))
        self.register_parameter("log_variance", nn.Parameter(log_variance))

    def get_extra_state(self) -> Tensor:
        """The sites as JSON in a tensor of bytes, so that a state dict is nothing but tensors."""
        text = json.dumps([[s.name, list(s.shape), s.start, s.family, s.in_plate] for s in self.sites])
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Read already, before the parameters."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        sites = _sites_of(state_dict.get(f"{prefix}_extra_state"))
        size = sum(site.size for site in sites)
        values = [state_dict.get(f"{prefix}{name}") for name in ("loc", "log_variance")]
        for value in values:
            if not isinstance(value, Tensor) or value.shape != (size,):
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise InputError("the state", expected=f"loc and log_variance of {size} numbers", got=got)
            if not bool(torch.isfinite(value).all()):
                raise InputError("the state", expected="finite numbers", got="NaN or infinity")
        if self.sites and self.sites != sites:
            raise InputError("the state", expected=f"the sites {self.sites}", got=f"{sites}")
        if not self.sites:
            self._adopt(sites, *(value.detach().clone() for value in values if value is not None))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def posterior(site: Site, moments: Moments, support: Any, event_dim: int = 0) -> dist.TorchDistribution:
    """The distribution of a site with these moments; `event_dim` is that of its prior."""
    if site.family == "normal":
        return VarianceNormal(*moments).to_event(event_dim)
    if site.family == "log_normal":
        return dist.LogNormal(moments.loc, moments.variance.sqrt(), validate_args=False).to_event(event_dim)
    transform = biject_to(support)
    base = VarianceNormal(*moments).to_event(transform.domain.event_dim)
    q = dist.TransformedDistribution(base, [transform], validate_args=False)
    return q.to_event(max(event_dim - q.event_dim, 0))


def _transform(site: Site, support: Any) -> Callable[[Tensor], Tensor]:
    if site.family == "normal":
        return lambda u: u
    return torch.exp if site.family == "log_normal" else biject_to(support)


def _family(support: Any) -> str:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real:
        return "normal"
    return "log_normal" if support in (constraints.positive, constraints.nonnegative) else "transformed"


def _refuse_discrete(name: str, fn: Any) -> None:
    if fn.support.is_discrete:
        raise UnsupportedModelError(
            f"the site {name}", expected="a continuous distribution", got=f"a discrete one ({fn})",
            remedy="If it is observed, call with its observations; else enumerate it: pyro.infer.TraceEnum_ELBO with "
            "pyro.poutine.block in the guide",
        )  # fmt: skip


def _check(name: str, node: dict[str, Any]) -> None:
    _refuse_discrete(name, node["fn"])
    for frame in node["cond_indep_stack"]:
        if frame.full_size is not None and frame.full_size != frame.size:
            raise UnsupportedModelError(
                f"the site {name}", expected="no latent variable within a subsampled plate",
                got=f'the plate "{frame.name}" of {frame.full_size} with {frame.size} at a time',
                remedy="Write a guide whose network tells each data point's posterior (amortisation)",
            )  # fmt: skip
    if not torch.isfinite(node["value"]).all():
        raise InputError(f"the initial value of {name}", expected="finite numbers", got="NaN or infinity")


def _sites_of(state: Any) -> tuple[Site, ...]:
    try:
        rows = json.loads(bytes(state.tolist()).decode())
        sites = tuple(Site(str(n), tuple(int(k) for k in s), int(at), str(f), bool(p)) for n, s, at, f, p in rows)
    except (AttributeError, ValueError, TypeError) as error:
        got = f"an unreadable list of sites ({error})"
        raise InputError("the state", expected="that of an AutoMeanField", got=got) from error
    if not sites:
        raise InputError("the state", expected="that of a guide with sites", got="one saved before its first call")
    starts = list(accumulate((site.size for site in sites), initial=0))[:-1]
    if [site.start for site in sites] != starts or any(site.family not in FAMILIES for site in sites):
        raise InputError("the state", expected="sites one after the other", got=f"{sites}")
    return sites
