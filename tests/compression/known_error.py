"""A posterior and an error that are known, for the tests of what is chosen by validation."""

import torch
from torch import Tensor

from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.quantisation.widths import Evaluate, Values


def posterior() -> WeightPosterior:
    """Means below 4: a larger one would be too far from the finest small float for the smallest limit of the tests."""
    mean = {"a": torch.randn(40, 10).clamp(-3.9, 3.9), "b": 0.1 * torch.randn(30)}
    return WeightPosterior(mean, {"a": torch.full((40, 10), 0.01), "b": torch.full((30,), 1e-5)})


def none_gone(p: WeightPosterior) -> dict[str, Tensor]:
    return {name: torch.zeros_like(m, dtype=torch.bool) for name, m in p.mean.items()}


def distance(p: WeightPosterior) -> tuple[list[float], Evaluate]:
    """An error that is known: the largest change of a weight; and all that it was asked for."""
    asked: list[float] = []

    def error(values: Values) -> float:
        asked.append(max(float((values[n] - m).abs().max()) for n, m in p.mean.items()))
        return asked[-1]

    return asked, error
