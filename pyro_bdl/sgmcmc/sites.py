"""The latent sites of a Pyro program: which there are, what they are mapped to, where a chain begins.

Pyro's `initialize_model` refuses programs whose plates subsample, so this is done here: one run of the program, in
which each latent site takes a given value or one from its prior, and each that a gradient-based sampler cannot treat is
refused.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pyro
import torch
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import ImproperPriorError, InputError, UnsupportedModelError
from pyro_bdl.minibatches import Batch

Point = Mapping[str, Tensor] | Callable[..., Any]
"""Values by site, or a guide, whose draw is taken."""


@dataclass(frozen=True)
class LatentSite:
    """A latent site: its name, its shape, and the map from unconstrained space to its support (`None`: identity)."""

    name: str
    shape: torch.Size
    transform: Transform | None

    def unconstrain(self, value: Tensor) -> Tensor:
        """The unconstrained parameters of a value inside the support."""
        return value if self.transform is None else self.transform.inv(value)

    def constrain(self, unconstrained: Tensor) -> Tensor:
        """The value of unconstrained parameters."""
        return unconstrained if self.transform is None else self.transform(unconstrained)


def require_proper_priors(model: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Refuse a program that has a latent site with an improper prior; for use before any MCMC, Pyro's NUTS included.

    The log-uniform and the normal-Jeffreys prior of a weight have infinite mass at w = 0, where p(data | w) does not
    vanish, so that no posterior exists (Hron, Matthews & Ghahramani 2018): a sampler's draws would mean nothing,
    although they may look well.

    Args:
        model: a Pyro program; it is run once with `args` and `kwargs`, its latent sites drawn from their priors.

    Raises:
        ImproperPriorError: a latent site's distribution says `improper = True`.

    >>> import pyro.distributions as dist
    >>> require_proper_priors(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)))
    """
    with pyro.poutine.block(), _RefuseImproper():
        model(*args, **kwargs)


class _RefuseImproper(Messenger):
    def _pyro_sample(self, msg: Message) -> None:
        if not msg["is_observed"]:
            _require_proper(msg["name"], msg["fn"])


def _require_proper(name: str | None, fn: Any) -> None:
    base = fn
    while not getattr(base, "improper", False):
        base = getattr(base, "base_dist", None)
        if base is None:
            return
    raise ImproperPriorError(
        f'the prior of "{name}"',
        expected="a proper distribution, as MCMC needs a posterior",
        got=f"{type(base).__name__}, whose mass is infinite, and under which the posterior of a network is improper too"
        " (Hron, Matthews & Ghahramani 2018)",
        remedy="Take a half-Cauchy (horseshoe) prior on the scales or a Gaussian scale prior, or fit by SVI, "
        "which then is penalised likelihood with a KL-shaped penalty, not Bayes",
    )


class FirstRun(Messenger):
    """Run a program once, to learn its latent sites and give each a first value.

    Use as `with first_run: model(...)`; then `sites` and `values` hold what was met, `observations` the number of
    observed values, each counted with its plate's N/B, and `subsampled` the plates that have but a part of their size.

    Args:
        init: values by site name, for all latent sites; `None`: each is drawn from its prior.

    Raises:
        ImproperPriorError: by a site, for an improper prior.
        UnsupportedModelError: by a discrete site, one without a density, or one inside a subsampled plate (it
            would be another variable in each batch).
        InputError: a value in `init` that is missing, or has the wrong shape, dtype or support.
    """

    def __init__(self, init: Mapping[str, Tensor] | None) -> None:
        super().__init__()
        self.init = init
        self.sites: dict[str, LatentSite] = {}
        self.values: dict[str, Tensor] = {}
        self.subsampled: list[str] = []
        self.observations = 0.0

    def require_all_used(self) -> None:
        """Refuse initial values for sites that the program has not.

        Raises:
            InputError: unknown names.
        """
        unknown = sorted(set(self.init or ()) - set(self.sites))
        if unknown:
            raise InputError("init", expected=f"values for the sites {sorted(self.sites)}", got=f"one for {unknown}")

    def _pyro_sample(self, msg: Message) -> None:
        name, fn = str(msg["name"]), cast(Any, msg["fn"])
        if isinstance(fn, _Subsample):
            if fn.subsample_size is not None and fn.subsample_size < fn.size:
                self.subsampled.append(name)
            return
        if msg["is_observed"]:
            if not (msg["infer"] or {}).get("_deterministic"):
                self.observations += float(msg["scale"]) * _count(fn, msg["value"])
            return
        _require_proper(name, fn)
        for frame in msg["cond_indep_stack"]:
            if frame.full_size is not None and frame.full_size != frame.size:
                raise UnsupportedModelError(
                    f'the site "{name}"',
                    expected="a latent variable that is the same in each batch",
                    got=f'one inside the subsampled plate "{frame.name}", another in each batch',
                    remedy="Sample it outside the plate, or fit it by SVI with an amortised guide",
                )
        transform = _transform(name, fn)
        if self.init is None:
            value = fn(*msg["args"], **msg["kwargs"]).detach()
        else:
            value = _given(name, fn, self.init)
        site = LatentSite(name, value.shape, transform)
        if not torch.isfinite(site.unconstrain(value)).all():
            raise InputError(
                f'the initial value of "{name}"', expected=f"finite numbers inside {fn.support}", got="others"
            )
        self.sites[name], self.values[name] = site, value
        msg["value"], msg["done"] = value, True


