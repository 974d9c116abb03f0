"""Blocks of a draw coded one after another, what is not yet coded trained in between."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from pyro_bdl.compression.random_code.block_coder import BlockCoder
from pyro_bdl.compression.random_code.blocks import equal_sizes
from pyro_bdl.compression.random_code.code import RandomCode
from pyro_bdl.compression.random_code.kl_budget import KLBudget
from pyro_bdl.compression.random_code.log_ratio import gaussian_kl_bits
from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.minibatches import Batch, Minibatches

LEAST_RATE = 0.1
WARMUP = 1 / 3  # of the steps, before the first block is coded: the KL must have got to its budget in each


@dataclass(frozen=True)
class Retraining:
    r"""How the weights that are not yet coded adapt to those that are.

    A draw of the posterior is worse than its mean: each weight is off by about its deviation. But blocks are coded one
    after another, and between two of them the posterior of the others can move to where it makes up for what was drawn
    (Havasi, Peharz & Hernandez-Lobato 2019, algorithm 2). How much of the error that takes away depends on the
    epochs that are spent. Each step takes one draw of all weights, one minibatch, and Adam on

    .. math:: \frac1B \sum_{n \in batch} \ell(f_w(x_n), y_n) + \frac1N \sum_b \beta_b\, KL_b

    with a `KLBudget` over equal blocks, as many as the whole KL needs, that brings each to the bits that its index has
    for it.

    Args:
        data: training inputs and targets.
        epochs: how often the data are gone through, in all; the steps are shared among the blocks. Default 10.
        learning_rate: of Adam; it falls linearly to a tenth over all steps. Default 0.001.
        batch_size: B. Default 128.
        loss: of outputs and targets, averaged over the batch, in nats. Default: the cross-entropy of class scores.
        kl_weight: where the multipliers beta begin: that of the fit. Default 1.
        rate: by how much a multiplier moves a step, see `KLBudget`. Default 0.01: it must follow within some blocks.

    Raises:
        InputError: numbers out of range.

    >>> Retraining((torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)), epochs=2).learning_rate
    0.001
    """

    data: tuple[Tensor, Tensor]
    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 128
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    kl_weight: float = 1.0
    rate: float = 0.01

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise InputError(f"Retraining.{name}", expected="an integer, at least 1", got=repr(count))
        for name in ("learning_rate", "kl_weight"):
            number = getattr(self, name)
            if not (isinstance(number, (int, float)) and 0.0 < number < float("inf")):
                raise InputError(f"Retraining.{name}", expected="a positive number", got=repr(number))


def encode_retrained(
    net: nn.Module,
    mean: Tensor,
    variance: Tensor,
    scale: Tensor,
    names: tuple[str, ...],
    retraining: Retraining,
    *,
    seed: int,
    bits: int,
    extra_bits: float,
    progress: bool,
) -> RandomCode:
    """The code of a draw.

    Args:
        net: what the weights belong to; it is not changed.
        mean, variance, scale: of the posterior and its prior, flat, in the order of `names`.
        names: of the parameters that are drawn.
        retraining: how.
        seed, bits, extra_bits: as for `encode`.
        progress: show a bar.

    Raises:
        NumericalError: a loss that is not finite.
    """
    total_kl = float(gaussian_kl_bits(mean, variance, scale).sum())
    blocks = min(max(math.ceil(total_kl / (bits - extra_bits)), 1), len(mean))
    sizes = equal_sizes(len(mean), blocks)
    coder = BlockCoder(sizes, scale, seed=seed, bits=bits, on_excess="warn")
    budget = KLBudget(blocks, bits=bits - extra_bits, rate=retraining.rate, start=retraining.kl_weight, seed=seed)
    device = next(net.parameters()).device
    scale = scale.to(device)
    budget.bind(scale)
    loc, log_variance = (nn.Parameter(v.detach().float().to(device, copy=True)) for v in (mean, variance.log()))
    optimizer = torch.optim.Adam([loc, log_variance], lr=retraining.learning_rate)
    points = len(retraining.data[1])
    batches = Minibatches(retraining.data, batch_size=min(retraining.batch_size, points))
    assert batches.batches_per_epoch is not None
    shapes = {name: net.get_parameter(name).shape for name in names}
    total = retraining.epochs * batches.batches_per_epoch
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LEAST_RATE, total_iters=total)

    def step(batch: Batch) -> None:
        x, y = batch.args
        noise = torch.randn_like(loc)
        drawn = coder.hold(torch.addcmul(loc, (0.5 * log_variance).exp(), noise))
        parts = drawn.split([shape.numel() for shape in shapes.values()])
        values = {name: v.view(shape) for (name, shape), v in zip(shapes.items(), parts, strict=True)}
        loss = retraining.loss(functional_call(net, values, (x,)), y)
        kl = _kl(loc, log_variance, scale).masked_fill(coder.coded.to(device), 0.0)
        objective = loss + budget.penalty(kl) / points
        if not bool(torch.isfinite(objective)):
            raise NumericalError(f"the loss while retraining is {loss.item()}")
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        schedule.step()
        budget.update(kl)

    with (
        torch.random.fork_rng(),
        torch.enable_grad(),
        tqdm(total=blocks, desc="coding", unit="block", disable=not progress) as bar,
    ):
        torch.manual_seed(seed)
        for _ in range(warmup := int(total * WARMUP)):
            step(batches.next())
        while (block := coder.next_block) is not None:
            for _ in range((total - warmup) * block // blocks - (total - warmup) * max(block - 1, 0) // blocks):
                step(batches.next())
            coder.code_block(block, loc.detach(), log_variance.detach().exp())
            bar.update()
    return coder.code()


def _kl(loc: Tensor, log_variance: Tensor, scale: Tensor) -> Tensor:
    """Of each weight, nats, differentiable."""
    square = (loc.square() + log_variance.exp()) / scale.square()
    return 0.5 * (square - 1 - log_variance + 2 * scale.log())
