"""Run a Pyro program under one posterior draw, and note down what it says about its sites.

The handler here is the one place where a draw meets a program. It differs from `pyro.poutine.condition` in three
things that matter for diagnostics: a latent site without a value is an error and never a silent draw from the prior;
latent sites stay latent, so that only the data's own log-probabilities are found afterwards; and data plates are told
which rows of the data the program is looking at.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from pyro.distributions import Unit
from pyro.poutine import block
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_bdl.errors import InputError

Program = Callable[..., Any]
Draw = Mapping[str, Tensor]


class Substitution(Messenger):
    """Answers each latent site of a program with the value that a draw has for it.

    Args:
        draw: values of the latent sites, by name; each has the shape that the site itself would draw.
        may_draw: names of latent sites that may be drawn afresh (new observations in a posterior predictive run);
            None for any site.
        rows: which rows of the data the program is looking at; None: all of them. A plate that subsamples as many is
            told these, and a latent variable per data point is answered with its values for these.

    Attributes:
        sites: after a run, the messages of the observed and deterministic sites, by name.
        plates: after a run, the plates around each site, by the site's name.
    """

    def __init__(
        self,
        draw: Draw,
        *,
        may_draw: frozenset[str] | None = frozenset(),
        rows: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.draw, self.may_draw, self.rows = draw, may_draw, rows
        self.sites: dict[str, Any] = {}
        self.plates: dict[str, tuple[Any, ...]] = {}
        self._picked: dict[str, Tensor] = {}  # the rows that each plate looks at

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self._answer_plate(msg)
        elif not msg["is_observed"] and msg["value"] is None:
            self._answer_latent(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self._picked[msg["name"]] = msg["value"]
            return
        self.plates[msg["name"]] = msg["cond_indep_stack"]
        if msg["is_observed"]:
            self.sites[msg["name"]] = msg

    def _answer_plate(self, msg: Any) -> None:
        size, drawn = msg["fn"].size, msg["fn"].subsample_size
        if self.rows is not None and msg["value"] is None and drawn == len(self.rows) and drawn < size:
            msg["value"] = self.rows.to(msg["fn"].device)
            msg["done"] = True

    def _answer_latent(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.draw:
            if self.may_draw is None or name in self.may_draw:
                return
            raise InputError(
                f"the draws of site {name!r}",
                expected="a value for each latent site of the program",
                got=f"draws of {_listed(self.draw)} only",
                remedy=f"If {name!r} is data, hand its values to the model; it is never drawn from the prior here",
            )
        value, shape = self.draw[name], msg["fn"].shape()
        value = self._rows_of(value, msg)
        if value.shape != shape:
            raise InputError(
                f"the draws of site {name!r}",
                expected=f"shape {tuple(shape)} a draw",
                got=f"shape {tuple(value.shape)}",
            )
        msg["value"], msg["done"] = value, True

    def _rows_of(self, value: Tensor, msg: Any) -> Tensor:
        """Of a latent variable per data point, those of the rows at hand."""
        for frame in msg["cond_indep_stack"]:
            if frame.dim is None:
                continue
            dim = frame.dim - msg["fn"].event_dim
            rows = self._picked.get(frame.name) if frame.size < frame.full_size else self.rows
            if rows is not None and len(rows) == frame.size and value.dim() >= -dim and value.shape[dim] > frame.size:
                value = value.index_select(dim, rows.to(value.device))
        return value


class Run(NamedTuple):
    """What a program returned, and what `Substitution` noted down."""

    value: Any
    sites: dict[str, Any]
    plates: dict[str, tuple[Any, ...]]


def run_program(
    program: Program,
    draw: Draw,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    may_draw: frozenset[str] | None = frozenset(),
    rows: Tensor | None = None,
) -> Run:
    """Run `program(*args, **kwargs)` under `draw`, without gradients and shielded from handlers around the call."""
    substitution = Substitution(draw, may_draw=may_draw, rows=rows)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(block())
        stack.enter_context(substitution)
        result = program(*args, **(kwargs or {}))
    return Run(result, substitution.sites, substitution.plates)


def is_latent(site: Any) -> bool:
    """Whether a site of a guide's trace is a draw of a latent variable of the model."""
    return bool(
        site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
        and not site["infer"].get("is_auxiliary", False)
    )


def is_deterministic(site: Any) -> bool:
    """Whether the site was written by `pyro.deterministic`."""
    return bool(site["infer"].get("_deterministic", False))


def is_factor(site: Any) -> bool:
    """Whether the site was written by `pyro.factor`: a term of the density without an observed value."""
    return isinstance(site["fn"], Unit)


def log_prob(site: Any) -> Tensor:
    """The log-probability of each batch element of an observed site, unscaled; zero where the site is masked."""
    value: Tensor = site["fn"].log_prob(site["value"])
    mask = site["mask"]
    if mask is None or mask is True:
        return value
    if mask is False:
        return torch.zeros_like(value)
    return torch.where(mask, value, value.new_zeros(()))


def _listed(names: Mapping[str, Any], limit: int = 6) -> str:
    shown = [repr(name) for name in list(names)[:limit]]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "") if shown else "no site"
