"""The KL of each block of weights held at a budget while training."""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.errors import InputError, NumericalError

_SMALLEST, _LARGEST = 1e-12, 1e12


class KLBudget:
    r"""A multiplier of the KL for each block, driven until the block's KL is at its budget.

    The loss to train with is :math:`-E_q[\log p(D | w)] + \sum_b \beta_b KL_b`; after each step

    .. math:: \beta_b \leftarrow \beta_b (1 + \epsilon) \text{ if } KL_b > C \text{ else } \beta_b / (1 + \epsilon)

    (Havasi, Peharz & Hernandez-Lobato 2019, algorithm 2). At rest each block's KL is at C within the steps of its
    multiplier, or the multiplier is at its floor, 1e-12, because the data ask for less. Only `update` changes
    the state (`multipliers`).

    Args:
        block_ids: the block of each weight, integers from 0, shape (weights,): from `block_ids`.
        bits: the budget C in bits, positive: one number, or one a block. One or two below the index's bits leave
            room for the swing around it.
        rate: epsilon, in (0, 1). A change of e-fold takes 1 / rate updates: keep that longer than the optimiser
            needs to follow. The default suits an update a step over some thousands of steps.
        start: the first multiplier. The paper starts near zero (1e-8), so that training begins as maximum likelihood;
            the default reaches 1 after about 14 / rate updates.

    Raises:
        InputError: ids that are no integers from 0, an empty block, options outside their ranges.

    >>> budget = KLBudget(torch.tensor([0, 0, 1]), bits=2.0, rate=0.5, start=1.0)
    >>> budget.update(torch.tensor([1.0, 1.0, 0.1]))  # nats a weight: block 0 has 2.9 bits, block 1 has 0.1
    tensor([1.5000, 0.6667], dtype=torch.float64)
    >>> budget.per_weight()
    tensor([1.5000, 1.5000, 0.6667], dtype=torch.float64)
    """

    def __init__(self, block_ids: Tensor, *, bits: float | Tensor, rate: float = 1e-3, start: float = 1e-6) -> None:
        if (
            block_ids.dim() != 1
            or block_ids.is_floating_point()
            or not block_ids.numel()
            or bool((block_ids < 0).any())
        ):
            raise InputError(
                "block_ids",
                expected="integers from 0, shape (weights,)",
                got=f"{block_ids.dtype}, shape {tuple(block_ids.shape)}",
            )
        ids = block_ids.long()
        sizes = torch.bincount(ids)
        if bool((sizes == 0).any()):
            raise InputError("block_ids", expected="a weight in each block", got=f"none in {int(sizes.argmin())}")
        budget = torch.as_tensor(bits, dtype=torch.float64, device=ids.device)
        if budget.dim() and budget.shape != sizes.shape:
            raise InputError("bits", expected=f"a number or shape {tuple(sizes.shape)}", got=f"{tuple(budget.shape)}")
        if not bool((torch.isfinite(budget) & (budget > 0)).all()):
            raise InputError("bits", expected="positive and finite", got=str(bits))
        if not 0 < rate < 1:
            raise InputError("rate", expected="a number in (0, 1)", got=str(rate))
        if not _SMALLEST <= start <= _LARGEST:
            raise InputError("start", expected=f"a number in [{_SMALLEST:g}, {_LARGEST:g}]", got=str(start))
        self.rate = rate
        self.multipliers = torch.full(sizes.shape, start, dtype=torch.float64, device=ids.device)
        self._ids, self._budget = ids, (budget * math.log(2)).expand(sizes.shape)

    def block_kl(self, kl: Tensor) -> Tensor:
        """The sum over each block, in nats: shape (blocks,), float64, differentiable.

        Args:
            kl: of each weight in nats, shape (weights,).

        Raises:
            InputError: another shape.
        """
        if kl.shape != self._ids.shape:
            raise InputError("kl", expected=f"shape {tuple(self._ids.shape)}", got=f"shape {tuple(kl.shape)}")
        return torch.zeros_like(self.multipliers).scatter_add(0, self._ids, kl.double())

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
        return self.multipliers[self._ids]

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
