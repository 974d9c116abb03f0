"""The gradient of one step, and that for a flat mean-field guide."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import biject_to

from pyro_bdl.compression.random_code.kl_budget import KLBudget
from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.distributions import VarianceNormal
from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.estimators import Estimator, LocalReparameterization
from pyro_bdl.estimators.passes import begin_pass, dry_run
from pyro_bdl.guides.mean_field import AutoMeanField, Site, posterior
from pyro_bdl.inference.flat_posterior import FlatPosterior
from pyro_bdl.inference.numbers import refuse_non_finite
from pyro_bdl.inference.recording import Recording
from pyro_bdl.minibatches import Batch
from pyro_bdl.site_kl import closed_form_kl


class Loss(NamedTuple):
    """The negative bound of one step in nats, over the whole data, and its KL (nan where it is not apart)."""

    total: float
    kl: float


class Step(ABC):
    """Computes a batch's loss and leaves the gradients in the parameters."""

    parameters: Sequence[Tensor]

    @abstractmethod
    def __call__(self, batch: Batch, kl_weight: float) -> Loss:
        """The loss; NumericalError, with the parameters unchanged, if it or a gradient is not finite."""


class FlatStep(Step):
    """For `AutoMeanField`: everything of the weights' size is allocated once (see `flat_posterior`).

    Args:
        estimator: a local or flipout estimator around the guide, or `None` for ordinary draws.
        num_particles: draws per step. A local estimator takes them in one pass, on the batch repeated, if all
            observations stand in the data plate, whose scale N / (particles B) then is their average; else in as many
            passes.
        constant_kl: nats that are added to each KL: those of weights that were cut out.
        budget: multiplies the KL of each number that has a fixed normal prior, and by its mean all other KL.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: AutoMeanField,
        estimator: Estimator | None,
        plate: SubsampleIndices,
        first: Batch,
        *,
        num_particles: int = 1,
        constant_kl: float = 0.0,
        budget: KLBudget | None = None,
    ) -> None:
        self.model, self.estimator, self.plate, self.num_particles = model, estimator, plate, num_particles
        self.first, self.constant_kl = first, constant_kl
        plate.set(first)
        with plate, torch.no_grad(), dry_run():
            guide(*first.args)
            if estimator is not None and not estimator.examined:
                estimator.examine(model, first.args, {})
        self.posterior = FlatPosterior(guide)
        self.sites = {site.name: site for site in self.posterior.sites}
        self.supports = {name: guide.support(site) for name, site in self.sites.items()}
        self.recording = Recording(self._deferred if estimator is not None else self._drawn)
        self.values: dict[str, Tensor] = {}
        with dry_run():  # what the priors and the learned parameters are
            self._run(first)
        plate.require_plate()
        self.repeats = isinstance(estimator, LocalReparameterization) and num_particles > 1 and self._in_data_plate()
        before = dict(self.recording.priors)
        with dry_run():
            self._run(first)
        self.posterior.set_priors(self._fixed(before))
        self.budget = budget
        if budget is not None:
            budget.bind(self.posterior.kl_each())
        learned = dict.fromkeys(self.recording.parameters.values())
        self.learned = [p for p in learned if p.requires_grad]
        self.parameters = [guide.loc, guide.log_variance, *self.learned]
        if estimator is None:
            self._noise, self._draw = torch.empty_like(guide.loc), torch.empty_like(guide.loc)
            self._scale, self._grad_draw = torch.empty_like(guide.loc), torch.zeros_like(guide.loc)

    def __call__(self, batch: Batch, kl_weight: float) -> Loss:
        """One step's loss and gradients."""
        for parameter in self.learned:
            parameter.grad = None
        known: Tensor | None = None  # with a budget, the KL of each number that it multiplies
        if self.budget is None:
            self.posterior.begin(kl_weight)
        else:
            weights = self.budget.per_weight()
            self.posterior.begin(weights)
            kl_weight, known = float(weights.mean()), self.posterior.kl_each()
        passes = 1 if self.repeats else self.num_particles
        if self.repeats:
            batch = _repeat(batch, self.num_particles)
        negative_log_likelihood = 0.0
        kl = self.constant_kl + float(self.posterior.kl() if known is None else known.sum())
        for particle in range(passes):
            if self.estimator is None:
                self._draw_weights()
            self._run(batch)
            if self.posterior.has_changed(self.recording.priors):
                raise InputError("the model", expected="the priors that it had at the first step", got="others")
            loss = -self.recording.log_likelihood() / passes
            negative_log_likelihood += float(loss.detach())
            if particle == 0:
                other = self._other_kl()
                kl += float(other.detach()) if isinstance(other, Tensor) else 0.0
                loss = loss + kl_weight * other
            if not math.isfinite(negative_log_likelihood + kl):
                self._explain()
            loss.backward()
            if self.estimator is None:
                self._carry_over()
        self.posterior.finish()
        self._refuse_bad_gradients()
        total = negative_log_likelihood + kl_weight * kl
        if self.budget is not None and known is not None:
            total += float(self.budget.penalty(known) - kl_weight * known.sum())
            self.budget.update(known)
        return Loss(total, kl)

    @torch.no_grad()
    def kl(self) -> float:
        """The KL as it is now, in nats, without `constant_kl`; the model runs once, on the first batch."""
        with dry_run():
            self.posterior.begin(1.0)
            self._run(self.first)
            return float(self.posterior.kl()) + float(self._other_kl())

    def _run(self, batch: Batch) -> None:
        self.recording.clear()
        self.plate.set(batch)
        if self.estimator is None and not self.values:
            with torch.no_grad():
                self.values = {name: moments.loc for name, moments in self.posterior.leaves.items()}
        with self.recording, self.plate:
            self.model(*batch.args)

    def _in_data_plate(self) -> bool:
        """Whether each observed site's scale comes from a plate that was told the batch."""
        return all(
            any(frame.name in self.plate.answered for frame in msg["cond_indep_stack"])
            for msg in self.recording.observed
        )

    def _fixed(self, before: dict[str, Any]) -> dict[str, Any]:
        """The priors that are the very same object in two passes, and count once."""
        return {
            name: prior
            for name, prior in self.recording.priors.items()
            if before.get(name) is prior and self.recording.scales[name] == (1.0, None)
        }

    def _site(self, name: str) -> Site:
        if name not in self.sites:
            raise InputError(
                "the guide", expected=f"a site {name!r}, latent in the model", got="none of that name",
                remedy="The model has other sites than when the guide was first called",
            )  # fmt: skip
        return self.sites[name]

    def _deferred(self, name: str) -> Tensor:
        """A deferred draw of a normal or log-normal site; an ordinary one of another support or within a plate."""
        site, moments = self._site(name), self.posterior.leaves[name]
        assert self.estimator is not None
        if site.family == "transformed" or site.in_plate:
            return posterior(site, moments, self.supports[name]).rsample()
        flat_linear = site.family == "normal" and len(site.shape) == 2
        draw = self.estimator.defer(
            name, *moments, log_normal=site.family == "log_normal",
            accumulate=flat_linear and isinstance(self.estimator, LocalReparameterization),
        )  # fmt: skip
        return begin_pass(draw)

    def _drawn(self, name: str) -> Tensor:
        site, value = self._site(name), self.values[name]
        if site.family == "normal":
            return value
        return value.exp() if site.family == "log_normal" else biject_to(self.supports[name])(value)

    @torch.no_grad()
    def _draw_weights(self) -> None:
        """theta = mu + sigma noise, in buffers; the leaves' gradients go to a buffer of their own."""
        flat = self.posterior
        torch.sqrt(flat.variance, out=self._scale)
        self._noise.normal_()
        torch.addcmul(flat.loc, self._scale, self._noise, out=self._draw)
        self._grad_draw.zero_()
        gradients = {site.name: part for site, part in flat.views(self._grad_draw)}
        self.values = {}
        for site, part in flat.views(self._draw):
            leaf = part.detach().requires_grad_()
            leaf.grad = gradients[site.name]
            self.values[site.name] = leaf

    @torch.no_grad()
    def _carry_over(self) -> None:
        """From the draw to its moments: d/d mu = g, d/d sigma^2 = g noise / (2 sigma)."""
        flat = self.posterior
        flat.grad_loc.add_(self._grad_draw)
        flat.grad_variance.add_(self._grad_draw.mul_(self._noise).div_(self._scale), alpha=0.5)

    def _other_kl(self) -> Any:
        """The KL of the sites whose prior is no fixed normal, through autograd."""
        total: Any = 0.0
        known = self.posterior.known
        for name, prior in self.recording.priors.items():
            if name not in known:
                total = total + self._one_kl(name, prior)
        return total

    def _one_kl(self, name: str, prior: Any) -> Tensor:
        site, moments = self.sites[name], self.posterior.leaves[name]
        scale, mask = self.recording.scales[name]
        q = posterior(site, moments, self.supports[name], prior.event_dim)
        kl = closed_form_kl(q, prior)
        if kl is None:
            draw = q.rsample()
            kl = q.log_prob(draw) - prior.log_prob(draw)
        return scale_and_mask(kl, scale, mask).sum()

    def _explain(self) -> None:
        """Name the site whose term is not finite."""
        for msg in self.recording.observed:
            fn: Any = msg["fn"]
            refuse_non_finite(fn.log_prob(msg["value"]).sum(), "the log-likelihood", str(msg["name"]))
        for name, prior in self.recording.priors.items():
            q = VarianceNormal(*self.posterior.leaves[name])
            refuse_non_finite(q.loc.sum() + q.variance.sum(), "the posterior", name)
            refuse_non_finite(self._one_kl(name, prior), "the KL", name)
        raise NumericalError("the loss is not finite")

    def _refuse_bad_gradients(self) -> None:
        flat = self.posterior
        total = flat.grad_loc.sum() + flat.grad_variance.sum()
        if not bool(torch.isfinite(total)):
            for gradient in (flat.grad_loc, flat.grad_variance):
                for site, part in flat.views(gradient):
                    refuse_non_finite(part.abs().max(), "the gradient", site.name)
        for parameter in self.learned:
            if parameter.grad is not None:
                refuse_non_finite(parameter.grad.sum(), "the gradient", "a learned parameter")


def _repeat(batch: Batch, times: int) -> Batch:
    args = tuple(a.repeat(times, *(1,) * (a.dim() - 1)) for a in batch.args)
    return Batch(args, None if batch.indices is None else batch.indices.repeat(times))
