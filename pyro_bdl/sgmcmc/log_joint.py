"""The log joint density of a Pyro program and its gradient, on flat unconstrained parameters.

With u the unconstrained parameters and theta = t(u), the density sampled is

    log p(u, data) = sum_sites log p(theta_site) + log |det dt/du| + sum_observed (N/B) log p(y | theta),

where N/B and masks are what the program's plates and handlers say. A minibatch gives an unbiased estimate of its
gradient, as each plate's scale is its size over its subsample's.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_bdl.data_plate import SubsampleIndices
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.log_density import log_density
from pyro_bdl.minibatches import Batch
from pyro_bdl.sgmcmc.flat import GaussianPriors, Layout, Number, number
from pyro_bdl.sgmcmc.sites import LatentSite
from pyro_bdl.sgmcmc.tracing import Traced, trace


def random_subset(size: int, subset_size: int, *, device: torch.device | str | None = None) -> Tensor:
    """Different random numbers below `size`, each subset and order alike probable, without a permutation of all.

    Draws with replacement until all differ, which is exact and quick while subset_size^2 is below size; else it takes
    the first of a permutation.

    >>> sorted(random_subset(3, 3).tolist())
    [0, 1, 2]
    """
    if subset_size * subset_size > size:
        return torch.randperm(size, device=device)[:subset_size]
    while True:
        indices = torch.randint(size, (subset_size,), device=device)
        if len(torch.unique(indices)) == subset_size:
            return indices


class LogJointGradient:
    """Gradient of the log joint density of a program, as a function of its flat unconstrained parameters.

    Sites with an independent normal prior are differentiated in closed form, all others by autograd; latent sites are
    not drawn, and only the densities that are needed are computed. Parameters of shape (chains, parameters) go through
    the program at once, by `torch.vmap`.

    Args:
        model: the Pyro program.
        sites: its latent sites, in the order of the flat parameters.
        example: unconstrained values by site, for their shapes and dtype.
        args: positional arguments of the program, after the tensors of a batch.
        kwargs: its keyword arguments.
        plate: what tells the data plate which points a batch holds; `None`: the program chooses its own batch.
        jit_compile: trace the program once for each shape of batch, and then run the trace.

    Attributes:
        sites: see above.
        layout: where each site lies in the flat parameters.
        gradient: the gradient at the last evaluation, of the shape of the parameters.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        sites: Mapping[str, LatentSite],
        example: Mapping[str, Tensor],
        *,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        plate: SubsampleIndices | None = None,
        jit_compile: bool = False,
    ) -> None:
        self.layout = Layout(example)
        self.gradient = torch.zeros_like(self.layout.flatten(example))
        self.jit_compile = jit_compile
        self.sites = dict(sites)
        self._model, self._args, self._kwargs, self._plate = model, args, dict(kwargs or {}), plate
        self._transformed = [site for site in sites.values() if site.transform is not None]
        self._priors = GaussianPriors(self.layout)
        self._messenger = _LogJoint(self._priors)
        self._traces: dict[tuple[torch.Size, ...], Traced] = {}

    def evaluate(self, position: Tensor, values: Mapping[str, Tensor], batch: Batch | None, *, check: bool) -> Number:
        """Put the gradient at `position` into `gradient`, and return the log joint density.

        Args:
            position: the flat parameters, (parameters,) or (chains, parameters).
            values: its views by site, `layout.views(position)`.
            batch: the data, whose tensors come before `args`; `None`: the program has its own. With many chains all
                have the same batch, or each its own, in tensors and indices with a first dimension for the chains.
            check: also check what a working program does not get wrong from one batch to the next: values outside their
                support, shapes that broadcast against each other, sites that do not reach the gradient. One chain only.

        Returns:
            A number, or shape (chains,).

        Raises:
            InputError: observed values or a plate that do not fit.
            UnsupportedModelError: a site that was not there before, or a density without a gradient.
        """
        traced = self.jit_compile and not check
        self._priors.settled = traced or position.dim() > 1
        if traced:
            total, self.gradient = self._by_trace(values, batch)
        else:
            room = self.gradient if self.gradient.shape == position.shape else None
            total, self.gradient = self._differentiate(values, batch, check=check, out=room)
        return number(total) + self._priors.add_gradient(position, self.gradient)

    def _differentiate(
        self, values: Mapping[str, Tensor], batch: Batch | None, *, check: bool = False, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is left to autograd, () or (chains,), and its gradient."""
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        name, leaf = next(iter(leaves.items()))
        if leaf.dim() == len(self.layout.shapes[name]):
            total = self._sum(leaves, batch, check=check)
        else:
            total = self._sums(leaves, batch)
        inputs, shape = list(leaves.values()), (*total.shape, -1)
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if total.requires_grad:
            found = torch.autograd.grad(total.sum(), inputs, allow_unused=True)
        parts = [torch.zeros_like(v) if g is None else g for g, v in zip(found, inputs, strict=True)]
        return total.detach(), torch.cat([part.reshape(shape) for part in parts], dim=-1, out=out)

    def _by_trace(self, values: Mapping[str, Tensor], batch: Batch | None) -> tuple[Tensor, Tensor]:
        """As `_differentiate`, which is traced at the first batch of its shape."""
        tensors = () if batch is None else batch.args if batch.indices is None else (*batch.args, batch.indices)
        inputs = (*values.values(), *tensors)
        key = tuple(t.shape for t in inputs)
        if key not in self._traces:

            def function(*inputs: Tensor) -> tuple[Tensor, Tensor]:
                values = dict(zip(self.layout.shapes, inputs, strict=False))
                rest = inputs[len(values) :]
                if batch is None:
                    return self._differentiate(values, None)
                known = batch.indices is not None
                return self._differentiate(values, Batch(rest[:-1], rest[-1]) if known else Batch(rest))

            self._traces[key] = trace(function, inputs, varied=len(values))
        total, gradient = self._traces[key](*inputs)
        return total, gradient

    def _sum(self, values: Mapping[str, Tensor], batch: Batch | None, *, check: bool = False) -> Tensor:
        terms = self.terms(values, batch, check=check)
        return functools.reduce(torch.add, terms.values()) if terms else next(iter(values.values())).new_zeros(())

    def _sums(self, values: Mapping[str, Tensor], batch: Batch | None) -> Tensor:
        """`_sum` of each of many chains."""
        if batch is None:
            return torch.vmap(lambda values: self._sum(values, None))(values)
        own = 0 if batch.indices is not None and batch.indices.dim() > 1 else None
        run = torch.vmap(lambda values, *parts: self._sum(values, Batch(*parts)), in_dims=(0, own, own))
        return run(values, batch.args, batch.indices)

    def terms(self, unconstrained: Mapping[str, Tensor], batch: Batch | None, *, check: bool) -> dict[str, Tensor]:
        """The terms of one chain's log joint density that are left to autograd, by site, each summed and scaled."""
        messenger, plate = self._messenger, self._plate
        with torch.enable_grad():
            terms = messenger.begin(unconstrained, check=check)
            for site in self._transformed:
                u = unconstrained[site.name]
                assert site.transform is not None
                messenger.values[site.name] = value = site.transform(u)
                terms[f"the Jacobian of {site.name}"] = site.transform.log_abs_det_jacobian(u, value).sum()
            if batch is None or plate is None:
                with messenger:
                    self._model(*self._args, **self._kwargs)
            else:
                plate.set(batch)
                with messenger, plate:
                    self._model(*batch.args, *self._args, **self._kwargs)
        if check:
            messenger.require_gradient()
            if batch is not None and plate is not None:
                plate.require_plate()
        return terms

    def log_densities(self, values: Mapping[str, Tensor], batch: Batch | None) -> dict[str, Tensor]:
        """The log density of each site at one chain's values, with all checks: to find out where a number is wrong."""
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        return {**self._priors.log_densities(values), **self.terms(leaves, batch, check=True)}


class _LogJoint(Messenger):
    """Answers latent sites with values and collects the log densities that autograd differentiates."""

    def __init__(self, priors: GaussianPriors) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}
        self._priors = priors
        self._terms: dict[str, Tensor] = {}
        self._observed: list[str] = []
        self._met: set[str] = set()
        self._check = False

    def begin(self, values: Mapping[str, Tensor], *, check: bool) -> dict[str, Tensor]:
        """Forget the last run; the returned dictionary is filled by the next, with these values of latent sites."""
        self.values, self._check, self._terms = dict(values), check, {}
        self._observed.clear()
        self._met.clear()
        return self._terms

    def require_gradient(self) -> None:
        """Refuse a program that lacks a site, or whose data no differentiable path joins to its latent sites."""
        missing = sorted(set(self.values) - self._met)
        if missing:
            raise UnsupportedModelError(
                "the model",
                expected=f"the same latent sites in each run, {sorted(self.values)}",
                got=f"none of {missing}",
            )
        if self._observed and not any(self._terms[name].requires_grad for name in self._observed):
            raise UnsupportedModelError(
                "the model",
                expected="observed sites whose density can be differentiated by the latent ones",
                got=f"no gradient at {self._observed}",
                remedy="Look for no_grad, detach, rounding, NumPy or integer steps between the two",
            )

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            self._answer(msg)

    def _postprocess_message(self, msg: Message) -> None:
        pass

    def _answer(self, msg: Message) -> None:
        name, fn = msg["name"], cast(Any, msg["fn"])
        assert name is not None
        if msg["is_observed"]:
            if (msg["infer"] or {}).get("_deterministic"):
                return
            if self._check:
                self._meet(name)
                _check_observed(name, fn, msg["value"])
                self._observed.append(name)
        else:
            value = self.values.get(name)
            if value is None:
                if type(fn) is _Subsample:
                    self._subsample(msg)
                    return
                raise UnsupportedModelError(
                    f'the site "{name}"', expected="the same latent sites in each run of the model", got="a new one"
                )
            if self._check:
                self._meet(name)
                _check_support(name, fn)
            msg["value"], msg["done"] = value, True
            scale = msg["scale"]
            if msg["mask"] is None and type(scale) is float and scale == 1.0 and self._priors.accepts(name, fn):
                return
            self._priors.drop(name)
        self._terms[name] = log_density(fn, cast(Any, msg["value"]), scale=msg["scale"], mask=msg["mask"])

    def _meet(self, name: str) -> None:
        if name in self._met:
            raise UnsupportedModelError(f'the site "{name}"', expected="one site of that name", got="two")
        self._met.add(name)

    @staticmethod
    def _subsample(msg: Message) -> None:
        fn: Any = msg["fn"]
        if not msg["done"] and fn.subsample_size is not None and fn.subsample_size < fn.size:
            msg["value"], msg["done"] = random_subset(fn.size, fn.subsample_size, device=fn.device), True


