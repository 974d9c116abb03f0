"""The handler around a guide that answers its Gaussian sites with deferred draws."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK, Message
from torch import Tensor

from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.estimators.deferred import DeferredDraw, deferred_in, drawn
from pyro_bdl.estimators.operations import OPERATIONS, Convolution, Linear, Unfit
from pyro_bdl.estimators.passes import Root, dry_run, is_dry_run

Fallback = Literal["draw", "warn", "raise"]


@dataclass(frozen=True)
class Use:
    """One row of the coverage report: which site was used by which function, and how it was drawn."""

    site: str
    operation: str
    how: Literal["local", "drawn"]
    reason: str = ""

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.site}: {self.how} by {self.operation}{reason}"


class Estimator(ABC):
    """A guide whose global Gaussian and log-normal sites are drawn where they are used.

    Final subclasses say how: `LocalReparameterization` and `Flipout`. It is called like the guide itself and can stand
    wherever Pyro takes a guide.
    """

    def __init__(
        self,
        guide: Callable[..., Any],
        *,
        model: Callable[..., Any] | None = None,
        fallback: Fallback = "draw",
        shared: Iterable[str] = (),
    ) -> None:
        if fallback not in ("draw", "warn", "raise"):
            raise InputError("fallback", expected='"draw", "warn" or "raise"', got=repr(fallback))
        if not callable(guide) or isinstance(guide, Estimator):
            raise InputError("guide", expected="a Pyro guide", got=type(guide).__name__)
        self.guide, self.fallback = guide, fallback
        self.model = model if model is not None else _model_of(guide)
        self.shared = set(shared)
        self.examined = False
        self._messenger = _Defer(self)
        self._uses: dict[tuple[str, Any, str], Use] = {}

    @abstractmethod
    def linear(self, operation: Linear) -> Tensor | Unfit:
        """Draw the output of a linear map."""

    @abstractmethod
    def convolution(self, operation: Convolution) -> Tensor | Unfit:
        """Draw the output of a convolution."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the guide with deferred draws; at the first call a dry run of the model finds weights used twice."""
        if not self.examined and self.model is not None and not _within_plate():
            self.examine(self.model, args, kwargs)
        with self._messenger:
            return self.guide(*args, **kwargs)

    def coverage(self) -> list[Use]:
        """Which weight was drawn locally by which operation, and which fell back to an ordinary draw and why."""
        return sorted(self._uses.values(), key=lambda use: (use.site, use.operation))

    def examine(self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run guide and model once without gradients, random state restored, to find the weights used twice."""
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), poutine.block(), dry_run():
            guide_trace = poutine.trace(self._run).get_trace(*args, **kwargs)
            poutine.replay(model, trace=guide_trace)(*args, **kwargs)
        roots = {root for node in guide_trace.nodes.values() for root in getattr(node.get("value"), "roots", ())}
        self.shared |= {root.name for root in roots if root.uses > 1}
        self.examined = True

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        with self._messenger:
            return self.guide(*args, **kwargs)

    def defer(
        self, name: str, loc: Tensor, variance: Tensor, *, log_normal: bool = False, accumulate: bool = False
    ) -> DeferredDraw:
        """A deferred draw of the site `name`."""

        def draw() -> Tensor:
            normal = torch.addcmul(loc, variance.sqrt(), torch.randn_like(loc))
            return normal.exp() if log_normal else normal

        root = Root(name, self, draw)
        return DeferredDraw(loc, variance, (root,), root.value, log_normal=log_normal, accumulate=accumulate)

    def apply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a function of deferred draws: its output drawn, or the function of ordinary draws."""
        every = [root for draw in deferred_in(args, kwargs) for root in draw.roots]
        roots = dict.fromkeys(every)  # a set that keeps its order
        operation = OPERATIONS.get(func)
        tied = [root.name for root in roots if root.name in self.shared or every.count(root) > 1]
        if operation is None:
            result: Any = Unfit("there is no rule for this function")
        elif tied:
            result = Unfit(f"{', '.join(tied)} is used more than once in a pass")
        else:
            said = operation(*args, **kwargs)
            if isinstance(said, Linear):
                result = self.linear(said)
            else:
                result = self.convolution(said) if isinstance(said, Convolution) else said
            if isinstance(result, Tensor) and not isinstance(said, Unfit) and said.finish is not None:
                result = said.finish(result)
        if isinstance(result, Unfit):
            self._note(roots, func, "drawn", result.reason)
            return func(*drawn(args), **drawn(kwargs))
        self._note(roots, func, "local", "")
        return result

    def _note(self, roots: Iterable[Root], func: Any, how: Literal["local", "drawn"], reason: str) -> None:
        for root in roots:
            root.uses += 1
            if is_dry_run():
                continue  # it only counts
            if root.how and "local" in (root.how, how):
                self._check_second_use(root, how)
            root.how = how
            key = (root.name, func, reason)
            if key not in self._uses:
                use = Use(root.name, getattr(func, "__name__", str(func)), how, reason)
                if how == "drawn" and self.fallback != "draw":
                    self._complain(use)
                self._uses[key] = use

    def _check_second_use(self, root: Root, how: Literal["local", "drawn"]) -> None:
        """Refuse a second use that no dry run foresaw, where it is not plainly something else.

        After a dry run, a local use and an ordinary one are those of the network and of an ELBO that takes the log
        density of the draw; two local uses are two passes, unless the model would have told a new pass.
        """
        if self.examined and not (root.announced and root.how == how):
            return
        raise UnsupportedModelError(
            f"the weight {root.name}",
            expected="one use in a pass through the model, since each use is drawn on its own",
            got="a second use, which depends on the first",
            remedy=f'Say shared=["{root.name}"], or model= so that a dry run finds such weights',
        )

    def _complain(self, use: Use) -> None:
        if self.fallback == "raise":
            raise UnsupportedModelError(
                f"the estimator of {use.site}",
                expected="an operation with a rule",
                got=f"{use.operation}: {use.reason}",
                remedy='Say fallback="draw" to allow one ordinary draw for the whole batch',
            )
        message = f"{use.site} got one ordinary draw for the whole batch, in {use.operation}: {use.reason}"
        warnings.warn(message, stacklevel=6)


class _Defer(Messenger):
    """Answers the guide's global Gaussian and log-normal sites with deferred draws."""

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator

    def _pyro_sample(self, msg: Message) -> None:
        # Within a plate a draw belongs to a data point or a particle, not to the network.
        if msg["done"] or msg["is_observed"] or msg["value"] is not None or msg["cond_indep_stack"] or _within_plate():
            return
        fn = msg["fn"]
        while isinstance(fn, dist.Independent):
            fn = fn.base_dist
        name = str(msg["name"])
        if isinstance(fn, dist.Normal):
            msg["value"] = self.estimator.defer(name, fn.loc, fn.variance)
        elif type(fn) is dist.LogNormal:
            msg["value"] = self.estimator.defer(name, fn.loc, fn.scale.square(), log_normal=True)
        elif type(fn) is dist.Delta and isinstance(fn.v, DeferredDraw):
            msg["value"] = fn.v  # how Pyro's AutoNormal hands on its auxiliary draw
        else:
            return
        msg["done"] = True


def _within_plate() -> bool:
    """Whether a plate is active, such as that of vectorised particles, which messages reach after this handler."""
    return any(isinstance(handler, IndepMessenger) for handler in _PYRO_STACK)


def _model_of(guide: Callable[..., Any]) -> Callable[..., Any] | None:
    """The model of an autoguide, without the handler of its initial values, which would sample y at a missing y."""
    if not isinstance(guide, AutoGuide):
        return None
    model: Any = guide.model
    while isinstance(bound := getattr(model, "func", None), partial) and isinstance(bound.args[0], InitMessenger):
        model = bound.args[1]
    return model
