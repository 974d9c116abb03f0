"""Pyro models in all the shapes that the diagnostics must cope with, each with its log-likelihood by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

N, D, S = 11, 3, 4
generator = torch.Generator().manual_seed(0)
X = torch.randn(N, 2, generator=generator)
Y = torch.randn(N, generator=generator)
YD = torch.randn(N, D, generator=generator)
LABELS = torch.randint(0, 3, (N,), generator=generator)
MASK = torch.rand(N, generator=generator) < 0.6
W = torch.randn(S, 2, generator=generator)
W3 = torch.randn(S, 3, 2, generator=generator)
LOCAL = torch.randn(S, N, generator=generator)


def normal(value: Tensor, mean: Tensor, sd: float = 0.5) -> Tensor:
    return -0.5 * ((value - mean) / sd) ** 2 - torch.log(torch.tensor(sd)) - 0.5 * torch.log(torch.tensor(2 * torch.pi))


def _weights(shape: tuple[int, ...] = (2,)) -> Tensor:
    return pyro.sample("w", dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))


def arguments_carry_the_batch(x: Tensor, y: Tensor) -> None:
    mean = x @ _weights()
    with pyro.plate("data", 50, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def plate_follows_the_data(x: Tensor, y: Tensor) -> None:
    mean = x @ _weights()
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def plate_picks_the_batch(x: Tensor, y: Tensor) -> None:
    w = _weights()
    with pyro.plate("data", len(x), subsample_size=4) as rows:
        pyro.sample("y", dist.Normal(x[rows] @ w, 0.5), obs=y[rows])


def closure_picks_the_batch() -> None:
    w = _weights()
    with pyro.plate("data", N, subsample_size=4) as rows:
        pyro.sample("y", dist.Normal(X[rows] @ w, 0.5), obs=Y[rows])


def pyro_subsample(x: Tensor, y: Tensor) -> None:
    w = _weights()
    with pyro.plate("data", len(x), subsample_size=4):
        x, y = pyro.subsample(x, event_dim=1), pyro.subsample(y, event_dim=0)
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def fixed_size(x: Tensor, y: Tensor) -> None:
    mean = x @ _weights()
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def nested_plates(x: Tensor, y: Tensor) -> None:
    w = _weights((3, 2))
    mean = x @ w.T
    with pyro.plate("outputs", D, dim=-1), pyro.plate("data", 50, subsample_size=len(x), dim=-2):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def data_plate_inside(x: Tensor, y: Tensor) -> None:
    w = _weights((3, 2))
    with pyro.plate("outputs", D, dim=-2), pyro.plate("data", 50, subsample_size=len(x), dim=-1):
        pyro.sample("y", dist.Normal(w @ x.T, 0.5), obs=y.T)


def event_dims(x: Tensor, y: Tensor) -> None:
    w = _weights((3, 2))
    with pyro.plate("data", 50, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(x @ w.T, 0.5).to_event(1), obs=y)


def no_plate(x: Tensor, y: Tensor) -> None:
    pyro.sample("y", dist.Normal(x @ _weights(), 0.5).to_event(1), obs=y)


def mask_handler(x: Tensor, y: Tensor, mask: Tensor) -> None:
    mean = x @ _weights()
    with pyro.plate("data", 50, subsample_size=len(x)), poutine.mask(mask=mask):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def masked_distribution(x: Tensor, y: Tensor, mask: Tensor) -> None:
    mean = x @ _weights()
    with pyro.plate("data", 50, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(mean, 0.5).mask(mask), obs=y)


def masked_out(x: Tensor, y: Tensor) -> None:
    with poutine.mask(mask=False):
        arguments_carry_the_batch(x, y)


def scaled(x: Tensor, y: Tensor) -> None:
    with poutine.scale(scale=7.0):
        arguments_carry_the_batch(x, y)


def classifier(x: Tensor, y: Tensor) -> None:
    logits = x @ _weights((3, 2)).T
    with pyro.plate("data", 50, subsample_size=len(x)):
        pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def latent_per_point(x: Tensor, y: Tensor) -> None:
    w = _weights()
    with pyro.plate("data", len(x)):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x @ w + shift, 0.5), obs=y)


def latent_per_point_subsampled(x: Tensor, y: Tensor) -> None:
    w = _weights()
    with pyro.plate("data", N, subsample_size=4) as rows:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x[rows] @ w + shift, 0.5), obs=y[rows])


def keyword_arguments(*, x: Tensor, y: Tensor) -> None:
    arguments_carry_the_batch(x, y)


@dataclass(frozen=True)
class Case:
    """A model, its arguments, draws of its latents, and the log-likelihood that it should have."""

    model: Callable[..., Any]
    expected: Tensor
    args: tuple[Any, ...] = (X, Y)
    draws: dict[str, Tensor] | None = None
    kwargs: dict[str, Any] | None = None

    @property
    def posterior(self) -> dict[str, Tensor]:
        return {"w": W} if self.draws is None else self.draws


_PLAIN = normal(Y, W @ X.T)
_MANY = normal(YD, torch.einsum("nd,sed->sne", X, W3))
_SHIFTED = normal(Y, W @ X.T + LOCAL)
_THREE = {"w": W3}
_BOTH = {"w": W, "shift": LOCAL}

CASES = {
    case.model.__name__: case
    for case in (
        Case(arguments_carry_the_batch, _PLAIN),
        Case(plate_follows_the_data, _PLAIN),
        Case(plate_picks_the_batch, _PLAIN),
        Case(closure_picks_the_batch, _PLAIN, args=()),
        Case(pyro_subsample, _PLAIN),
        Case(fixed_size, _PLAIN),
        Case(nested_plates, _MANY, args=(X, YD), draws=_THREE),
        Case(data_plate_inside, _MANY.transpose(1, 2), args=(X, YD), draws=_THREE),
        Case(event_dims, _MANY.sum(-1), args=(X, YD), draws=_THREE),
        Case(no_plate, _PLAIN.sum(-1)),
        Case(mask_handler, torch.where(MASK, _PLAIN, 0.0), args=(X, Y, MASK)),
        Case(masked_distribution, torch.where(MASK, _PLAIN, 0.0), args=(X, Y, MASK)),
        Case(scaled, _PLAIN),
        Case(masked_out, torch.zeros_like(_PLAIN)),
        Case(
            classifier,
            torch.log_softmax(torch.einsum("nd,sed->sne", X, W3), -1)[:, torch.arange(N), LABELS],
            args=(X, LABELS),
            draws=_THREE,
        ),
        Case(latent_per_point, _SHIFTED, draws=_BOTH),
        Case(latent_per_point_subsampled, _SHIFTED, draws=_BOTH),
        Case(keyword_arguments, _PLAIN, args=(), kwargs={"x": X, "y": Y}),
    )
}
