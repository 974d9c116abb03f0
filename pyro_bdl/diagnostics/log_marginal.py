"""The log evidence of each data point under a latent-variable model, by importance sampling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_bdl.data_checks import check_finite
from pyro_bdl.diagnostics.container import pareto_k
from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.minibatches import Batch
from pyro_bdl.number_checks import require_count
from pyro_bdl.particles import log_mean_exp, traces, weighed


@dataclass(frozen=True)
class LogMarginal:
    """The log evidence of N data points, and how far to trust it.

    Attributes:
        value: log p(x) of each (N,), in nats.
        bound: E_q[log w] of each (N,), the evidence lower bound of its latent variables.
        effective_sample_size: of each (N,): (sum of weights)^2 / sum of squared weights, between 1 and S.
        pareto_k: of each (N,), the shape of the weights' upper tail. Above 0.7 the estimate is not to be trusted: it is
            then likely too low, since the largest weights were not met. Infinite for fewer than 25 draws, minus
            infinity where all weights are equal.
    """

    value: Tensor
    bound: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor

    @property
    def mean(self) -> float:
        """The mean over the data, in nats a point."""
        return float(self.value.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean, from the spread over data points."""
        return float(self.value.std() / len(self.value) ** 0.5)


@torch.no_grad()
def log_marginal(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *data: Tensor,
    num_samples: int = 5000,
    rows_at_once: int = 10_000,
    progress: bool = False,
) -> LogMarginal:
    r"""Estimate :math:`\log p(x_n) = \log E_{q(z \mid x_n)}[p(x_n, z) / q(z \mid x_n)]` of each data point.

    The mean of S weights is unbiased, its logarithm too low by about half their relative variance / S (Burda, Grosse &
    Salakhutdinov 2016, theorem 1: it rises with S to the log evidence). With random weights in the model each batch of
    draws has weights of its own from the guide, and the result is the log of the posterior predictive density.

    Args:
        model: a Pyro model with latent variables of single data points in one data plate.
        guide: its guide, which proposes them.
        data: what both are called with, tensors of N rows.
        num_samples: S, draws for each data point. Default 5000, that of the literature's tables.
        rows_at_once: the most rows that the networks are run on together, which bounds the memory. Default 10,000.
        progress: show a bar.

    Raises:
        InputError: no data, or not finite ones, numbers out of range, sites that do not fit.
        UnsupportedModelError: no latent variables of single data points, or more than one plate.
        NumericalError: weights that are NaN, or all zero, for a data point.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(0.5 * x, 0.5**0.5))  # the posterior: all weights are equal
    >>> log_marginal(model, guide, torch.tensor([0.0, 1.0]), num_samples=10).value  # of N(0, 2)
    tensor([-1.2655, -1.5155])
    """
    if not data or len(data[0]) == 0:
        raise InputError("data", expected="at least one row", got="none")
    if any(len(tensor) != len(data[0]) for tensor in data):
        got = ", ".join(str(len(tensor)) for tensor in data)
        raise InputError("data", expected="tensors with as many rows", got=got)
    check_finite(Batch(data))
    require_count("num_samples", num_samples)
    require_count("rows_at_once", rows_at_once)
    rows = min(len(data[0]), max(1, rows_at_once // min(num_samples, 100)))
    draws = max(1, rows_at_once // rows)
    parts: list[tuple[Tensor, ...]] = []
    batches = zip(*(tensor.split(rows) for tensor in data), strict=True)
    total = -(-len(data[0]) // rows)
    bar = tqdm(batches, "log marginal", total=total, unit="batch", disable=not progress)
    for number, batch in enumerate(bar):
        counts = [min(draws, num_samples - done) for done in range(0, num_samples, draws)]
        each = [weighed(*traces(model, guide, batch, {}, count)).log_weights for count in counts]
        parts.append(_summary(torch.cat(each).double(), first=number * rows))
    return LogMarginal(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _summary(log_weights: Tensor, *, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of log-weights (S, B), of the rows from `first` on: log mean, mean log, effective sample size, Pareto k."""
    value = log_mean_exp(log_weights)
    if not bool(torch.isfinite(value).all()):
        row = int((~torch.isfinite(value)).nonzero()[0])
        raise NumericalError(f"the log marginal of row {first + row} is {float(value[row])}")
    normalised = log_weights.softmax(0)
    k = pareto_k(log_weights.T.numpy(force=True))
    return (
        value.float(),
        log_weights.mean(0).float(),
        (1 / normalised.square().sum(0)).float(),
        torch.as_tensor(k).float(),
    )
