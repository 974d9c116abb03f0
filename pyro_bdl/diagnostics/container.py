"""ArviZ's data structures: the only file that knows ArviZ.

ArviZ 0.23 keeps its groups in an `InferenceData`, ArviZ 1.x in an `xarray.DataTree`, and the latter has no converter
for Pyro. Both are built here, from the same dictionaries of NumPy arrays.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np

from pyro_bdl.diagnostics.conversion import Groups
from pyro_bdl.errors import InputError

Container = Literal["inference_data", "datatree"]
Dims = Mapping[str, Sequence[str]]


def from_arrays(
    groups: Groups,
    *,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str | None]] | None = None,
    pred_dims: Mapping[str, Sequence[str | None]] | None = None,
    index_origin: int | None = None,
    attrs: Mapping[str, Any] | None = None,
    container: Container | None = None,
) -> Any:
    """Dictionaries of NumPy arrays, one a group, as ArviZ's data structure.

    Args:
        groups: arrays by the name of the variable, by the name of the group; (chain, draw, ...) except for data.
        coords: see `from_pyro`.
        dims: see `from_pyro`.
        pred_dims: see `from_pyro`.
        index_origin: see `from_pyro`.
        attrs: attributes of the posterior and of the whole.
        container: see `from_pyro`.
    """
    filled = {name: group for name, group in groups.items() if group}
    attributes = dict(attrs or {})
    options: dict[str, Any] = {
        "coords": dict(coords or {}),
        "dims": {name: list(names) for name, names in (dims or {}).items()},
        "pred_dims": {name: list(names) for name, names in (pred_dims or {}).items()},
        "pred_coords": dict(coords or {}),
        "index_origin": index_origin,
    }
    if _known(container) == "inference_data":
        with _quiet_import():
            import arviz
        return arviz.from_dict(**{**filled, **options}, attrs=attributes, posterior_attrs=dict(attributes))
    import arviz_base

    attributes_by_group = {"/": attributes} | ({"posterior": dict(attributes)} if "posterior" in filled else {})
    return arviz_base.from_dict(filled, **options, attrs=attributes_by_group)


def from_datatree(tree: Any, *, container: Container | None = None) -> Any:
    """An `xarray.DataTree` as ArviZ's data structure.

    Args:
        tree: with ArviZ's groups.
        container: see `from_pyro`.
    """
    if _known(container) == "datatree":
        return tree
    with _quiet_import():
        import arviz
    return arviz.InferenceData.from_datatree(tree)


def _known(container: Container | None) -> Container:
    if container not in ("inference_data", "datatree", None):
        raise InputError("container", expected='"inference_data", "datatree" or None', got=repr(container))
    if container is not None:
        return container
    try:
        return "inference_data" if int(version("arviz").split(".")[0]) < 1 else "datatree"
    except PackageNotFoundError:
        version("arviz-base")  # raises, naming the package, where there is no ArviZ at all
        return "datatree"


@contextmanager
def _quiet_import() -> Iterator[None]:
    """ArviZ 0.23 announces the migration to 1.x when it is imported, once a day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="\\s*ArviZ is undergoing", category=FutureWarning)
        yield


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """The shape of the upper tail of importance weights (points, draws), one a point (Vehtari et al. 2024).

    Infinite for fewer than 25 draws, whose tail is too short for a fit, and minus infinity where the weights are equal
    to a thousandth, which have no tail.
    """
    k = np.where(np.ptp(log_weights, -1) < 1e-3, -np.inf, np.inf)
    some = k > 0
    if log_weights.shape[-1] >= 25 and some.any():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large k, which is the answer
            k[some] = _psis()(log_weights[some])
    return k


def _psis() -> Callable[[np.ndarray], np.ndarray]:
    """The fit of the installed ArviZ."""
    with _quiet_import():
        import arviz
    if hasattr(arviz, "psislw"):
        return lambda log_weights: arviz.psislw(log_weights)[1]
    from arviz_stats.base import array_stats

    return lambda log_weights: array_stats.psislw(-log_weights, axis=-1)[1]  # it takes what loo has, the negative
