"""What data are refused: observations that their distribution cannot have, numbers that are not finite."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor
from torch.distributions import constraints

from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import Batch


class ObservationCheck(Messenger):
    """Refuses observations outside the support of their site, also where Pyro's own validation is off.

    A Bernoulli site, say, gives the observation 2 a finite log-probability.

    Raises:
        InputError: an observation outside the support, or of a shape that would be broadcast; the message
            names the site.

    >>> import pyro, pyro.distributions as dist
    >>> with pyro.validation_enabled(False), ObservationCheck():
    ...     pyro.sample("y", dist.Bernoulli(0.5), obs=torch.tensor(2.0))
    Traceback (most recent call last):
    ...
    pyro_bdl.errors.InputError: the observations of y: expected values in Boolean(), got 2.0
    """

    def _pyro_post_sample(self, msg: Message) -> None:
        fn: Any = msg["fn"]
        value: Any = msg["value"]
        if not msg["is_observed"] or (msg["infer"] or {}).get("_deterministic") or msg["mask"] is not None:
            return
        shape = fn.shape()
        if torch.broadcast_shapes(value.shape, shape) != shape:
            got = f"shape {tuple(value.shape)}"
            raise InputError(f"the observations of {msg['name']}", expected=f"shape {tuple(shape)}", got=got)
        try:
            support = _of_single_numbers(fn.support)
            inside = support.check(value)
        except (NotImplementedError, AttributeError):
            return  # a distribution that does not say what it can have
        if not bool(inside.all()):
            bad = value[~inside].reshape(-1)[0] if inside.shape == value.shape else value
            got = f"{bad.item()}" if bad.numel() == 1 else f"a tensor of shape {tuple(bad.shape)}"
            raise InputError(f"the observations of {msg['name']}", expected=f"values in {support}", got=got)


def _of_single_numbers(support: Any) -> Any:
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return support


def check_finite(batch: Batch) -> None:
    """Refuse NaN or infinity in a batch.

    Raises:
        InputError: there is one; the message names the tensor and its row.
    """
    for position, tensor in enumerate(batch.args):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            where = (~torch.isfinite(tensor)).nonzero()[0].tolist()
            raise InputError(
                f"tensor {position} of a batch",
                expected="finite numbers",
                got=f"{float(tensor[tuple(where)])} at {where}",
            )


def check_like(batch: Batch, first: Batch) -> None:
    """Refuse a batch that is made otherwise than the first one.

    Raises:
        InputError: another number of tensors, or another dtype or rank of one.
    """
    got, expected = _kinds(batch), _kinds(first)
    if got != expected:
        raise InputError("a batch", expected=f"{expected}, like the first one", got=str(got))


def _kinds(batch: Batch) -> list[str]:
    return [f"{t.dtype} of rank {t.dim()}" if isinstance(t, Tensor) else type(t).__name__ for t in batch.args]
