"""Which data points of a Pyro model can be looked at on their own, and in which batches.

A model says that its data points are independent given the weights by a plate. Two ways of writing it are usual:

1. the arguments carry the batch: `model(x, y)` with `pyro.plate("data", N, subsample_size=len(x))`;
2. the plate picks the batch: `with pyro.plate("data", N, subsample_size=B) as rows: ... obs=y[rows]`.

In the first the arguments are sliced, in the second the plate is told which rows to pick. Which one it is, is found
out by running the model, not by reading it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.diagnostics.evaluation import Draw, Program, is_deterministic, log_prob, run_program
from pyro_bdl.errors import InputError, UnsupportedModelError

_RTOL, _ATOL = 1e-4, 1e-4  # single precision, another order of summation: far below what a coupled model changes


@dataclass(frozen=True)
class Batch:
    """Arguments for one run of the model, and which of the data points in it are wanted."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: Tensor | None = None  # None: the whole data
    skip: int = 0  # leading data points that an earlier batch has had


@dataclass(frozen=True)
class Batches:
    """A way to go once through the data of a model.

    Attributes:
        plate: the plate over data points, None where the data are taken whole.
        batches: what to run.
        axes: for each observed and deterministic site, the axis of its log-probability or value along which the batches
            are put together, counted from the right; None where the site does not depend on the batch.
    """

    plate: str | None
    batches: list[Batch]
    axes: dict[str, int | None] = field(default_factory=dict)

    def join(self, name: str, parts: list[Tensor], event_dim: int = 0) -> Tensor:
        """One tensor over all data points from one a batch, with `event_dim` axes more than the log-probability."""
        axis = self.axes.get(name)
        if axis is None or len(parts) == 1:
            return parts[0]
        axis -= event_dim
        kept = [
            part.narrow(axis, b.skip, part.shape[axis] - b.skip) for part, b in zip(parts, self.batches, strict=True)
        ]
        return torch.cat(kept, axis)


def plan_batches(
    model: Program,
    draw: Draw,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    batch_size: int | None = 1024,
    data_plate: str | None = None,
    observations_only: bool = False,
) -> Batches:
    """Find out in which batches a model can go through its data.

    The model is run under `draw` on the first rows of its tensor arguments, once with twice as many rows as a batch and
    once with a batch: the plate whose length follows is the data plate, and the log-probabilities of the rows that both
    runs share must agree. A model that cannot be run on a part of its arguments is run on the whole.

    Args:
        model: a Pyro model.
        draw: a value for each latent site.
        args: the model's arguments, tensors of data with one row a data point.
        kwargs: the model's keyword arguments, likewise.
        batch_size: the most rows to run at once; None for the whole data at once, in any case.
        data_plate: name of the plate over data points, where a model has more than one that could be it.
        observations_only: nothing but the observed values matters, which no latent variable changes: sites without
            draws are drawn, and the log-probabilities need not agree.

    Raises:
        UnsupportedModelError: the log-probability of a data point depends on the other points of its batch.
        InputError: the batch size is not positive, or the model has no such plate.
    """
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise InputError("batch_size", expected="a positive integer or None", got=repr(batch_size))
    whole = Batch(args, dict(kwargs or {}))
    sizes = _leading_sizes(args, whole.kwargs)
    if batch_size is not None and sizes and max(sizes) > batch_size:
        found = _plan_slices(
            model, draw, whole, batch_size=batch_size, data_plate=data_plate, observations_only=observations_only
        )
        if found is not None:
            return found
    sites = run_program(model, draw, args, whole.kwargs, may_draw=None if observations_only else frozenset()).sites
    plate = _subsampled_plate(sites, sizes, data_plate)
    if plate is None:
        _check_plate_exists(sites, data_plate)
        return Batches(None, [whole])
    return _plan_rows(sites, whole, plate)


def sliced(value: Any, rows: int, start: int, stop: int) -> Any:
    """Rows `start` to `stop` of a tensor that has one row a data point; anything else as it is."""
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows:
        return value[start:stop]
    return value


