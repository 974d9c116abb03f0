"""Which numbers of a guide are left where units of its network are cut out.

Nothing is read off the names or shapes of a prior's sites. The prior's program is run once with known numbers, and
automatic differentiation tells which weights each of them acts on:

1. A number that acts on weights, but on none that is left, goes. All others stay: a weight (or its raw value) of a kept
   unit, the scale of a kept node, the global scale of a layer.
2. The program of the cut network is run with the numbers that stay. It must ask for just these, give the weights that
   are left, and have a prior density with the same gradient in them (and in what the prior learns): then the fit of the
   part is the fit of the whole but for terms in which only numbers that went occur.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.guides.initial import support_of
from pyro_bdl.guides.mean_field import AutoMeanField, Site

REMEDY = "Fit without shrink= and cut units out at the end (compress)"


@dataclass(frozen=True, eq=False)
class NumbersLeft:
    """What is left of a guide's flat vectors.

    Attributes:
        sites: as they lie in what is left.
        left: bool, of the length of the whole vectors.
        idle: numbers that go and are the mean of a weight, or of its raw value: where they are 0 the unit is off.
    """

    sites: tuple[Site, ...]
    left: Tensor
    idle: Tensor


@torch.enable_grad()
def numbers_left(
    guide: AutoMeanField, module: BayesianModule, part: BayesianModule, weights_left: Mapping[str, Tensor]
) -> NumbersLeft:
    """Find them, and verify the part's program.

    Args:
        guide: of the whole.
        module, part: the network, and its part.
        weights_left: by parameter name, which elements are left.

    Raises:
        UnsupportedModelError: a prior whose part does not follow from the whole, e.g. one that learns from all weights.
    """
    numbers = 0.5 + torch.rand(len(guide.loc), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers = numbers.to(guide.loc)
    whole = _Run(module, guide.sites, numbers)
    names = [name for name in weights_left if name in whole.weights and whole.weights[name].requires_grad]
    acts = whole.gradient([whole.weights[name].sum() for name in names]) != 0
    acts_on_left = whole.gradient([(whole.weights[n] * weights_left[n]).sum() for n in names]) != 0
    left = ~acts | acts_on_left
    sizes = [int(left[site.start : site.start + site.size].sum()) for site in guide.sites]
    counted = _one_after_the_other(guide.sites, [(size,) for size in sizes])
    rest = _Run(part, counted, numbers[left])
    for name in names:
        _same(f"the weight {name}", whole.weights[name][weights_left[name]], rest.weights[name].reshape(-1))
    priors = whole.prior_gradients(), rest.prior_gradients()
    for site, small in zip(guide.sites, counted, strict=True):
        mask = left[site.start : site.start + site.size]
        gradients = priors[0][0][site.start : site.start + site.size][mask], priors[1][0][small.start :][: small.size]
        _same(f"the prior of {site.name}", *gradients)
    for key, gradient in priors[0][1].items():
        _same(f"what the prior learns ({key})", gradient, priors[1][1].get(key, torch.zeros_like(gradient)))
    shapes = [rest.shapes.get(site.name, site.shape) for site in guide.sites]
    return NumbersLeft(_one_after_the_other(guide.sites, shapes), left, ~left & _of_weights(guide, module))


class _Run(Messenger):
    """One run of a module's program in which each latent site has given numbers, in unconstrained space."""

    def __init__(self, module: BayesianModule, sites: tuple[Site, ...], numbers: Tensor) -> None:
        super().__init__()
        self.numbers = numbers.detach().requires_grad_()
        self.sites = {site.name: site for site in sites}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.learned: dict[str, Tensor] = {}
        self._log_prior: Any = self.numbers.new_zeros(())
        with torch.enable_grad(), poutine.block(), self:
            self.weights = module.sample()

    def gradient(self, outputs: list[Tensor]) -> Tensor:
        """Of the sum, in the numbers."""
        return torch.autograd.grad(torch.stack(outputs).sum(), self.numbers, retain_graph=True)[0]

    def prior_gradients(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the log prior density, in the numbers and in what the prior learns."""
        inputs = [self.numbers, *self.learned.values()]
        if not self._log_prior.requires_grad:
            return torch.zeros_like(self.numbers), {}
        first, *others = torch.autograd.grad(self._log_prior, inputs, retain_graph=True, allow_unused=True)
        found = {name: g for name, g in zip(self.learned, others, strict=True) if g is not None}
        return (torch.zeros_like(self.numbers) if first is None else first), found

    def _pyro_sample(self, msg: Message) -> None:
        if msg["done"] or msg["is_observed"] or isinstance(msg["fn"], _Subsample):
            return
        fn: Any = msg["fn"]
        name, transform = str(msg["name"]), biject_to(support_of(fn))
        shape = tuple(transform.inverse_shape(fn.shape()))
        site = self.sites.get(name)
        if site is None or math.prod(shape) != site.size:
            raise UnsupportedModelError(
                f"the site {name}", expected="one number for each that acts on a unit that is left"
                + (f", {site.size} in all" if site is not None else ""),
                got=f"shape {shape}", remedy=REMEDY,
            )  # fmt: skip
        value: Any = transform(self.numbers[site.start : site.start + site.size].view(shape))
        self.shapes[name] = shape
        msg["value"], msg["done"] = value, True
        self._log_prior = self._log_prior + fn.log_prob(value).sum()

    def _pyro_post_param(self, msg: Message) -> None:
        value: Any = msg["value"]
        value = value.unconstrained() if hasattr(value, "unconstrained") else value
        if value.requires_grad:
            self.learned[str(msg["name"])] = value


def _of_weights(guide: AutoMeanField, module: BayesianModule) -> Tensor:
    """The numbers of normal sites that have a weight's shape and its name, or one below it."""
    weights = [(w.name, tuple(w.value.shape)) for w in module.weights]
    mask = torch.zeros_like(guide.loc, dtype=torch.bool)
    for site in guide.sites:
        for name, shape in weights:
            if site.family == "normal" and site.shape == shape and f"{site.name}.".startswith(f"{name}."):
                mask[site.start : site.start + site.size] = True
    return mask


def _one_after_the_other(sites: tuple[Site, ...], shapes: list[tuple[int, ...]]) -> tuple[Site, ...]:
    placed: list[Site] = []
    start = 0
    for site, shape in zip(sites, shapes, strict=True):
        placed.append(Site(site.name, tuple(shape), start, site.family, site.in_plate))
        start += math.prod(shape)
    return tuple(placed)


def _same(what: str, whole: Tensor, part: Tensor) -> None:
    """Refuse numbers that are not the same to rounding."""
    scale = max(float(whole.detach().abs().max()), 1e-30) if whole.numel() else 1.0
    tolerance = 1e3 * torch.finfo(whole.dtype).eps
    if whole.shape != part.shape or not torch.allclose(whole, part, rtol=tolerance, atol=tolerance * scale):
        raise UnsupportedModelError(
            what, expected="what it was in the whole network", got="another one once units are cut out", remedy=REMEDY
        )
