"""Soft weight sharing: one learned mixture of normals over many weights."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from pyro_bdl.distributions import NormalMixture
from pyro_bdl.errors import InputError
from pyro_bdl.parameters import own_parameter
from pyro_bdl.priors.independent import positive
from pyro_bdl.priors.weight import Weight, WeightProgram

LEARNED = ("means", "log_variances", "logits")
ZERO_LEARNED = ("zero_log_variance",)


class Components(NamedTuple):
    """Shares, means and standard deviations of a mixture's components, the one at zero first; each (K + 1,)."""

    shares: Tensor
    means: Tensor
    scales: Tensor


class SoftWeightSharing(nn.Module):
    r"""A mixture of normals over all weights that it is given, whose components are learned with them.

    .. math::
        p(w) = \prod_i \Big[ \pi_0 N(w_i; 0, \sigma_0^2)
        + (1 - \pi_0) \sum_{k=1}^K \rho_k N(w_i; \mu_k, \sigma_k^2) \Big]

    (Nowlan & Hinton 1992; Ullrich, Meeds & Welling 2017, section 3): weights gather at K values and, most of them, at
    zero. Afterwards each is replaced by the mean of its component (`quantize`), and a file holds these and indices only
    (`compress` with `codebook=` this prior). pi_0 and the zero are fixed; sigma_0, the means, variances and shares rho
    are parameters, here and in Pyro's store, that `fit_svi` and `SVI` learn with the weights. One mixture serves all
    weights of a network, biases too, or those of a layer through `ByName`; each mixture wants a prior object of its
    own.

    Gamma hyper-priors on the precisions :math:`\lambda = 1 / \sigma^2` keep the components from collapsing. They enter
    the model as a `pyro.factor`,

    .. math:: h \sum_k [(a_k - 1) \log\lambda_k - b_k \lambda_k + a_k \log b_k - \log\Gamma(a_k)]

    Such a term stands beside the likelihood, so a `kl_weight` does not scale it; `hyper_weight` h does.

    Fits, both from a pretrained network, whose range of values sets the initial means:

    - `AutoMeanField`. A normal posterior's KL to a mixture has no closed form. With kl="bound" its variational upper
      bound stands for it (`normal_mixture_kl_bound`): free of noise, and the evidence bound stays one. It is tight
      where weights settle (posteriors no wider than their component: less than 0.01 nats at zero) and overstates the
      cost of posteriors that are wider than components or lie between them, by nats each. With kl="draw" the
      estimate from one draw is right in the mean, with noise. For the 266k weights of LeNet-300-100, 17 components
      and one core, the bound took 58 ms a step and the draw 167 ms; quadrature with five nodes would take five draws.
    - Pyro's `AutoDelta(model, init_loc_fn=init_to_network)`: point weights, as in Ullrich et al.

    The components belong to this module: a `BayesianModule` has them in its `state_dict` (also within `ByName` or a
    `rest`), and checkpoints of a fit hold them.

    Args:
        components: K, besides the one at zero. Default 16, as in Ullrich et al.
        zero_share: pi_0. Default 0.999, theirs for LeNet-300-100 (as recalled); .99 prunes less.
        precision_prior: (a, b), concentration and rate of the precisions; `None`: no hyper-prior. Default (250, 0.1),
            as recalled from their code: a mean of 2,500, a deviation of 0.02.
        zero_precision_prior: that of the component at zero. Default (5000, 2), as recalled: the same mean, held
            tighter.
        kl: "bound" or "draw", what stands for the KL of `AutoMeanField`'s posterior. Default "bound".
        hyper_weight: h. Default 1; a fit with kl_weight=t has Ullrich's objective (their tau) with hyper_weight=t.

    Raises:
        InputError: numbers that do not fit; at `bind`, other weights than those that it was bound to first.

    >>> import pyro_bdl as bdl
    >>> prior = SoftWeightSharing(components=4, zero_share=0.9)
    >>> bnn = bdl.BayesianModule(nn.Linear(20, 10), prior)
    >>> bnn(torch.ones(2, 20)).shape
    torch.Size([2, 10])
    >>> prior.components.shares.shape, sorted(bnn.state_dict())[-2:]
    (torch.Size([5]), ['prior.zero_log_share', 'prior.zero_log_variance'])
    """

    zero_log_share: Tensor

    def __init__(
        self,
        *,
        components: int = 16,
        zero_share: float = 0.999,
        precision_prior: tuple[float, float] | None = (250.0, 0.1),
        zero_precision_prior: tuple[float, float] | None = (5000.0, 2.0),
        kl: Literal["bound", "draw"] = "bound",
        hyper_weight: float = 1.0,
    ) -> None:
        if not isinstance(components, int) or isinstance(components, bool) or components < 1:
            raise InputError("components", expected="a positive integer", got=repr(components))
        if not (isinstance(zero_share, (int, float)) and 0.0 < zero_share < 1.0):
            raise InputError("zero_share", expected="a share in (0, 1)", got=repr(zero_share))
        if kl not in ("bound", "draw"):
            raise InputError("kl", expected='"bound" or "draw"', got=repr(kl))
        super().__init__()
        self.kl: Literal["bound", "draw"] = kl
        self.precision_prior = _gamma("precision_prior", precision_prior)
        self.zero_precision_prior = _gamma("zero_precision_prior", zero_precision_prior)
        self.hyper_weight = positive("hyper_weight", hyper_weight)
        self.means = nn.Parameter(torch.linspace(-1.0, 1.0, components))
        self.log_variances = nn.Parameter(torch.zeros(components))
        self.logits = nn.Parameter(torch.zeros(components))
        self.zero_log_variance = nn.Parameter(torch.zeros(1))
        self.register_buffer("zero_log_share", torch.tensor([math.log(zero_share)]))
        self._names: tuple[str, ...] = ()
        self._has_values = False

    def bind(self, weights: Sequence[Weight]) -> WeightProgram:
        """The program that samples each weight under its own name; the first call places the components."""
        if not weights:
            return dict
        names = tuple(w.name for w in weights)
        if self._names and self._names != names:
            raise InputError(
                "the weights of SoftWeightSharing", expected=f"{list(self._names)}, to which it is bound",
                got=f"{list(names)}", remedy="Make one for each mixture, and one pattern of ByName for its weights",
            )  # fmt: skip
        self.to(weights[0].value)
        if not self._has_values:
            self._place(torch.cat([w.value.reshape(-1) for w in weights]))
        self._names = names
        sites = [(w.name, tuple(w.value.shape), w.start) for w in weights]
        place = f"{names[0]}.mixture"

        def program() -> dict[str, Tensor]:
            for name in (*LEARNED, *ZERO_LEARNED):
                own_parameter(f"{place}.{name}", getattr(self, name))
            if (self.precision_prior or self.zero_precision_prior) and am_i_wrapped():  # else nobody would hear of it
                pyro.factor(f"{place}.precision_prior", self.log_hyper_prior())
            law = self.distribution()
            return {
                name: pyro.sample(name, law.expand(shape).to_event(len(shape)), infer=start)
                for name, shape, start in sites
            }

        return program

    @property
    def names(self) -> tuple[str, ...]:
        """The sites of the weights that it is bound to."""
        return self._names

    def distribution(self) -> NormalMixture:
        """The mixture as it is now, with gradients to its parameters."""
        rest = torch.log1p(-self.zero_log_share.exp()) + self.logits.log_softmax(0)
        means = torch.cat([torch.zeros_like(self.zero_log_variance), self.means])
        log_variances = torch.cat([self.zero_log_variance, self.log_variances])
        shares = torch.cat([self.zero_log_share, rest])
        return NormalMixture(shares, means, log_variances, kl=self.kl, validate_args=False)

    def log_hyper_prior(self) -> Tensor:
        """h times the log density of the precisions under their hyper-priors."""
        total = self.means.new_zeros(())
        for prior, log_variances in (
            (self.zero_precision_prior, self.zero_log_variance), (self.precision_prior, self.log_variances),
        ):  # fmt: skip
            if prior is not None:
                a, b = prior
                constant = a * math.log(b) - math.lgamma(a)
                total = total + (constant - (a - 1.0) * log_variances - b * (-log_variances).exp()).sum()
        return self.hyper_weight * total

    @property
    def components(self) -> Components:
        """Shares, means and deviations, the component at zero first; detached."""
        with torch.no_grad():
            p = self.distribution()
            return Components(p.log_shares.exp(), p.means.clone(), (0.5 * p.log_variances).exp())

    def assign(self, weight: Tensor, *, trade: float = 1.0) -> Tensor:
        """The most probable component of each weight (0: the one at zero), in the weight's shape.

        A component's share counts to the power of `trade`: more than 1 draws weights to the frequent components.
        """
        with torch.no_grad():
            p = self.distribution()
            favour = ((trade - 1.0) * p.log_shares).view(-1, *(1,) * weight.dim())
            return (p.joint_log_prob(weight) + favour).argmax(0)

    def quantize(self, weight: Tensor) -> Tensor:
        """Each weight replaced by the mean of its component: K + 1 different values at most, zero among them."""
        return self.components.means[self.assign(weight)]

    def merge(self, *, threshold: float = 0.1) -> int:
        r"""Join components that hardly differ, the closest first; tells how many went.

        Two components are one where their symmetric divergence :math:`KL(p \| q) + KL(q \| p)` is below the threshold
        (Ullrich, Meeds & Welling 2017, section 4.1). The joined one has the sum of their shares and the mean and
        variance of their mixture; one that is joined with the component at zero leaves its mean at zero. An optimizer
        of the old parameters must be made anew.

        Args:
            threshold: in nats. Default 0.1: means within a third of a deviation of each other.

        Raises:
            InputError: a threshold that is not a positive number.
        """
        threshold = positive("threshold", threshold)
        shares, means, scales = (part.double() for part in self.components)
        variances = scales.square()
        gone = 0
        while len(means) > 2:  # the component at zero and one more stay
            apart = _divergences(means, variances)
            i, j = divmod(int(apart.argmin()), len(means))
            if not apart[i, j] < threshold:
                break
            i, j = min(i, j), max(i, j)
            share = shares[i] + shares[j]
            mean = means[i].new_zeros(()) if i == 0 else (shares[i] * means[i] + shares[j] * means[j]) / share
            spread = shares[i] * (variances[i] + (means[i] - mean) ** 2)
            spread = spread + shares[j] * (variances[j] + (means[j] - mean) ** 2)
            shares[i], means[i], variances[i] = share, mean, spread / share
            keep = torch.arange(len(means), device=means.device) != j
            shares, means, variances = shares[keep], means[keep], variances[keep]
            gone += 1
        if gone:
            like, tiny = self.means, torch.finfo(torch.float32).tiny
            self.means = nn.Parameter(means[1:].to(like))
            self.log_variances = nn.Parameter(variances[1:].log().to(like))
            self.logits = nn.Parameter(shares[1:].clamp_min(tiny).log().to(like))
            self.zero_log_variance = nn.Parameter(variances[:1].log().to(like))
            self.zero_log_share = shares[:1].log().to(like)
        return gone

    @torch.no_grad()
    def _place(self, values: Tensor) -> None:
        """Means evenly over the range of the weights, deviations of one step between them."""
        if not bool(torch.isfinite(values).all()):
            raise InputError("the network's weights", expected="finite numbers", got="NaN or infinity")
        low, high = float(values.min()), float(values.max())
        if high - low <= 1e-6 * max(1.0, abs(low)):  # next to constant: nothing to spread over
            low, high = low - 1.0, high + 1.0
        k = len(self.means)
        self.means.copy_(torch.linspace(low, high, k) if k > 1 else torch.tensor([0.5 * (low + high)]))
        step = 2.0 * math.log((high - low) / k)
        self.log_variances.fill_(step)
        self.zero_log_variance.fill_(step)
        self._has_values = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        values = {name: state_dict.get(prefix + name) for name in (*LEARNED, *ZERO_LEARNED, "zero_log_share")}
        size = max((len(v) for v in values.values() if isinstance(v, Tensor) and v.dim() == 1), default=0)
        for name, value in values.items():
            expected = (size,) if name in LEARNED else (1,)
            if not isinstance(value, Tensor) or tuple(value.shape) != expected:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise InputError("the state", expected=f"{name} of shape {expected}", got=got)
            if not bool(torch.isfinite(value).all()):
                raise InputError("the state", expected="finite numbers", got="NaN or infinity")
        if size != len(self.means):  # saved after components were merged
            for name in LEARNED:
                setattr(self, name, nn.Parameter(self.means.new_zeros(size)))
        self._has_values = True
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __repr__(self) -> str:
        return f"SoftWeightSharing(components={len(self.means)}, zero_share={float(self.zero_log_share.exp()):.6g})"


def _divergences(means: Tensor, variances: Tensor) -> Tensor:
    """KL(p, q) + KL(q, p) of each pair of normals; infinite on the diagonal."""
    ratio = variances[:, None] / variances
    distance = (means[:, None] - means).square() * (variances.reciprocal()[:, None] + variances.reciprocal())
    apart = 0.5 * (ratio + ratio.t() - 2.0 + distance)
    return apart.fill_diagonal_(math.inf)


def _gamma(what: str, prior: tuple[float, float] | None) -> tuple[float, float] | None:
    if prior is None:
        return None
    if not (isinstance(prior, Sequence) and len(prior) == 2):
        raise InputError(what, expected="(concentration, rate) or None", got=repr(prior))
    return positive(f"the concentration of {what}", prior[0]), positive(f"the rate of {what}", prior[1])
