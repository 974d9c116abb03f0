"""Blocks coded one after another, the rest of the network retrained in between."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.compression.random_code.blocks import block_starts
from pyro_bdl.compression.random_code.code import MAX_BITS, RandomCode, check_seed
from pyro_bdl.compression.random_code.log_ratio import RelativePosterior, prior_scales
from pyro_bdl.compression.random_code.relative_entropy import Excess, check_on_excess, choose, tell_excess
from pyro_bdl.compression.random_code.shared_normals import candidate, permutation
from pyro_bdl.errors import InputError


class BlockCoder:
    """Codes a posterior block by block; what is coded is a number from then on, and the rest can adapt to it.

    The second phase of Havasi, Peharz & Hernandez-Lobato 2019, algorithm 2: after each block, some steps of training
    with its weights held. Within a block the draw is random; later blocks make up for it. The loop is

        while (block := coder.next_block) is not None:
            coder.code_block(block, mean, variance)
            ...                           # train; draw the weights, then w = coder.hold(w)

    Args:
        sizes: the weights of each block, as for `encode`.
        prior_scale: the deviation of the prior, a number or one a weight. It does not change from here on.
        seed: the shared seed, in [0, 2^64).
        bits: the bits of each index, 1 to 24: one number, or one a block.
        on_excess: what to do where a block's KL is above its bits, "raise" or "warn", as for `encode`.

    Attributes:
        coded: which weights are coded, bool, shape (weights,).
        values: their values; 0 for the others; float32, shape (weights,).

    Raises:
        InputError: sizes that are not positive, options outside their ranges.

    >>> coder = BlockCoder((2, 1), 1.0, seed=5, bits=10)
    >>> coder.code_block(coder.next_block, torch.zeros(3), torch.full((3,), 0.1))
    >>> coder.coded, coder.next_block
    (tensor([False,  True,  True]), 1)
    >>> coder.hold(torch.full((3,), 9.0))
    tensor([9.0000, 0.3578, 0.0972])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        prior_scale: Any,
        *,
        seed: int,
        bits: int | Sequence[int],
        on_excess: Excess = "raise",
    ) -> None:
        check_seed(seed)
        check_on_excess(on_excess)
        self._on_excess = on_excess
        self._sizes = tuple(int(size) for size in sizes)
        if min(self._sizes, default=1) < 1:
            raise InputError("sizes", expected="positive numbers", got=str(min(self._sizes)))
        self._bits = (bits,) * len(self._sizes) if isinstance(bits, int) else tuple(int(b) for b in bits)
        if len(self._bits) != len(self._sizes) or not all(1 <= b <= MAX_BITS for b in self._bits):
            raise InputError("bits", expected=f"1 to {MAX_BITS}, for each of {len(self._sizes)} blocks", got=str(bits))
        self._count, self._seed = sum(self._sizes), seed
        self._scale = prior_scales(prior_scale, self._count)
        self._starts, self._order = block_starts(self._sizes), permutation(seed, self._count)
        self._indices: list[int | None] = [None] * len(self._sizes)
        self.coded = torch.zeros(self._count, dtype=torch.bool)
        self.values = torch.zeros(self._count)

    @property
    def next_block(self) -> int | None:
        """The first block that is not coded, None when all are. (Any other order will do: it costs no bits.)"""
        return next((b for b, index in enumerate(self._indices) if index is None), None)

    def members(self, block: int) -> Tensor:
        """The weights of a block: positions in the flat vector, shape (size,)."""
        return torch.from_numpy(self._order[self._starts[block] : self._starts[block + 1]])

    def code_block(self, block: int, mean: Any, variance: Any) -> None:
        """Draw the weights of one block from the posterior as it is now, by its index, and hold them.

        Args:
            block: its number.
            mean, variance: of all weights, shape (weights,); only the block's are looked at.

        Raises:
            InputError: a block that is coded or is none, another shape, numbers that `encode` refuses, a KL larger
                than the index's bits; nothing has changed.
        """
        if not 0 <= block < len(self._sizes) or self._indices[block] is not None:
            raise InputError("block", expected=f"one not yet coded, 0 to {len(self._sizes) - 1}", got=str(block))
        members = self.members(block)
        mean, variance = torch.as_tensor(mean), torch.as_tensor(variance)
        for name, tensor in (("mean", mean), ("variance", variance)):
            if tensor.shape != (self._count,):
                raise InputError(name, expected=f"shape ({self._count},)", got=f"shape {tuple(tensor.shape)}")
        scale = self._scale[members.numpy()]
        q = RelativePosterior.of(mean.detach().cpu()[members], variance.detach().cpu()[members], scale)
        kl, bits = float(q.kl().sum()) / math.log(2), self._bits[block]
        if kl > bits:
            tell_excess(block, kl, bits, len(members), self._on_excess)
        index = choose(q, seed=self._seed, block=block, bits=bits)
        self.values[members] = torch.from_numpy(candidate(self._seed, block, len(members), index) * scale)
        self.coded[members] = True
        self._indices[block] = index

    def hold(self, weights: Tensor) -> Tensor:
        """These weights, with the coded ones in place of their draws; no gradient reaches what is coded.

        Args:
            weights: shape (..., weights).
        """
        return torch.where(self.coded.to(weights.device), self.values.to(weights), weights)

    def code(self) -> RandomCode:
        """The code of the whole draw: `decode` gives `values` bit for bit.

        Raises:
            InputError: a block is not coded yet.
        """
        if self.next_block is not None:
            raise InputError("the blocks", expected="all coded", got=f"block {self.next_block} is not")
        indices = tuple(index for index in self._indices if index is not None)
        return RandomCode(seed=self._seed, count=self._count, sizes=self._sizes, bits=self._bits, indices=indices)
