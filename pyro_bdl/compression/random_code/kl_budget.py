"""The KL of each block of weights held at a budget while training."""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.compression.random_code.blocks import block_ids, equal_sizes
from pyro_bdl.compression.random_code.code import check_seed
from pyro_bdl.errors import InputError, NumericalError

_SMALLEST, _LARGEST = 1e-12, 1e12


class KLBudget:
    r"""A multiplier of the KL for each block, driven until the block's KL is at its budget.

    The loss to train with is :math:`-E_q[\log p(D | w)] + \sum_b \beta_b KL_b`; after each step

    .. math:: \beta_b \leftarrow \beta_b (1 + \epsilon) \text{ if } KL_b > C \text{ else } \beta_b / (1 + \epsilon)

    (Havasi, Peharz & Hernandez-Lobato 2019, algorithm 2). At rest each block's KL is at C within the steps of its
    multiplier, or the multiplier is at its floor, 1e-12, because the data ask for less. Only `update` changes
    the state (`multipliers`).

    Handed to `fit_svi` as its `kl_weight` it does so while it trains: with one block the fit ends at a total of C bits,
    whatever the data, which is the size of the file that the draw then takes. There the blocks are of the numbers that
    have a fixed normal prior, in the guide's order; all other KL has the mean of their multipliers.

    Args:
        blocks: how many blocks share the weights, equally and in a random order; or the block of each weight, integers
            from 0, shape (weights,), from `block_ids`. Default 1.
        bits: the budget C in bits, positive: one number, or one a block. One or two below the index's bits leave
            room for the swing around it.
        rate: epsilon, in (0, 1). A change of e-fold takes 1 / rate updates: keep that longer than the optimiser
            needs to follow. The default suits an update a step over some thousands of steps.
        start: the first multiplier. The paper starts near zero (1e-8), so that training begins as maximum likelihood;
            the default reaches 1 after about 14 / rate updates.
        seed: of the random order, as `encode` has it.

    Raises:
        InputError: ids that are no integers from 0, an empty block, options outside their ranges.

    >>> budget = KLBudget(torch.tensor([0, 0, 1]), bits=2.0, rate=0.5, start=1.0)
    >>> budget.update(torch.tensor([1.0, 1.0, 0.1]))  # nats a weight: block 0 has 2.9 bits, block 1 has 0.1
    tensor([1.5000, 0.6667], dtype=torch.float64)
    >>> budget.per_weight()
    tensor([1.5000, 1.5000, 0.6667], dtype=torch.float64)
    """

    def __init__(
        self,
        blocks: Tensor | int = 1,
        *,
        bits: float | Tensor,
        rate: float = 1e-3,
        start: float = 1e-6,
        seed: int = 0,
    ) -> None:
        check_seed(seed)
        if not 0 < rate < 1:
            raise InputError("rate", expected="a number in (0, 1)", got=str(rate))
        if not _SMALLEST <= start <= _LARGEST:
            raise InputError("start", expected=f"a number in [{_SMALLEST:g}, {_LARGEST:g}]", got=str(start))
        self._ids = _checked(blocks) if isinstance(blocks, Tensor) else None
        number = _number(blocks) if self._ids is None else int(self._ids.max()) + 1
        budget = torch.as_tensor(bits, dtype=torch.float64)
        if budget.dim() and budget.shape != (number,):
            raise InputError("bits", expected=f"a number or shape ({number},)", got=f"{tuple(budget.shape)}")
        if not bool((torch.isfinite(budget) & (budget > 0)).all()):
            raise InputError("bits", expected="positive and finite", got=str(bits))
        self.rate, self.seed = rate, seed
        self.multipliers = torch.full((number,), start, dtype=torch.float64)
        self._budget = (budget * math.log(2)).expand(number)
        if self._ids is not None:
            self.bind(self._ids)

    def bind(self, weights: Tensor) -> None:
        """Say how many weights there are, and where: of a number of blocks the members follow.

        Args:
            weights: a tensor of shape (weights,); its values do not matter.

        Raises:
            InputError: fewer weights than blocks, or another number than the budget was made for or bound to before.
        """
        if self._ids is None:
            self._ids = block_ids(equal_sizes(len(weights), len(self.multipliers)), seed=self.seed)
        if weights.shape != self._ids.shape:
            raise InputError(
                "the KL budget", expected=f"{len(self._ids)} weights, for which it is", got=f"{tuple(weights.shape)}"
            )
        self._ids, self._budget = self._ids.to(weights.device), self._budget.to(weights.device)
        self.multipliers = self.multipliers.to(weights.device)

    def block_kl(self, kl: Tensor) -> Tensor:
        """The sum over each block, in nats: shape (blocks,), float64, differentiable.

        Args:
            kl: of each weight in nats, shape (weights,).

        Raises:
            InputError: another shape.
        """
        ids = self._bound()
        if kl.shape != ids.shape:
            raise InputError("kl", expected=f"shape {tuple(ids.shape)}", got=f"shape {tuple(kl.shape)}")
        return torch.zeros_like(self.multipliers).scatter_add(0, ids, kl.double())

    def update(self, kl: Tensor) -> Tensor:
        """Move the multipliers one step, given the KL of each weight in nats; returns them, shape (blocks,).

        Raises:
            InputError: another shape.
            NumericalError: a block's KL is not finite; nothing has changed.
        """
        block_kl = self.block_kl(kl.detach())
        if not bool(torch.isfinite(block_kl).all()):
            block = int((~torch.isfinite(block_kl)).nonzero()[0])
            raise NumericalError(f"the KL of block {block} is {float(block_kl[block])}")
        factor = torch.where(block_kl > self._budget, 1 + self.rate, 1 / (1 + self.rate))
        self.multipliers = (self.multipliers * factor).clamp(_SMALLEST, _LARGEST)
        return self.multipliers

    def per_weight(self) -> Tensor:
        """The multiplier of each weight's KL, shape (weights,)."""
        return self.multipliers[self._bound()]

    def penalty(self, kl: Tensor) -> Tensor:
        """What to add to the negative log-likelihood: sum_b beta_b KL_b, in nats, differentiable in `kl`."""
        return (self.multipliers * self.block_kl(kl)).sum()

    def state_dict(self) -> dict[str, Any]:
        """The multipliers, for a checkpoint."""
        return {"multipliers": self.multipliers.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: multipliers of another shape, or outside their range.
        """
        multipliers = state.get("multipliers")
        if not isinstance(multipliers, Tensor) or multipliers.shape != self.multipliers.shape:
            raise InputError("multipliers", expected=f"shape {tuple(self.multipliers.shape)}", got=str(multipliers))
        if not bool(((multipliers >= _SMALLEST) & (multipliers <= _LARGEST)).all()):
            raise InputError("multipliers", expected=f"in [{_SMALLEST:g}, {_LARGEST:g}]", got="others")
        self.multipliers = multipliers.to(self.multipliers, copy=True)

    def _bound(self) -> Tensor:
        if self._ids is None:
            raise InputError(
                "the KL budget", expected="one that knows its weights", got="a number of blocks", remedy="Call bind"
            )
        return self._ids


def _number(blocks: Any) -> int:
    if not isinstance(blocks, int) or isinstance(blocks, bool) or blocks < 1:
        raise InputError("blocks", expected="a positive integer, or the block of each weight", got=repr(blocks))
    return blocks


def _checked(ids: Tensor) -> Tensor:
    if ids.dim() != 1 or ids.is_floating_point() or not ids.numel() or bool((ids < 0).any()):
        got = f"{ids.dtype}, shape {tuple(ids.shape)}"
        raise InputError("the block of each weight", expected="integers from 0, shape (weights,)", got=got)
    sizes = torch.bincount(ids.long())
    if bool((sizes == 0).any()):
        raise InputError("the blocks", expected="a weight in each", got=f"none in {int(sizes.argmin())}")
    return ids.long()
