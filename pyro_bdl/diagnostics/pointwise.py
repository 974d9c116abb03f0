"""The log-likelihood of each data point under each posterior draw, for any Pyro model with plates.

log p(y_n | theta_s), n = 1..N, s = 1..S: what leave-one-out cross-validation needs (Vehtari, Gelman & Gabry 2017,
section 2). It is the log-probability of the observed sites without the N/B scale of a subsampled plate.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_bdl.diagnostics import evaluation
from pyro_bdl.diagnostics.batching import Batches, plan_batches
from pyro_bdl.diagnostics.evaluation import Draw, Program
from pyro_bdl.errors import InputError, NumericalError


def pointwise_log_likelihood(
    model: Program,
    draws: Mapping[str, Tensor],
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = 1024,
    data_plate: str | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The log-likelihood of each data point under each draw, in batches over data points and one draw at a time.

    Args:
        model: a Pyro model, called as `model(*args, **kwargs)` with the data.
        draws: for each latent site S draws, shape (S, *shape of the site).
        args: the model's arguments; tensors with one row a data point are cut into batches where the model allows it.
        kwargs: the model's keyword arguments, likewise.
        batch_size: the most data points at once, which bounds the memory; None for all. The default keeps the
            activations of a network of a few thousand units below 100 MB.
        data_plate: the plate over data points, where more than one could be it.
        progress: show a bar.

    Returns:
        For each observed site a tensor (S, *batch shape of the site): unscaled, zero where masked, event dimensions
        summed. A site without a plate keeps its batch shape too.

    Raises:
        InputError: a latent site has no draws (it is never drawn from the prior), or draws of another shape.
        UnsupportedModelError: a data point's log-likelihood depends on the batch that it is in.
        NumericalError: a log-likelihood is NaN.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x, y=None):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", 100, subsample_size=len(x)):
    ...         return pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> x = torch.tensor([0.0, 1.0, 2.0])
    >>> pointwise_log_likelihood(model, {"slope": torch.tensor([0.0, 1.0])}, x, x)["y"]
    tensor([[-0.9189, -1.4189, -2.9189],
            [-0.9189, -0.9189, -0.9189]])
    """
    with private_randomness():
        first = next(each_draw(draws))
        plan = plan_batches(model, first, args, kwargs, batch_size=batch_size, data_plate=data_plate)
        return log_likelihood_of(model, draws, plan, progress=progress)


def log_likelihood_of(
    model: Program, draws: Mapping[str, Tensor], plan: Batches, *, progress: bool = False
) -> dict[str, Tensor]:
    """As `pointwise_log_likelihood`, along batches that are already known."""
    found: dict[str, Tensor] = {}
    number = count(draws)
    for s, draw in enumerate(tqdm(each_draw(draws), "log-likelihood", total=number, disable=not progress)):
        for name, value in _sites(model, draw, plan, deterministic=False, what=evaluation.log_prob).items():
            if torch.isnan(value).any():
                raise NumericalError(f"the log-likelihood of site {name!r} is NaN under draw {s}")
            if name not in found:
                found[name] = value.new_empty((number, *value.shape))
            found[name][s] = value
    return found


def observed_values(model: Program, draw: Draw, plan: Batches) -> dict[str, Tensor]:
    """The data, as the model observes them: for each observed site its values over all data points."""

    def value(site: Any) -> Tensor:
        return site["value"]

    return _sites(model, draw, plan, deterministic=False, what=value, event_dims=True)


def deterministic_values(
    model: Program, draws: Mapping[str, Tensor], plan: Batches, names: frozenset[str] | None = None
) -> dict[str, Tensor]:
    """The values of `pyro.deterministic` sites under each draw, each (S, *shape); `names` None for all of them."""
    found: dict[str, list[Tensor]] = {}
    for draw in each_draw(draws):
        for name, value in _sites(model, draw, plan, deterministic=True, what=lambda site: site["value"]).items():
            if names is None or name in names:
                found.setdefault(name, []).append(value)
    if names is not None and not names <= set(found):
        raise InputError("deterministic", expected=f"sites out of {sorted(found)}", got=str(sorted(names - set(found))))
    return {name: torch.stack(values) for name, values in found.items()}


def each_draw(draws: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """One draw after the other out of stacked ones."""
    for s in range(count(draws)):
        yield {name: value[s] for name, value in draws.items()}


def count(draws: Mapping[str, Tensor]) -> int:
    """How many draws there are."""
    sizes = {name: value.shape[0] if value.dim() else 0 for name, value in draws.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise InputError(
            "draws", expected="tensors with one leading dimension of draws, the same for all", got=str(sizes)
        )
    return next(iter(sizes.values()))


def _sites(
    model: Program, draw: Draw, plan: Batches, *, deterministic: bool, what: Any, event_dims: bool = False
) -> dict[str, Tensor]:
    """Something of each observed or deterministic site, over all data points."""
    parts: dict[str, list[Tensor]] = {}
    shift: dict[str, int] = {}
    for batch in plan.batches:
        sites = evaluation.run(model, draw, batch.args, batch.kwargs, rows=batch.rows).sites
        for name, site in sites.items():
            if evaluation.is_deterministic(site) is deterministic and not evaluation.is_factor(site):
                parts.setdefault(name, []).append(what(site).detach())
                shift[name] = site["fn"].event_dim if event_dims else 0
    return {name: plan.join(name, values, shift[name]) for name, values in parts.items()}


def private_randomness() -> Any:
    """What a model draws by itself (a plate's permutation) leaves the caller's random state as it was."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))
