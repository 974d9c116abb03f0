r"""Dynamic network surgery (Guo, Yao & Chen 2016): pruning that can be undone while training goes on.

The network computes with :math:`W \odot T`, and the loss's gradient there moves all of W, the pruned weights too
(eq. 2), so that a weight that turns out to matter is spliced in again:

.. math:: T \leftarrow \begin{cases} 0 & |w| < a \\ T & a \le |w| < b \\ 1 & |w| \ge b \end{cases}, \qquad
          a = 0.9\, t,\quad b = 1.1\, t,\quad t = \operatorname{mean} |W| + c\, \operatorname{sd} |W|

(eq. 3; t by layer from the trained dense weights, as in the authors' code). After step i the masks are updated with
probability :math:`(1 + \gamma i)^{-1}`, and no more in the last part of training. The sparsest c within the allowed
validation error is taken. Biases are not pruned (the authors prune them, too).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.competitors.outcome import Outcome, strongest
from models.competitors.stored import store
from models.competitors.training import Pair, Training, error, fit_dense, train, weight_names
from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class NetworkSurgery:
    """Settings.

    Attributes:
        dense: training of the full network.
        surgery: training with masks that change; by plain momentum, as Adam's steps of one size would carry pruned
            weights without a gradient to speak of across the threshold.
        strengths: c, ascending, each tried from the dense network until one adds too much validation error.
        gamma: of the update probability.
        settled: the last share of the surgery, in which the masks stay.
        tolerance: validation error that may be added. None: one standard error of it.
    """

    dense: Training
    surgery: Training
    strengths: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
    gamma: float = 1e-4
    settled: float = 0.4
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not self.strengths or list(self.strengths) != sorted(self.strengths):
            raise InputError("strengths", expected="ascending numbers", got=f"{self.strengths}")
        if not 0 <= self.settled <= 1 or self.gamma < 0:
            got = f"settled = {self.settled}, gamma = {self.gamma}"
            raise InputError("the surgery", expected="settled in [0, 1] and gamma >= 0", got=got)


SETTINGS = {
    "digits": NetworkSurgery(
        dense=Training(epochs=100, learning_rate=2e-3, batch_size=64),
        surgery=Training(epochs=150, learning_rate=0.02, batch_size=64, momentum=0.9),
    ),
    "mnist": NetworkSurgery(
        dense=Training(epochs=60, learning_rate=1e-3, batch_size=128),
        surgery=Training(epochs=60, learning_rate=0.02, batch_size=128, momentum=0.9),
    ),
}


@dataclass(frozen=True)
class Operated:
    """What came of one c."""

    net: nn.Module
    error: float
    strength: float
    spliced: int


def network_surgery(
    net: nn.Module,
    training: Pair,
    validation: Pair,
    settings: NetworkSurgery,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Outcome:
    """Prune a network by surgery; arguments, errors and warnings as for `deep_compression`.

    The method does not quantise: its file holds 32-bit floats.

    >>> from models.networks import fully_connected
    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> data = x, (x[:, 0] > 0).long()                                          # three of the inputs say nothing
    >>> dense = Training(epochs=20, learning_rate=0.01, batch_size=50)
    >>> surgery = Training(epochs=20, learning_rate=0.05, batch_size=50, momentum=0.9)
    >>> settings = NetworkSurgery(dense=dense, surgery=surgery, strengths=(0.0, 1.0))
    >>> found = network_surgery(fully_connected([4, 16, 2]), data, data, settings, progress=False)
    >>> found.errors["coded"] < 0.1
    True
    """
    dense = fit_dense(
        net, training, validation, settings.dense, tolerance=settings.tolerance, seed=seed, progress=progress
    )

    def attempt(strength: float) -> Operated:
        operated, spliced = operate(dense.net, training, settings, strength, seed=seed + 1, progress=progress)
        return Operated(operated, error(operated, validation), strength, spliced)

    best = strongest(settings.strengths, attempt, dense.limit, what="threshold c")
    found = store(net, best.net, training[0][:1])
    errors = {"dense": dense.error, "pruned": best.error, "coded": error(found.module, validation)}
    chosen = {"c": best.strength, "spliced": best.spliced}
    return Outcome("DNS", dense.net, found.module, found, errors, chosen)


def operate(
    net: nn.Module, training: Pair, settings: NetworkSurgery, strength: float, *, seed: int, progress: bool
) -> tuple[nn.Module, int]:
    """The network after surgery with one c, pruned weights zero; and how often a weight was spliced in again."""
    result = copy.deepcopy(net).train()
    weights = {name: result.get_parameter(name) for name in weight_names(result)}
    thresholds = {name: threshold(weight, strength) for name, weight in weights.items()}
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    how, spliced = settings.surgery, 0
    last = (1 - settings.settled) * how.epochs * -(-len(training[0]) // how.batch_size)

    def predict(x: Tensor) -> Tensor:
        return functional_call(result, {n: straight_through(w, masks[n]) for n, w in weights.items()}, (x,))

    def update(step: int) -> None:
        nonlocal spliced
        if step <= last and float(torch.rand(())) < 1 / (1 + settings.gamma * step):
            for name, weight in weights.items():
                new = updated(masks[name], weight.detach(), thresholds[name])
                spliced += int((new & ~masks[name]).sum())
                masks[name] = new

    for name, weight in weights.items():
        masks[name] = updated(masks[name], weight.detach(), thresholds[name])
    train(
        result.parameters(), predict, training, how, after_step=update, seed=seed, bar=f"surgery, c = {strength:g}",
        progress=progress,
    )  # fmt: skip
    return with_masks(result, masks).eval(), spliced


def threshold(weight: Tensor, strength: float) -> float:
    """t of a layer, in the weights' units.

    >>> threshold(torch.tensor([1.0, -3.0]), 0.5)
    2.5
    """
    sizes = weight.detach().abs().double()
    return float(sizes.mean() + strength * sizes.std(correction=0))


def updated(mask: Tensor, weight: Tensor, t: float) -> Tensor:
    """Eq. 3: the mask after a look at the weights.

    >>> mask = torch.tensor([True, True, False, False])
    >>> updated(mask, torch.tensor([0.1, 1.0, -1.0, -1.2]), 1.0).tolist()
    [False, True, False, True]
    """
    sizes = weight.abs()
    return (mask & (sizes >= 0.9 * t)) | (sizes >= 1.1 * t)


def straight_through(weight: Tensor, mask: Tensor) -> Tensor:
    """The masked weight, whose gradient reaches all of the weight (eq. 2)."""
    return weight + (weight * mask - weight).detach()


@torch.no_grad()
def with_masks(net: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Zero what is pruned, in place."""
    for name, mask in masks.items():
        net.get_parameter(name).masked_fill_(~mask, 0)
    return net
