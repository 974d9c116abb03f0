"""Relative-entropy coding: a random draw of the posterior at about the cost of its KL from the prior."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_bdl.compression.random_code.block_plan import NOTHING, block_kl, index_bits, plan_blocks
from pyro_bdl.compression.random_code.blocks import block_starts, equal_sizes
from pyro_bdl.compression.random_code.code import MAX_BITS, RandomCode, check_seed
from pyro_bdl.compression.random_code.log_ratio import RelativePosterior, log_ratio, prior_scales
from pyro_bdl.compression.random_code.shared_normals import candidate, candidates, choice_uniform, permutation
from pyro_bdl.errors import InputError

Excess = Literal["raise", "warn"]


def encode(
    mean: Any,
    variance: Any,
    prior_scale: Any,
    *,
    seed: int,
    bits: int = 16,
    extra_bits: float = 2.0,
    blocks: int | Sequence[int] | None = None,
    on_excess: Excess = "raise",
) -> RandomCode:
    r"""A code for one draw of the posterior, by minimal random code learning.

    The weights, in a seeded random order, are cut into blocks. Of each, sender and receiver can both draw the same
    candidates :math:`w_0, \dots, w_{K-1}` from the prior, :math:`K = 2^b`. The sender chooses one with probability

    .. math:: \tilde q(k) = \frac{q(w_k) / p(w_k)}{\sum_j q(w_j) / p(w_j)}

    (Havasi, Peharz & Hernandez-Lobato 2019, algorithm 1) and writes its index k in b bits. Over seeds the draw's law
    goes to q as K grows past :math:`e^{KL}`; the bias is small once q has little mass where :math:`\log q/p > \ln K`
    (Chatterjee & Diaconis 2018). The same arguments give the same code.

    Cost: 2^bits normal numbers for each weight, 4 to 7 ns each on one core, and some 30 ns for each candidate: each
    further bit doubles it. 431k weights take 7 s at 12 bits, 40 s at 14 and 2 to 3.5 minutes at 16; 5,000 weights in
    700 blocks 7 s at 16. Memory: 8 bytes times 2^bits, and a few of the weights.

    Args:
        mean, variance: of the factorised posterior N(mu, sigma^2), shape (weights,).
        prior_scale: the deviation s of the prior N(0, s^2): a number, or one a weight (the layer's), as the receiver
            will have it (see `round_scale`). It is taken in float32.
        seed: the shared seed, in [0, 2^64); it is part of the code.
        bits: the most bits of an index, 1 to 24. The default is what a network of half a million weights can afford.
        extra_bits: how many bits an index has at least beyond its block's KL, as far as `bits` allows. The default
            keeps the bias small (see `plan_blocks`); 0 is shortest, 4 nearest to q.
        blocks: None cuts the blocks as makes the code shortest (`plan_blocks`); a number makes so many equal ones, of
            which no sizes are stored (train with a `KLBudget` over them); a sequence gives the sizes, and they
            are stored. Indices get one width, or each its own, stored, if that is shorter.
        on_excess: what to do where a block's KL is above its index's bits: the draw would be a poor one, nearly the
            best of the candidates. "raise", or "warn" and code it so.

    Raises:
        InputError: shapes that differ, numbers that are not finite, a variance or scale that is not positive, options
            outside their ranges, more blocks than weights, a block whose KL is too large (the message names it).

    >>> mean, variance = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.01, 0.04, 1.0])
    >>> code = encode(mean, variance, 1.0, seed=3, bits=12)
    >>> code.bits, len(code.to_bytes())
    ((8,), 6)
    >>> decode(code, 3, 1.0)
    tensor([ 0.3580, -1.1636, -1.7304])
    """
    check_seed(seed)
    _check_options(bits, extra_bits, on_excess)
    q = RelativePosterior.of(mean, variance, prior_scale)
    count = len(q.mean)
    order = permutation(seed, count)
    q = q.take(order)
    kl = q.kl() / math.log(2)
    sizes = _sizes(blocks, count)
    if sizes is None:
        sizes, block_bits = plan_blocks(kl, bits, extra_bits)
    else:
        block_bits = index_bits(block_kl(kl, sizes), bits, extra_bits)
    starts, of_block = block_starts(sizes), block_kl(kl, sizes)
    for block in np.flatnonzero(of_block > np.add(block_bits, NOTHING)):
        tell_excess(int(block), of_block[block], block_bits[block], sizes[block], on_excess)
    if count and not any(block_bits):
        return RandomCode(seed=seed, count=count, sizes=(count,), bits=(0,), indices=(0,))
    indices = tuple(
        choose(q.take(slice(starts[b], starts[b + 1])), seed=seed, block=b, bits=block_bits[b])
        for b in range(len(sizes))
    )
    return RandomCode(seed=seed, count=count, sizes=sizes, bits=block_bits, indices=indices)


def decode(code: RandomCode, count: int, prior_scale: Any) -> Tensor:
    """The draw that `encode` chose, bit for bit on every machine.

    Args:
        code: the code.
        count: how many weights the network has; checked before anything is made.
        prior_scale: as `encode` was given it.

    Returns:
        The weights, shape (count,), float32: multiples of 2^-14 times the scale, rounded once.

    Raises:
        InputError: a code for another number of weights, scales of another shape or not positive and finite.
    """
    if count != code.count:
        raise InputError("the random code", expected=f"{count} weights", got=f"{code.count} weights")
    scale = prior_scales(prior_scale, count)
    z = np.empty(count, dtype=np.float32)
    starts = block_starts(code.sizes)
    for block, (start, size, index) in enumerate(zip(starts, code.sizes, code.indices, strict=False)):
        z[start : start + size] = candidate(code.seed, block, size, index)
    weights = np.empty(count, dtype=np.float32)
    weights[permutation(code.seed, count)] = z
    return torch.from_numpy(weights * scale)


def choose(q: RelativePosterior, *, seed: int, block: int, bits: int) -> int:
    """The index of one block: a candidate drawn with its self-normalised importance weight.

    Args:
        q: the posterior of the block's weights, in the order of coding.
        seed: the shared seed.
        block: the block's number.
        bits: there are 2^bits candidates.
    """
    if bits == 0:
        return 0
    number = 1 << bits
    log_weights = np.empty(number)
    done = 0
    for z in candidates(seed, block, len(q.mean), number):
        log_weights[done : done + len(z)] = log_ratio(q, z)
        done += len(z)
    total = np.exp(log_weights - log_weights.max()).cumsum()
    return int(np.searchsorted(total, choice_uniform(seed, block) * total[-1], side="right"))


def _sizes(blocks: int | Sequence[int] | None, count: int) -> tuple[int, ...] | None:
    if blocks is None:
        return None
    if isinstance(blocks, int | np.integer):
        return equal_sizes(count, int(blocks))
    sizes = tuple(int(size) for size in blocks)
    if sum(sizes) != count or min(sizes, default=1) < 1:
        raise InputError("blocks", expected=f"positive sizes, {count} in all", got=f"{sizes[:8]}, {sum(sizes)} in all")
    return sizes


def _check_options(bits: int, extra_bits: float, on_excess: str) -> None:
    if not isinstance(bits, int) or not 1 <= bits <= MAX_BITS:
        raise InputError("bits", expected=f"an integer from 1 to {MAX_BITS}", got=repr(bits))
    if not 0 <= extra_bits < bits:
        raise InputError("extra_bits", expected=f"a number in [0, {bits})", got=str(extra_bits))
    check_on_excess(on_excess)


def check_on_excess(on_excess: str) -> None:
    """Raise an `InputError` unless this is one of the two choices."""
    if on_excess not in {"raise", "warn"}:
        raise InputError("on_excess", expected="'raise' or 'warn'", got=repr(on_excess))


def tell_excess(block: int, kl: float, bits: int, size: int, on_excess: Excess) -> None:
    """Raise, or warn, that a block's KL (in bits) is above the bits of its index."""
    what = f"the KL of block {block} ({size} weights)"
    remedy = "Train with a smaller KL budget, raise bits, use more blocks, or widen the prior's scale"
    if on_excess == "raise":
        raise InputError(what, expected=f"at most the {bits} bits of its index", got=f"{kl:.1f} bits", remedy=remedy)
    warnings.warn(f"{what} is {kl:.1f} bits, its index has {bits}: a poor draw. {remedy}.", stacklevel=3)
