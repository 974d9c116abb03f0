"""Blocks of a draw coded one after another, what is not yet coded trained in between.

A draw of the posterior is worse than its mean: each weight is off by about its deviation. But blocks are coded one
after another, and between two of them the posterior of the others can move to where it makes up for what was drawn
(Havasi, Peharz & Hernandez-Lobato 2019, algorithm 2). How much of the error that takes away depends on the epochs that
are spent. Each step takes one draw of all weights; the KL is kept by a `KLBudget` over equal blocks, as many as the
whole KL needs, which brings each to the bits that its index has for it.
"""

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from pyro_bdl.compression.random_code.block_coder import BlockCoder
from pyro_bdl.compression.random_code.blocks import equal_sizes
from pyro_bdl.compression.random_code.code import RandomCode
from pyro_bdl.compression.random_code.kl_budget import KLBudget
from pyro_bdl.compression.random_code.log_ratio import gaussian_kl_bits
from pyro_bdl.compression.random_code.random_draw import RandomDraw
from pyro_bdl.compression.retraining import Retraining, Steps

LAST_RATE = 0.1  # of the learning rate, as the last blocks adapt, too
WARMUP = 1 / 3  # of the steps, before the first block is coded: the KL must have got to its budget in each


def encode_retrained(
    net: nn.Module,
    mean: Tensor,
    variance: Tensor,
    scale: Tensor,
    names: tuple[str, ...],
    draw: RandomDraw,
    retraining: Retraining,
    *,
    progress: bool,
) -> RandomCode:
    """The code of a draw.

    Args:
        net: what the weights belong to; it is not changed.
        mean, variance, scale: of the posterior and its prior, flat, in the order of `names`.
        names: of the parameters that are drawn.
        draw, retraining: how.
        progress: show a bar.

    Raises:
        NumericalError: a loss that is not finite.
    """
    room = draw.bits - draw.extra
    total_kl = float(gaussian_kl_bits(mean, variance, scale).sum())
    blocks = min(max(math.ceil(total_kl / room), 1), len(mean))
    coder = BlockCoder(equal_sizes(len(mean), blocks), scale, seed=draw.seed, bits=draw.bits, on_excess="warn")
    budget = KLBudget(blocks, bits=room, rate=draw.rate, start=retraining.kl_weight, seed=draw.seed)
    device = next(net.parameters()).device
    scale = scale.to(device)
    budget.bind(scale)
    loc, log_variance = (nn.Parameter(v.detach().float().to(device, copy=True)) for v in (mean, variance.log()))
    shapes = {name: net.get_parameter(name).shape for name in names}

    def step() -> None:
        kl = _kl(loc, log_variance, scale).masked_fill(coder.coded.to(device), 0.0)

        def objective(x: Tensor, y: Tensor) -> Tensor:
            noise = torch.randn_like(loc)
            weights = coder.hold(torch.addcmul(loc, (0.5 * log_variance).exp(), noise))
            parts = weights.split([shape.numel() for shape in shapes.values()])
            values = {name: v.view(shape) for (name, shape), v in zip(shapes.items(), parts, strict=True)}
            return retraining.loss(functional_call(net, values, (x,)), y) + budget.penalty(kl) / steps.points

        steps.take(objective)
        budget.update(kl)

    with (
        torch.random.fork_rng(),
        torch.enable_grad(),
        tqdm(total=blocks, desc="coding", unit="block", disable=not progress) as bar,
    ):
        torch.manual_seed(retraining.seed)
        steps = Steps(retraining, [loc, log_variance], last_rate=LAST_RATE)
        warmup = int(steps.total * WARMUP)
        rest = steps.total - warmup
        for _ in range(warmup):
            step()
        while (block := coder.next_block) is not None:
            for _ in range(rest * block // blocks - rest * max(block - 1, 0) // blocks):
                step()
            coder.code_block(block, loc.detach(), log_variance.detach().exp())
            bar.update()
    return coder.code()


def _kl(loc: Tensor, log_variance: Tensor, scale: Tensor) -> Tensor:
    """Of each weight, nats, differentiable."""
    square = (loc.square() + log_variance.exp()) / scale.square()
    return 0.5 * (square - 1 - log_variance + 2 * scale.log())