def _check_observed(name: str, fn: Any, value: Any) -> None:
    if not isinstance(value, Tensor) or type(fn).__name__ == "Unit":  # Unit: pyro.factor
        return
    events = value.numel() // max(fn.event_shape.numel(), 1)
    try:
        batch_shape = torch.broadcast_shapes(value.shape, fn.shape())
        batch_shape = batch_shape[: len(batch_shape) - len(fn.event_shape)]
        fits = batch_shape.numel() <= max(events, fn.batch_shape.numel())
    except RuntimeError:
        fits = False
    if not fits:
        raise InputError(
            f'the observed values of "{name}"', expected=f"shape {tuple(fn.shape())}", got=f"shape {tuple(value.shape)}"
        )
    valid = fn.support.check(value)
    if not valid.all():
        if valid.shape == value.shape:
            got = str(value[~valid][0].item())
        else:
            got = "others"
        raise InputError(f'the observed values of "{name}"', expected=f"values in {fn.support}", got=got)


def _check_support(name: str, fn: Any) -> None:
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if any(isinstance(bound, Tensor) and bound.requires_grad for bound in vars(support).values()):
        raise UnsupportedModelError(
            f'the site "{name}"',
            expected="a support that is the same in each run",
            got=f"{support}, which depends on another site",
            remedy="Sample a variable with a fixed support and shift or scale it",
        )
