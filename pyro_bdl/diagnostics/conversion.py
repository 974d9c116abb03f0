"""From a Pyro model and its draws to the groups of an ArviZ data set, as plain NumPy arrays.

No ArviZ here: a group is a dictionary of arrays, named as in ArviZ's schema.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pyro_bdl.diagnostics.arrays import as_numpy
from pyro_bdl.diagnostics.batching import Batches, plan_batches
from pyro_bdl.diagnostics.evaluation import Draw, Program, run_program
from pyro_bdl.diagnostics.pointwise import Stack, evaluate, observed_values, private_randomness, require_number
from pyro_bdl.diagnostics.prediction import Piece, pieces_of, value_under
from pyro_bdl.errors import InputError

Groups = dict[str, dict[str, NDArray[Any]]]
Functions = Mapping[str, Callable[..., Any] | tuple[Any, ...]]


@dataclass
class Collector:
    """Fills the groups, going once through the draws, of which only what is asked for is kept.

    Args:
        draws: one dictionary of the latent sites' values a draw, chain after chain.
        stacked: the same as one tensor (chain, draw, *shape) a site, where they are in memory anyway.
        chains: how many chains.
        length: how many draws each has.
        model: the Pyro model; None where there is none, and then nothing is asked of it.
        args: the model's arguments with the whole data; None if they are not known.
        kwargs: the model's keyword arguments.
        all_latents: whether the draws must have all of the model's latent sites, even if only its data are asked for.
        batch_size: the most data points at once.
        data_plate: the plate over data points, where more than one could be it.
        progress: show a bar.
    """

    draws: Iterable[Draw]
    stacked: Mapping[str, Tensor] | None
    chains: int
    length: int
    model: Program | None
    args: tuple[Any, ...] | None
    kwargs: Mapping[str, Any]
    all_latents: bool
    batch_size: int | None
    data_plate: str | None
    progress: bool
    groups: Groups = field(default_factory=lambda: {"posterior": {}})
    dims: dict[str, list[str | None]] = field(default_factory=dict)
    latents: set[str] = field(default_factory=set)

    def posterior(
        self,
        *,
        var_names: Sequence[str] | None,
        deterministic: bool | Sequence[str],
        functions: Functions,
        log_likelihood: bool | Sequence[str] | Mapping[str, Any],
    ) -> None:
        """The groups that come from the draws and the model: posterior, log_likelihood, observed_data."""
        iterator = iter(self.draws)
        first = next(iterator)
        self.latents = set(first)
        names = list(first) if var_names is None else list(var_names)
        if unknown := [name for name in names if name not in first]:
            raise InputError("var_names", expected=f"names out of {list(first)}", got=str(unknown))
        programs = {name: self._program(name, spec) for name, spec in functions.items()}
        likelihood = log_likelihood if not isinstance(log_likelihood, Mapping) else False
        with private_randomness():
            self._observe(first)
            plan = self._plan(first) if likelihood or deterministic else None
        kept, terms, total = Stack(), Stack(), self.chains * self.length
        idle = self.stacked is not None and not programs and plan is None
        every = () if idle else tqdm(chain([first], iterator), "draws", total=total, disable=not self.progress)
        for s, draw in enumerate(every):
            with private_randomness():
                values = {} if self.stacked is not None else {name: draw[name] for name in names}
                for name, (program, pieces) in programs.items():
                    values[name] = value_under(program, draw, pieces)
                if plan is not None and self.model is not None:
                    found = evaluate(self.model, draw, plan)
                    if likelihood is True and not found.log_likelihood:
                        raise InputError("log_likelihood", expected="a model with an observed site", got="none")
                    values |= _chosen("deterministic", found.deterministic, deterministic)
                    for name, value in _chosen("log_likelihood", found.log_likelihood, likelihood).items():
                        require_number(name, value, s)
                        terms.put(name, value.cpu(), place=s, length=total)
            for name, value in values.items():
                kept.put(name, value.detach().cpu(), place=s, length=total)
        stacked = {name: self.stacked[name] for name in names} if self.stacked is not None else {}
        both = {**stacked, **kept.tensors}
        self.groups["posterior"] = {name: self.by_chain(name, value) for name, value in both.items()}
        self.groups["log_likelihood"] = {name: self.by_chain(name, value) for name, value in terms.tensors.items()}
        if isinstance(log_likelihood, Mapping):
            self.groups["log_likelihood"] = self.predictive("log_likelihood", log_likelihood)
        for name in programs:
            axes = [f"{name}_{axis}" for axis in ("point", "output")]
            if (rank := kept.tensors[name].dim() - 1) <= len(axes):
                self.dims[name] = list(axes[:rank])

    def prior(self, values: Mapping[str, Any]) -> None:
        """Draws from the prior: those of posterior variables, and what else they predict."""
        shaped = {name: as_numpy(value)[None] for name, value in values.items()}
        known = self.latents | set(self.groups["posterior"])
        self.groups["prior"] = {name: value for name, value in shaped.items() if name in known}
        self.groups["prior_predictive"] = {name: value for name, value in shaped.items() if name not in known}

    def predictive(self, what: str, values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Arrays with one value a posterior draw, brought to (chain, draw, ...)."""
        return {name: self.by_chain(f"{what}[{name!r}]", value) for name, value in values.items()}

    def by_chain(self, what: str, value: Any) -> NDArray[Any]:
        """(chain * draw, ...) or (chain, draw, ...) to the latter."""
        array, total = as_numpy(value), self.chains * self.length
        if array.shape[:2] == (self.chains, self.length):
            return array
        if array.ndim and array.shape[0] == total:
            return array.reshape(self.chains, self.length, *array.shape[1:])
        raise InputError(
            what,
            expected=f"a leading shape ({self.chains}, {self.length}) or ({total},), one value a posterior draw",
            got=f"shape {array.shape}",
        )

    def named_dims(self, given: Mapping[str, Sequence[str]] | None) -> dict[str, list[str | None]]:
        """Names of the dimensions of each variable: the caller's, else the plates', where they fit everywhere."""
        variables = {name for group in self.groups.values() for name in group}
        lengths: dict[str, set[int]] = {}
        for group, members in self.groups.items():
            if group.startswith("predictions"):  # other data, whose dimensions have names of their own
                continue
            skip = 0 if "data" in group else 2
            for name in members.keys() & self.dims.keys():
                for dim, size in zip(self.dims[name], members[name].shape[skip:], strict=False):
                    if dim is not None:
                        lengths.setdefault(dim, set()).add(size)
        taken = variables | {"chain", "draw", "sample"}
        renamed = {dim: (f"{dim}_dim" if dim in taken else dim) for dim, sizes in lengths.items() if len(sizes) == 1}
        inferred = {name: [renamed.get(dim) if dim else None for dim in dims] for name, dims in self.dims.items()}
        return {**inferred, **{name: list(dims) for name, dims in (given or {}).items()}}

    def _observe(self, first: Draw) -> None:
        """What the model observes, and the names of its plates as names of dimensions."""
        if self.model is None or self.args is None:
            return
        plan = self._plan(first, observations_only=True)
        batch, may_draw = plan.batches[0], frozenset[str]() if self.all_latents else None
        run = run_program(self.model, first, batch.args, batch.kwargs, rows=batch.rows, may_draw=may_draw)
        values = observed_values(self.model, first, plan, any_latents=True)
        self.groups["observed_data"] = {name: as_numpy(value) for name, value in values.items()}
        for name, frames in run.plates.items():
            vectorized = {frame.dim: frame.name for frame in frames if frame.dim is not None}
            if vectorized:
                self.dims[name] = [vectorized.get(dim) for dim in range(min(vectorized), 0)]

    def _plan(self, first: Draw, *, observations_only: bool = False) -> Batches:
        if self.model is None:
            got = "one with a potential function"
            raise InputError("log_likelihood or deterministic", expected="a kernel with a model", got=got)
        if self.args is None:
            expected, got = (
                "the whole data, as the model takes them",
                "none, and a sampler that had its data in batches",
            )
            raise InputError("model_args", expected=expected, got=got)
        return plan_batches(
            self.model,
            first,
            self.args,
            self.kwargs,
            batch_size=self.batch_size,
            data_plate=self.data_plate,
            observations_only=observations_only,
        )

    def _program(self, name: str, spec: Any) -> tuple[Program, list[Piece]]:
        program, *args = spec if isinstance(spec, tuple) else (spec,)
        what = f"functions[{name!r}]"
        if not callable(program):
            raise InputError(what, expected="a Pyro program or (program, *arguments)", got=repr(spec))
        if name in self.latents:
            raise InputError(what, expected="a name that no site has", got=f"the site {name!r}")
        return program, pieces_of(tuple(args), self.batch_size)


def _chosen(what: str, found: dict[str, Tensor], wanted: bool | Sequence[str]) -> dict[str, Tensor]:
    """Of the values found, all (True), none (False) or those named."""
    if not wanted:
        return {}
    names = list(found) if wanted is True else list(wanted)
    if any(name not in found for name in names):
        raise InputError(what, expected=f"sites out of {list(found)}", got=str(names))
    return {name: found[name] for name in names}