def _plan_slices(
    model: Program,
    draw: Draw,
    whole: Batch,
    *,
    batch_size: int,
    data_plate: str | None,
    observations_only: bool,
) -> Batches | None:
    """Batches by slicing the arguments; None where the model does not follow a slice."""
    rows = max(_leading_sizes(whole.args, whole.kwargs))
    may_draw = None if observations_only else frozenset[str]()

    def batch(start: int, stop: int) -> Batch:
        return Batch(
            tuple(sliced(arg, rows, start, stop) for arg in whole.args),
            {key: sliced(arg, rows, start, stop) for key, arg in whole.kwargs.items()},
            torch.arange(start, stop),
        )

    def probe(length: int) -> dict[str, Any]:
        part = batch(0, length)
        return run_program(model, draw, part.args, part.kwargs, rows=part.rows, may_draw=may_draw).sites

    long = min(2 * batch_size, rows)
    try:
        longer, shorter = probe(long), probe(batch_size)
    except (ValueError, RuntimeError, IndexError):  # its sizes are not those of its arguments: take it whole
        return None
    plates = {
        frame.name
        for name, site in longer.items()
        for frame in site["cond_indep_stack"]
        if frame.size == long and name in shorter and (frame.name, batch_size) in _plates(shorter[name])
    }
    if data_plate is not None:
        plates &= {data_plate}
    if len(plates) != 1:
        return None
    plate = plates.pop()
    axes = {name: _axis(site, shorter[name], plate) for name, site in longer.items()}
    for name, axis in axes.items():
        if not is_deterministic(longer[name]) and not observations_only:
            _check_independent(name, axis, log_prob(longer[name]), log_prob(shorter[name]))
    batches = [batch(start, min(start + batch_size, rows)) for start in range(0, rows, batch_size)]
    return Batches(plate, batches, axes)


def _plan_rows(sites: dict[str, Any], whole: Batch, plate: Any) -> Batches:
    """Batches of rows that the model's own plate picks; the last one overlaps, since the plate's length is fixed."""
    size, rows = plate.size, plate.full_size
    starts = [*range(0, rows - size, size), rows - size]
    done = [0, *(start + size for start in starts[:-1])]
    batches = [
        Batch(whole.args, whole.kwargs, torch.arange(start, start + size), had - start)
        for start, had in zip(starts, done, strict=True)
    ]
    return Batches(plate.name, batches, {name: _axis(site, None, plate.name) for name, site in sites.items()})


def _leading_sizes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int]:
    return [v.shape[0] for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim() > 0]


def _plates(site: Any) -> set[tuple[str, int]]:
    return {(frame.name, frame.size) for frame in site["cond_indep_stack"]}


def _subsampled_plate(sites: dict[str, Any], sizes: list[int], data_plate: str | None) -> Any | None:
    """The plate that picks rows by itself: shorter than its data, and no argument has been cut to its length."""
    for site in sites.values():
        for frame in site["cond_indep_stack"]:
            if data_plate in (None, frame.name) and frame.dim is not None and frame.size < frame.full_size:
                if frame.size in sizes and frame.full_size not in sizes:
                    continue  # the arguments hold only these rows
                return frame
    return None


def _axis(longer: Any, shorter: Any | None, plate: str) -> int | None:
    """The axis of a site that runs over data points, counted from the right."""
    if is_deterministic(longer) and shorter is not None:
        one, two = longer["value"].shape, shorter["value"].shape
        changed = [i - len(one) for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
        return changed[0] if changed else None
    for frame in longer["cond_indep_stack"]:
        if frame.name == plate:
            return _deterministic_axis(longer, frame) if is_deterministic(longer) else int(frame.dim)
    return None


def _deterministic_axis(site: Any, frame: Any) -> int | None:
    """As the site's event dimensions say; where they take in all axes (Pyro's default), the leading one if it fits."""
    shape, axis = site["value"].shape, frame.dim - site["fn"].event_dim
    if len(shape) >= -axis:
        return int(axis)
    return -len(shape) if shape and shape[0] == frame.size else None


def _check_independent(name: str, axis: int | None, longer: Tensor, shorter: Tensor) -> None:
    shared = longer if axis is None else longer.narrow(axis, 0, shorter.shape[axis])
    if not torch.allclose(shared, shorter, rtol=_RTOL, atol=_ATOL, equal_nan=True):
        gap = (shared - shorter).abs().max().item()
        raise UnsupportedModelError(
            f"the log-likelihood of site {name!r} in batches",
            expected="the same value for a data point whatever else is in its batch",
            got=f"a difference of {gap:.3g} between two batches that share their first points",
            remedy="Put batch norm and dropout into evaluation mode, or take the data whole with batch_size=None",
        )


def _check_plate_exists(sites: dict[str, Any], data_plate: str | None) -> None:
    names = {frame.name for site in sites.values() for frame in site["cond_indep_stack"]}
    if data_plate is not None and data_plate not in names:
        raise InputError("data_plate", expected=f"one of the plates {sorted(names)}", got=repr(data_plate))
