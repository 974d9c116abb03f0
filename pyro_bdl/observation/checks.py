"""Shapes and values checked once, at the model's interface."""

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_bdl.errors import InputError


def check_rank(what: str, value: Tensor, rank: int, shape: str) -> None:
    """Refuse another rank or an empty batch."""
    if value.dim() != rank or len(value) == 0:
        raise InputError(what, expected=f"shape {shape} with at least one row", got=f"shape {tuple(value.shape)}")


def one_each(outputs: Tensor) -> Tensor:
    """Outputs of shape (B,) or (B, 1) as (B,)."""
    flat = outputs[:, 0] if outputs.dim() == 2 and outputs.shape[1] == 1 else outputs
    check_rank("the network's output", flat, 1, "(batch,) or (batch, 1)")
    return flat


def check_length(what: str, y: Tensor, rows: torch.Size, *, integers: bool) -> None:
    """Refuse observations that are not one number, of the right kind, for each of the rows (B,)."""
    _check_one_each(what, y, rows)
    if integers == (y.is_floating_point() or y.is_complex()):
        kind = "integers" if integers else "floating-point numbers"
        raise InputError(what, expected=kind, got=str(y.dtype))


def check_times(time: Tensor, outputs: Tensor) -> None:
    """Refuse times that are not positive and finite, one for each row of outputs."""
    check_length("times", time, outputs.shape[:1], integers=False)
    _check_values("times", time, (time > 0) & (time < torch.inf), "positive finite numbers")


def check_events(event: Tensor, outputs: Tensor) -> None:
    """Refuse indicators of events that are not 0 or 1, or False or True, one for each row of outputs."""
    _check_one_each("events", event, outputs.shape[:1])
    _check_values("events", event, (event == 0) | (event == 1), "1 for an event, 0 for a censored time")


def check_observed(time: Tensor | None, event: Tensor | None, outputs: Tensor) -> None:
    """Refuse times and events that cannot be observed of these rows, or one of them without the other."""
    if (time is None) != (event is None):
        raise InputError("times and events", expected="both or neither", got="one of them")
    if time is not None and event is not None:
        check_times(time, outputs)
        check_events(event, outputs)


def check_curve_times(times: Tensor) -> None:
    """Refuse times at which no survival probability can be asked for: negative ones, or no vector of them."""
    check_rank("times", times, 1, "(T,)")
    _check_values("times", times, times >= 0, "numbers from 0 upwards")


def can_look(value: Tensor) -> bool:
    """Whether the numbers are there to be looked at: not where `torch.vmap` or a trace of the operations is at work."""
    return not is_batchedtensor(value) and get_proxy_mode() is None and not torch.jit.is_tracing()


def _check_one_each(what: str, y: Tensor, rows: torch.Size) -> None:
    if y.shape != rows:
        raise InputError(what, expected=f"shape {tuple(rows)}", got=f"shape {tuple(y.shape)}")


def _check_values(what: str, value: Tensor, fine: Tensor, expected: str) -> None:
    if can_look(fine) and not bool(fine.all()):
        row = int((~fine).nonzero()[0])
        raise InputError(what, expected=expected, got=f"{value[row].item()} at row {row}")
