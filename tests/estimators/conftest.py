"""Noise of a known value, so that a draw m + s * noise tells its mean and deviation exactly; fresh random state."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.fresh_state import fresh_state  # noqa: F401


@pytest.fixture
def constant_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`constant_noise(c)`: each standard normal number is c from now on."""

    def set_to(value: float) -> None:
        def randn(*shape: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
            return torch.full(shape, value, dtype=dtype)

        monkeypatch.setattr(torch, "randn", randn)
        monkeypatch.setattr(torch, "randn_like", lambda like, **_: torch.full_like(like, value))

    return set_to
