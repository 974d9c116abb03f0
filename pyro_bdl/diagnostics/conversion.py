"""From a Pyro model and its draws to the groups of an ArviZ data set, as plain NumPy arrays.

No ArviZ here: a group is a dictionary of arrays, named as in ArviZ's schema.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from pyro_bdl.diagnostics import evaluation
from pyro_bdl.diagnostics.arrays import as_numpy
from pyro_bdl.diagnostics.batching import Batches, plan_batches
from pyro_bdl.diagnostics.evaluation import Program
from pyro_bdl.diagnostics.pointwise import (
    deterministic_values,
    each_draw,
    log_likelihood_of,
    observed_values,
    private_randomness,
)
from pyro_bdl.diagnostics.prediction import predict
from pyro_bdl.errors import InputError

Groups = dict[str, dict[str, NDArray[Any]]]
Functions = Mapping[str, Callable[..., Any] | tuple[Any, ...]]


@dataclass
class Collector:
    """Fills the groups, one method a group.

    Args:
        draws: the posterior's draws, each (chain, draw, *shape).
        model: the Pyro model; None where there is none, and then nothing is asked of it.
        args: the model's arguments with the whole data; None if they are not known.
        kwargs: the model's keyword arguments.
        batch_size: the most data points at once.
        data_plate: the plate over data points, where more than one could be it.
        progress: show bars.
    """

    draws: Mapping[str, Tensor]
    model: Program | None = None
    args: tuple[Any, ...] | None = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = 1024
    data_plate: str | None = None
    progress: bool = False
    groups: Groups = field(default_factory=dict)
    dims: dict[str, list[str | None]] = field(default_factory=dict)
    _plan: Batches | None = None

    def __post_init__(self) -> None:
        self.chains, self.length = next(iter(self.draws.values())).shape[:2]
        self.flat = {name: value.flatten(0, 1) for name, value in self.draws.items()}

    def posterior(self, var_names: Sequence[str] | None, deterministic: bool | Sequence[str]) -> None:
        """The latent sites named, and deterministic ones."""
        names = list(self.draws) if var_names is None else list(var_names)
        if unknown := [name for name in names if name not in self.draws]:
            raise InputError("var_names", expected=f"names out of {list(self.draws)}", got=str(unknown))
        group = {name: as_numpy(self.draws[name]) for name in names}
        if deterministic:
            wanted = None if deterministic is True else frozenset(deterministic)
            with private_randomness():
                values = deterministic_values(self._model("deterministic"), self.flat, self._batches(), wanted)
            group.update({name: self.by_chain(name, value) for name, value in values.items()})
        self.groups["posterior"] = group

    def functions(self, functions: Functions) -> None:
        """Return values of Pyro programs under each draw, as posterior variables."""
        for name, spec in functions.items():
            program, *args = spec if isinstance(spec, tuple) else (spec,)
            if not callable(program):
                raise InputError(
                    f"functions[{name!r}]", expected="a Pyro program or (program, *arguments)", got=repr(spec)
                )
            if name in self.groups["posterior"]:
                raise InputError(f"functions[{name!r}]", expected="a name that no site has", got=f"the site {name!r}")
            with private_randomness():
                value = predict(program, self.flat, *args, batch_size=self.batch_size, progress=self.progress)
            self.groups["posterior"][name] = self.by_chain(name, value)
            axes = ["point", "output"]
            if value.dim() - 1 <= len(axes):
                self.dims[name] = [f"{name}_{axis}" for axis in axes[: value.dim() - 1]]

    def data(self) -> None:
        """What the model observes, and the names of its plates as names of dimensions."""
        if self.model is None or self.args is None:
            return
        with private_randomness():
            first = next(each_draw(self.flat))
            values = observed_values(self.model, first, self._batches())
            batch = self._batches().batches[0]
            plates = evaluation.run(self.model, first, batch.args, batch.kwargs, rows=batch.rows).plates
        if values:
            self.groups["observed_data"] = {name: as_numpy(value) for name, value in values.items()}
        for name, frames in plates.items():
            vectorized = {frame.dim: frame.name for frame in frames if frame.dim is not None}
            if vectorized:
                self.dims[name] = [vectorized.get(dim) for dim in range(min(vectorized), 0)]

    def log_likelihood(self, wanted: bool | Sequence[str] | Mapping[str, Any]) -> None:
        """The pointwise log-likelihood: computed, for all observed sites or those named; or handed in."""
        if wanted is False or wanted is None:
            return
        if isinstance(wanted, Mapping):
            self.groups["log_likelihood"] = self.predictive("log_likelihood", wanted)
            return
        with private_randomness():
            found = log_likelihood_of(self._model("log_likelihood"), self.flat, self._batches(), progress=self.progress)
        names = list(found) if wanted is True else list(wanted)
        if not found or any(name not in found for name in names):
            raise InputError("log_likelihood", expected=f"observed sites, out of {list(found)}", got=str(names))
        self.groups["log_likelihood"] = {name: self.by_chain(name, found[name]) for name in names}

    def prior(self, values: Mapping[str, Any]) -> None:
        """Draws from the prior: those of posterior variables, and what else they predict."""
        shaped = {name: as_numpy(value)[None] for name, value in values.items()}
        known = set(self.draws) | set(self.groups["posterior"])
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

    def _model(self, wanted_for: str) -> Program:
        if self.model is None:
            raise InputError(
                wanted_for, expected="a kernel that was given a model", got="one with a potential function"
            )
        return self.model

    def _batches(self) -> Batches:
        if self.args is None:
            expected, got = (
                "the whole data, as the model takes them",
                "none, and a sampler that had its data in batches",
            )
            raise InputError("model_args", expected=expected, got=got)
        if self._plan is None:
            self._plan = plan_batches(
                self._model("the model"),
                next(each_draw(self.flat)),
                self.args,
                self.kwargs,
                batch_size=self.batch_size,
                data_plate=self.data_plate,
            )
        return self._plan
