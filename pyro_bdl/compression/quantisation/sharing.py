r"""Which of a few values each weight takes: those of soft weight sharing's components, or k-means of the posterior.

A choice has two parts. The values: the components that are left when those nearer to each other than a threshold are
merged (Ullrich, Meeds & Welling 2017, section 4.1), or some number of centres: those of k-means, or as many that are
evenly spaced at first. An entropy coder prefers the latter, k-means puts too many where weights are many. And the place
of each weight w, for a trade :math:`\lambda`:

- of a component, by :math:`\arg\max_k \lambda \log \pi_k + \log N(w; \mu_k, \sigma_k^2)`; with :math:`\lambda = 1` the
  one of the highest responsibility, as in the paper;
- of a centre, by :math:`\arg\min_k (w - c_k)^2 / 2 \sigma^2 - \lambda \log p(k)` with the frequencies p of the places
  themselves and each centre the mean of its weights, in turn: entropy-constrained scalar quantisation with the
  posterior's precision as the weight of the distortion (Choi, El-Khamy & Lee 2017, section 4.2).

A larger threshold, fewer centres and a larger trade make the file shorter and the error larger.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_bdl.compression.codec import Parameter
from pyro_bdl.compression.coding.codebook import MOST_VALUES, Clustered, clustered
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.quantisation.choosing import TRADE, TRADES, bits_of, fewest_bits, finely_rounded
from pyro_bdl.compression.quantisation.clustering import k_means
from pyro_bdl.compression.quantisation.quantising import nats, nearest
from pyro_bdl.compression.quantisation.widths import Evaluate, Values
from pyro_bdl.errors import InputError

MERGING = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.0)
ROUNDS = 8
VALUE_BITS = 16

Masks = Mapping[str, Tensor]


@runtime_checkable
class Mixture(Protocol):
    """What is asked of a mixture over weights: `pyro_bdl.priors.SoftWeightSharing`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The sites of its weights."""
        ...

    @property
    def components(self) -> Any:
        """With `means`, that at zero first."""
        ...

    def assign(self, weight: Tensor, *, trade: float = 1.0) -> Tensor:
        """The component of each weight."""
        ...

    def merge(self, *, threshold: float = 0.1) -> int:
        """Join components that hardly differ."""
        ...


class Sharing(ABC):
    """A way to let weights share values.

    Attributes:
        names: of the parameters that do.
        sizes: of the codebook, in one series or more, each to be tried in its order: the smallest first.
        size, trade: without validation data.
    """

    names: Sequence[str]
    sizes: Sequence[Sequence[Any]]
    size: Any
    trade: float

    @abstractmethod
    def share(self, gone: Masks, size: Any, trade: float) -> dict[str, Clustered]:
        """Places of all weights; those that are gone are zero."""


class Components(Sharing):
    """The components of a soft-weight-sharing prior; a size is the threshold below which they are merged."""

    sizes, size, trade = (MERGING,), 0.1, 1.0

    def __init__(self, prior: Mixture, posterior: WeightPosterior) -> None:
        self.prior, self.names = prior, _names_in(prior, list(posterior.mean))
        self.posterior = posterior

    def share(self, gone: Masks, size: float, trade: float) -> dict[str, Clustered]:
        """See `Sharing`."""
        prior = copy.deepcopy(self.prior)
        if size:
            prior.merge(threshold=size)
        places = {name: prior.assign(self.posterior.mean[name], trade=trade) for name in self.names}
        return clustered({n: place.masked_fill(gone[n], 0) for n, place in places.items()}, prior.components.means)


class Centres(Sharing):
    """Clusters of the posterior means, each with the weight of its precision.

    A size is the number of centres, and whether they are evenly spaced at first; else they are those of k-means.

    Where the posterior has no scales at all (point values) each weight has the same: the mean squared distance of the
    values from their centres.
    """

    def __init__(self, most: int, posterior: WeightPosterior) -> None:
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= MOST_VALUES:
            raise InputError("codebook", expected=f"a number of clusters from 1 to {MOST_VALUES}", got=repr(most))
        known = {name: bool((v > 0).all()) and v.numel() > 0 for name, v in posterior.variance.items()}
        self.random = any(known.values())
        self.names = [name for name in known if known[name] or not self.random]
        self.mean = {name: posterior.mean[name].double() for name in self.names}
        self.variance = {
            name: posterior.variance[name].double() if self.random else torch.ones_like(mean)
            for name, mean in self.mean.items()
        }
        self.size, self.trade = (most, False), TRADE if self.random else 0.0
        numbers = [*(k for k in _growing() if k < most), most]
        self.sizes = tuple([(k, even) for k in numbers] for even in (True, False))

    def share(self, gone: Masks, size: tuple[int, bool], trade: float) -> dict[str, Clustered]:
        """See `Sharing`."""
        free = {name: ~gone[name] for name in self.names}
        scale = max(
            (float(self.mean[name][free[name]].abs().max()) for name in self.names if free[name].any()), default=0
        )
        scale = scale or 1.0
        x = {name: self.mean[name][free[name]] / scale for name in self.names}
        # Of a very small or large number even the quotient by another might not be one.
        v = {
            name: (self.variance[name][free[name]].sqrt() / scale).clamp(1e-140, 1e140).square() for name in self.names
        }
        every = torch.cat(list(v.values()))
        weights = {name: every.min() / part if len(part) else part for name, part in v.items()}
        most, even = size
        start = _evenly if even else k_means
        values = start(torch.cat(list(x.values())), torch.cat(list(weights.values())), most).to(every)
        at_zero = int((values < 0).sum())
        values = torch.cat([values[:at_zero], values.new_zeros(1), values[at_zero:]])
        places = {name: nearest(x[name], v[name], values, torch.zeros_like(values)) for name in self.names}
        values = _means(x, weights, values, at_zero, places)
        if trade > 0 and len(every):
            if not self.random:
                distance = torch.cat([x[n] - values[places[n]] for n in self.names]).square().mean()
                v = {name: torch.full_like(part, max(float(distance), 1e-280)) for name, part in v.items()}
            places, values = _settled(x, v, weights, values, at_zero, places, trade)
        whole = {name: torch.full(free[name].shape, at_zero, device=every.device) for name in self.names}
        for name, place in places.items():
            whole[name][free[name]] = place
        return clustered(whole, values * scale)


def sharing_of(codebook: int | Mixture, posterior: WeightPosterior) -> Sharing:
    """By the components of a mixture, or by so many centres of k-means or fewer.

    Raises:
        InputError: another mixture than that of these weights; no number from 1 to 2^12.
    """
    if isinstance(codebook, Mixture):
        return Components(codebook, posterior)
    return Centres(codebook, posterior)


def choose_shared(
    sharing: Sharing,
    posterior: WeightPosterior,
    gone: Masks,
    *,
    evaluate: Evaluate | None,
    limit: float,
    spread: float | None,
    trade: float | None,
) -> dict[str, Parameter]:
    """Places in a codebook for the parameters that share values, integers for the others.

    For each size of the codebook, the smallest of a series first, the largest trade within the limit is found by
    bisection; that of the fewest bits is taken, looked for until two larger ones are worse. If none is within the
    limit: the last size and a trade of 0. Without `evaluate`: the sharing's own size and trade.

    Args:
        sharing: of which parameters, and how.
        posterior, gone, evaluate, limit: as for `choose_integers`.
        spread: of the integers of the other parameters, whose rounding does no harm by itself. Default 1/4.
        trade: then for all. Default: chosen.
    """
    rest = [name for name in posterior.mean if name not in set(sharing.names)]
    others = {name: finely_rounded(posterior, name, gone[name], spread) for name in rest}

    def code(size: Any, trade: float) -> dict[str, Parameter]:
        shared = sharing.share(gone, size, trade)
        return {name: shared[name] if name in shared else others[name] for name in posterior.mean}

    if evaluate is None:
        return code(sharing.size, sharing.trade if trade is None else trade)
    trades = TRADES if trade is None else (trade,)
    found = [
        fewest_bits(code, series, trades, evaluate=evaluate, limit=limit, like=posterior.mean, bits=_bits)
        for series in sharing.sizes
    ]
    good = [coded for coded in found if coded is not None]
    return min(good, key=_bits) if good else code(sharing.sizes[-1][-1], trade or 0.0)


def _bits(parameters: Mapping[str, Parameter]) -> float:
    """Of places and integers, and of the codebook."""
    books = [len(p.book) for p in parameters.values() if isinstance(p, Clustered)]
    return bits_of(parameters) + VALUE_BITS * max(books, default=0)


def _settled(
    x: Values, v: Values, weights: Values, values: Tensor, at_zero: int, places: dict[str, Tensor], trade: float
) -> tuple[dict[str, Tensor], Tensor]:
    """Places and centres in turn, until no place changes; by parameter the frequencies of its own places."""
    for _ in range(ROUNDS):
        counts = {n: torch.bincount(place, minlength=len(values)).double() for n, place in places.items()}
        after = {n: nearest(x[n], v[n], values, trade * nats(counts[n])) for n in places}
        if all(torch.equal(after[n], places[n]) for n in places):
            break
        places, values = after, _means(x, weights, values, at_zero, after)
    return places, values


def _means(x: Values, weights: Values, values: Tensor, at_zero: int, places: Values) -> Tensor:
    """Each value the mean of the weights at its place, but for zero and those that have none."""
    sums = values.new_zeros(2, len(values))
    for name, place in places.items():
        sums[0].index_add_(0, place, weights[name])
        sums[1].index_add_(0, place, weights[name] * x[name])
    means = torch.where(sums[0] > 0, sums[1] / sums[0], values)
    means[at_zero] = 0.0
    return means


def _evenly(x: Tensor, _: Tensor, most: int) -> Tensor:
    """Multiples of a step over the range of x and zero, at most so many besides zero."""
    if not len(x):
        return x.new_zeros(0)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    places = torch.arange(-most, most + 1, dtype=x.dtype, device=x.device)
    step = (high - low) / most or 1.0
    found = places[(places != 0) & (places >= low / step) & (places <= high / step)]
    return found[:most] * step


def _growing() -> list[int]:
    """2, 3, 4, 6, 8, 12, 16, ..."""
    return sorted(k << n for n in range(int(math.log2(MOST_VALUES))) for k in (2, 3))


def _names_in(prior: Mixture, names: list[str]) -> list[str]:
    """The network's own names of the weights that a mixture is for, whose sites may have a prefix."""
    if prior.names:
        first = prior.names[0]
        for prefix in (first.removesuffix(name) for name in names if first.endswith(name)):
            found = [site.removeprefix(prefix) for site in prior.names if site.startswith(prefix)]
            if len(found) == len(prior.names) and set(found) <= set(names):
                return found
    raise InputError("codebook", expected="the prior of weights of this network", got=f"one of {list(prior.names)}")