def first_run(
    model: Callable[..., Any],
    start: Point | None,
    batch: Batch | None,
    plate: SubsampleIndices | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> FirstRun:
    """A run of a program on a batch, its latent sites at the start's values or drawn from their priors.

    Args:
        model: the Pyro program.
        start: values by site, a guide, whose draw is taken, or `None`.
        batch: the data, whose tensors come before `args`; `None`: the program has its own.
        plate: what tells the data plate which points the batch holds.
        args: positional arguments of the program.
        kwargs: its keyword arguments.

    Raises:
        InputError: a program that fails, or initial values for sites that it has not.
        UnsupportedModelError: it has no latent site; and see `FirstRun`.
    """
    args = (*(batch.args if batch is not None else ()), *args)
    if plate is not None and batch is not None:
        plate.set(batch)
    with pyro.poutine.block(), plate or contextlib.nullcontext(), pyro.validation_enabled(True):
        first = FirstRun(values_of_guide(start, *args, **kwargs) if callable(start) else start)
        try:
            with first:
                model(*args, **kwargs)
        except InputError:
            raise
        except ValueError as error:  # a distribution's own check of its parameters
            raise InputError("the model", expected="a program that runs", got=f"an error, {error}") from error
    first.require_all_used()
    if not first.sites:
        raise UnsupportedModelError("the model", expected="at least one latent site", got="none")
    return first


def values_of_guide(guide: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """One draw of a guide: its latent sites' values, auxiliary ones excepted, and those that it returns by name."""
    trace: Any = pyro.poutine.trace(guide)
    with torch.no_grad():
        recorded = trace.get_trace(*args, **kwargs)
    nodes: Mapping[str, Any] = recorded.nodes
    values = {
        name: node["value"]
        for name, node in nodes.items()
        if node["type"] == "sample"
        and not node["is_observed"]
        and not isinstance(node["fn"], _Subsample)
        and not node["infer"].get("is_auxiliary")
    }
    returned = nodes["_RETURN"]["value"]
    return {**values, **returned} if isinstance(returned, Mapping) else values


def _count(fn: Any, value: Any) -> int:
    """The number of independent observations: of the law's batch, or of the value's where it is larger."""
    events = value.numel() // max(fn.event_shape.numel(), 1) if isinstance(value, Tensor) else 1
    return max(fn.batch_shape.numel(), events)


def _transform(name: str, fn: Any) -> Transform | None:
    """The bijection to a site's support, `None` for the identity; refuses what has none."""
    support = transform = None
    with contextlib.suppress(AttributeError, NotImplementedError):
        support = _without_mixture(fn.support)
        transform = biject_to(support)
    discrete = getattr(fn, "has_enumerate_support", False) or getattr(support, "is_discrete", False)
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if discrete or transform is None or isinstance(base, Delta):
        raise UnsupportedModelError(
            f'the site "{name}"',
            expected="a continuous latent variable with a density",
            got=f"a discrete one ({type(base).__name__})" if discrete else f"a {type(base).__name__}",
            remedy="Sum it out by hand (MixtureSameFamily, say), or use Pyro's enumeration with NUTS or SVI",
        )
    base_support = support
    while isinstance(base_support, constraints.independent):
        base_support = base_support.base_constraint
    return None if base_support is constraints.real else transform


def _without_mixture(support: Any) -> Any:
    """A constraint that `biject_to` knows: of a mixture it does not, although its components have one support."""
    if isinstance(support, constraints.independent):
        return constraints.independent(_without_mixture(support.base_constraint), support.reinterpreted_batch_ndims)
    if type(support).__name__ == "MixtureSameFamilyConstraint":
        return _without_mixture(support.base_constraint)
    return support


def _given(name: str, fn: Any, init: Mapping[str, Tensor]) -> Tensor:
    if name not in init:
        raise InputError("init", expected=f'a value for the site "{name}"', got=f"values for {sorted(init)}")
    value, shape = init[name], fn.shape()
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise InputError(f'the initial value of "{name}"', expected="a floating-point tensor", got=repr(value)[:60])
    if value.shape != shape:
        raise InputError(
            f'the initial value of "{name}"', expected=f"shape {tuple(shape)}", got=f"shape {tuple(value.shape)}"
        )
    if not fn.support.check(value).all() or not torch.isfinite(value).all():
        raise InputError(f'the initial value of "{name}"', expected=f"finite numbers in {fn.support}", got="others")
    return value.detach().clone()
