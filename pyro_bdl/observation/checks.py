"""Shapes checked once, at the model's interface."""

from torch import Tensor

from pyro_bdl.errors import InputError


def check_rank(what: str, value: Tensor, rank: int, shape: str) -> None:
    """Refuse another rank or an empty batch."""
    if value.dim() != rank or len(value) == 0:
        raise InputError(what, expected=f"shape {shape} with at least one row", got=f"shape {tuple(value.shape)}")


def check_length(what: str, y: Tensor, outputs: Tensor, *, integers: bool) -> None:
    """Refuse observations that are not one number, of the right kind, for each row of outputs."""
    if y.shape != outputs.shape[:1]:
        raise InputError(what, expected=f"shape {tuple(outputs.shape[:1])}", got=f"shape {tuple(y.shape)}")
    if integers == (y.is_floating_point() or y.is_complex()):
        kind = "integers" if integers else "floating-point numbers"
        raise InputError(what, expected=kind, got=str(y.dtype))
