"""The log-likelihood of each data point under each posterior draw, for any Pyro model with plates.

log p(y_n | theta_s), n = 1..N, s = 1..S: what leave-one-out cross-validation needs (Vehtari, Gelman & Gabry 2017,
section 2). It is the log-probability of the observed sites without the N/B scale of a subsampled plate.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_bdl.diagnostics.batching import Batches, plan_batches
from pyro_bdl.diagnostics.evaluation import Draw, Program, is_deterministic, is_factor, log_prob, run_program
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
    number, found = count(draws), Stack()
    with private_randomness():
        plan = plan_batches(model, next(each_draw(draws)), args, kwargs, batch_size=batch_size, data_plate=data_plate)
        for s, draw in enumerate(tqdm(each_draw(draws), "log-likelihood", total=number, disable=not progress)):
            for name, value in evaluate(model, draw, plan).log_likelihood.items():
                require_number(name, value, s)
                found.put(name, value, place=s, length=number)
    return found.tensors


class Quantities(NamedTuple):
    """What a model says under one draw, over all data points, by site."""

    log_likelihood: dict[str, Tensor]
    deterministic: dict[str, Tensor]


def evaluate(model: Program, draw: Draw, plan: Batches) -> Quantities:
    """One pass over the data: the log-likelihood of observed sites and the values of `pyro.deterministic` ones."""
    likelihood, deterministic = {}, {}
    for name, sites in _by_site(model, draw, plan).items():
        if is_deterministic(sites[0]):
            deterministic[name] = plan.join(name, [site["value"].detach() for site in sites])
        else:
            likelihood[name] = plan.join(name, [log_prob(site).detach() for site in sites])
    return Quantities(likelihood, deterministic)


def observed_values(model: Program, draw: Draw, plan: Batches, *, any_latents: bool = False) -> dict[str, Tensor]:
    """The data, as the model observes them: for each observed site its values over all data points."""
    return {
        name: plan.join(name, [site["value"] for site in sites], sites[0]["fn"].event_dim)
        for name, sites in _by_site(model, draw, plan, any_latents=any_latents).items()
        if not is_deterministic(sites[0])
    }


def require_number(name: str, value: Tensor, draw: int) -> None:
    """Refuse a log-likelihood that is NaN."""
    if torch.isnan(value).any():
        raise NumericalError(f"the log-likelihood of site {name!r} is NaN under draw {draw}")


class Stack:
    """Tensors that are filled one draw at a time, each (draws, *shape)."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def put(self, name: str, value: Tensor, *, place: int, length: int) -> None:
        """The value of draw `place` out of `length`."""
        if name not in self.tensors:
            self.tensors[name] = value.new_empty((length, *value.shape))
        if self.tensors[name].shape[1:] != value.shape:
            wanted = f"shape {tuple(self.tensors[name].shape[1:])}, as under the first draw"
            raise InputError(f"{name!r} under draw {place}", expected=wanted, got=f"shape {tuple(value.shape)}")
        self.tensors[name][place] = value


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


def _by_site(model: Program, draw: Draw, plan: Batches, *, any_latents: bool = False) -> dict[str, list[Any]]:
    """The messages of each observed or deterministic site, one a batch; factors, which observe nothing, left out."""
    found: dict[str, list[Any]] = {}
    for batch in plan.batches:
        sites = run_program(
            model, draw, batch.args, batch.kwargs, rows=batch.rows, may_draw=None if any_latents else frozenset()
        ).sites
        for name, site in sites.items():
            if not is_factor(site):
                found.setdefault(name, []).append(site)
    return found


def private_randomness() -> Any:
    """What a model draws by itself (a plate's permutation) leaves the caller's random state as it was."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    return torch.random.fork_rng(devices=devices)
