"""Running means and variances of draws that are not kept."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Moments:
    """The mean and the variance of each site's values over the draws so far (Welford 1962), by chain.

    >>> moments = Moments()
    >>> for value in (1.0, 3.0):
    ...     moments.add({"w": torch.tensor([[value]])})
    >>> moments.mean["w"], moments.variance["w"]
    (tensor([[2.]]), tensor([[2.]]))
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """One more draw of each chain."""
        self.count += 1
        for name, value in values.items():
            mean = self.mean.setdefault(name, torch.zeros_like(value))
            squares = self._squares.setdefault(name, torch.zeros_like(value))
            before = value - mean
            mean += before / self.count
            squares += before * (value - mean)

    @property
    def variance(self) -> dict[str, Tensor]:
        """That of an unbiased estimate; NaN of a single draw."""
        divisor = self.count - 1 if self.count > 1 else float("nan")
        return {name: squares / divisor for name, squares in self._squares.items()}

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes."""
        mean = {f"mean.{name}": value for name, value in self.mean.items()}
        return mean | {f"squares.{name}": value for name, value in self._squares.items()}

    def restore(self, state: Mapping[str, Tensor], count: int) -> None:
        """Go on from a state after so many draws."""
        self.count = count
        self.mean = {n.removeprefix("mean."): v.clone() for n, v in state.items() if n.startswith("mean.")}
        self._squares = {n.removeprefix("squares."): v.clone() for n, v in state.items() if n.startswith("squares.")}
