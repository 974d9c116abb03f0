"""How weights are cut into blocks and how many bits each index gets: the shortest of a few plans."""

import numpy as np

from pyro_bdl.compression.random_code.blocks import block_starts, equal_sizes, sizes_by_kl
from pyro_bdl.compression.random_code.code import size_steps
from pyro_bdl.compression.random_code.shared_normals import Floats, Integers

NOTHING = 1e-6
"""Bits of KL that count as none."""

Plan = tuple[tuple[int, ...], tuple[int, ...]]
"""The sizes of the blocks, and the bits of each one's index."""


def plan_blocks(kl: Floats, bits: int, extra_bits: float) -> Plan:
    r"""The plan of the shortest code in which each index has `extra_bits` more than its block's KL, rounded up.

    Compared are equal blocks of many numbers (no sizes stored; the widths of the indices are, if they differ), and
    blocks cut at a KL of `bits - extra_bits` with sizes that are multiples of 1, 2, 4 ... (stored).
    Where a single weight has more KL than that, its index lacks the bits; then the plans
    that lack least are compared.

    Args:
        kl: of each weight in the order of coding, bits, not negative.
        bits: the most of an index.
        extra_bits: in [0, bits). What they buy was measured as :math:`E (w - \mu)^2 / \sigma^2`, 1 for a draw of q:
            with 14 weights and 10.3 bits of KL 1.30 at -0.3, 1.14 at 1.7, 1.05 at 3.7 spare bits; with 3 weights and
            7.7 bits of KL 1.95 at 0.3, 1.17 at 2.3, 1.10 at 4.3; with 600 weights and 6.3 bits of KL 1.00 throughout.

    >>> plan_blocks(np.array([3.0, 0.0, 3.0, 0.0, 0.0]), bits=6, extra_bits=2.0)
    ((2, 3), (5, 5))
    """
    count, total = len(kl), float(kl.sum())
    if total < NOTHING:
        return equal_sizes(count, min(count, 1)), (0,) * min(count, 1)
    layouts = [sizes_by_kl(kl, bits - extra_bits, step=1 << shift) for shift in range(count.bit_length())]
    fewest = total / (bits - extra_bits)
    numbers = np.geomspace(min(max(fewest, 1), count), min(8 * fewest + 8, count), 64).astype(int)
    layouts += [equal_sizes(count, int(number)) for number in np.unique(numbers)]
    largest = [max(float(block_kl(kl, sizes).max()) + extra_bits, bits) for sizes in layouts]
    fitting = [sizes for sizes, most in zip(layouts, largest, strict=True) if most <= min(largest) + NOTHING]
    plans = [(sizes, index_bits(block_kl(kl, sizes), bits, extra_bits)) for sizes in fitting]
    return min(plans, key=_length)


def index_bits(of_block: Floats, bits: int, extra_bits: float) -> tuple[int, ...]:
    """For each block ceil(KL + extra) up to `bits`, none for no KL; or the largest of these for all, if shorter."""
    needed = np.where(of_block < NOTHING, 0, np.minimum(np.ceil(of_block + extra_bits), bits)).astype(np.int64)
    common = np.full_like(needed, needed.max(initial=0))
    sizes = (1,) * len(needed)
    shorter = min(common, needed, key=lambda b: _length((sizes, tuple(b.tolist()))))
    return tuple(shorter.tolist())


def block_kl(kl: Floats, sizes: tuple[int, ...]) -> Floats:
    """The sum over each block, shape (blocks,)."""
    return np.add.reduceat(kl, block_starts(sizes)[:-1]) if sizes else np.zeros(0)


def _length(plan: Plan) -> int:
    """The bits of a code, without its header."""
    sizes, bits = (np.array(numbers, dtype=np.int64) for numbers in plan)
    if plan[0] == equal_sizes(int(sizes.sum()), len(sizes)):
        return int(bits.sum()) + _stored(bits)
    _, _, steps = size_steps(plan[0][:-1])
    return int(bits.sum()) + _stored(bits) + _stored(np.array([0, *steps]))


def _stored(values: Integers) -> int:
    """The bits of Rice's code for the excess over the smallest; none if all are equal."""
    excess = values - values.min(initial=values.max(initial=0))
    return min(int((excess >> k).sum()) + (k + 1) * len(values) for k in range(25)) if excess.any() else 0
