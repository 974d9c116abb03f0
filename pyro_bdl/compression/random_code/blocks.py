"""Blocks of weights that are coded together: a seeded random order, cut into runs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_bdl.compression.random_code.shared_normals import Floats, Integers, permutation
from pyro_bdl.errors import InputError


def equal_sizes(count: int, number: int) -> tuple[int, ...]:
    """Sizes of `number` blocks that share `count` weights, the larger ones (by one weight) first.

    Sender and receiver both know them: a code stores nothing of these.

    Raises:
        InputError: a negative count, or more blocks than weights, or no block for some weights.

    >>> equal_sizes(7, 3)
    (3, 2, 2)
    """
    if not (1 <= number <= count or number == count == 0):
        raise InputError("the number of blocks", expected=f"1 to {count}, the number of weights", got=str(number))
    if number == 0:
        return ()
    size, larger = divmod(count, number)
    return (size + 1,) * larger + (size,) * (number - larger)


def sizes_by_kl(kl: Floats, budget: float, *, step: int = 1) -> tuple[int, ...]:
    """The longest runs whose KL is at most the budget, from the first weight on.

    A run of one step whose KL is above the budget gets a block of its own.

    Args:
        kl: the KL of each weight in the order of coding, any unit, not negative.
        budget: the most for a block, in the same unit, positive.
        step: all sizes but the last are multiples of it: coarser sizes take fewer bits to store.

    >>> sizes_by_kl(np.array([1.0, 1.0, 3.0, 9.0, 0.0]), 4.0)
    (2, 1, 1, 1)
    """
    ends = np.append(np.arange(step, len(kl), step), len(kl))
    total = np.cumsum(kl)[ends - 1] if len(kl) else kl
    sizes, start, before = [], 0, 0.0
    while start < len(total):
        end = max(start + 1, int(np.searchsorted(total, before + budget, side="right")))
        sizes.append(int(ends[end - 1] - (ends[start - 1] if start else 0)))
        start, before = end, float(total[end - 1])
    return tuple(sizes)


def block_starts(sizes: Sequence[int]) -> Integers:
    """Where each block begins in the order of coding, and where the last one ends: shape (blocks + 1,).

    >>> block_starts((3, 2)).tolist()
    [0, 3, 5]
    """
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]).astype(np.int64)


def block_ids(sizes: Sequence[int], *, seed: int) -> Tensor:
    """The block of each weight, as `encode` with this seed and these sizes has it: what `KLBudget` asks for.

    Args:
        sizes: the weights of each block.
        seed: the shared seed of the code.

    Returns:
        Integers in [0, blocks), shape (sum of the sizes,).

    >>> block_ids(equal_sizes(5, 2), seed=1)
    tensor([0, 1, 0, 0, 1])
    """
    ids = np.empty(sum(sizes), dtype=np.int64)
    ids[permutation(seed, len(ids))] = np.repeat(np.arange(len(sizes)), sizes)
    return torch.from_numpy(ids)
