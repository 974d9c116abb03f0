r"""Integers that are trained as integers: for the loss, and for the length of their code.

`quantise` weighs what a value costs against what the posterior says that a deviation costs, each weight for itself.
Coarse grids move all weights at once, and then the loss itself must say what they cost together:

.. math::
    \frac1B \sum_{n \in batch} \ell(f_{d k}(x_n), y_n) - \frac{\lambda}{N} \sum_i \log p(k_i), \qquad k = round(w / d)

with :math:`p` the frequencies of the parameter's integers as they are, which a step of training takes as given. The
gradient of the loss passes through the rounding as if it were not there (straight-through: Bengio, Leonard & Courville
2013, section 4); between two integers the length of the code is interpolated. As 0 is the most frequent integer,
weights that the loss does not hold go there; those that begin there stay.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from pyro_bdl.compression.codec import Quantised
from pyro_bdl.compression.quantisation.quantising import MOST_LEVEL, nats
from pyro_bdl.compression.retraining import Retraining, Steps


def retrained(
    net: nn.Module, integers: Mapping[str, Quantised], retraining: Retraining, *, progress: bool = False
) -> dict[str, Quantised]:
    """The integers after training, on the same grids; what is 0 stays 0.

    Args:
        net: what the parameters belong to, in evaluation mode; it is not changed.
        integers: of all its parameters.
        retraining: how.
        progress: show a bar.

    Raises:
        NumericalError: a loss that is not finite.
    """
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(retraining.seed)
        trained = {name: _Trained(q, net.get_parameter(name)) for name, q in integers.items()}
        steps = Steps(retraining, [t.values for t in trained.values()])

        def objective(x: Tensor, y: Tensor) -> Tensor:
            outputs = functional_call(net, {name: t.rounded() for name, t in trained.items()}, (x,))
            length = torch.stack([t.length() for t in trained.values()]).sum()
            return retraining.loss(outputs, y) + retraining.kl_weight / steps.points * length

        for _ in tqdm(range(steps.total), desc="retraining", unit="step", disable=not progress):
            steps.take(objective)
    return {name: replace(q, levels=trained[name].levels().to(q.levels)) for name, q in integers.items()}


class _Trained:
    """One parameter whose integers are trained: those that are not 0 at the start."""

    def __init__(self, start: Quantised, like: Tensor) -> None:
        self._step, self._zeros = 2.0**start.exponent, torch.zeros_like(like)
        self._support = start.levels.to(like.device) != 0
        self.values = nn.Parameter(start.value(like)[self._support])

    def rounded(self) -> Tensor:
        """The parameter on its grid, whose gradient is that of the values."""
        error = self._integers() * self._step - self.values.detach()
        return self._zeros.masked_scatter(self._support, self.values + error)

    def length(self) -> Tensor:
        """Of the code, in nats, between two integers as much as is between their lengths."""
        if not self.values.numel():
            return self.values.sum()
        integers = self._integers().long()
        lowest = int(integers.min()) - 1
        counts = torch.bincount(integers - lowest, minlength=int(integers.max()) - lowest + 2)
        if 0 <= -lowest < len(counts):
            counts[-lowest] += self._support.numel() - len(integers)
        costs = nats(counts).to(self.values)
        position = (self.values / self._step - lowest).clamp(0, len(costs) - 1.001)
        below = position.detach().floor()
        index = below.long()
        return (costs[index] + (costs[index + 1] - costs[index]) * (position - below)).sum()

    def levels(self) -> Tensor:
        """The integers, of the parameter's shape."""
        return torch.zeros_like(self._support, dtype=torch.int64).masked_scatter_(
            self._support, self._integers().long()
        )

    def _integers(self) -> Tensor:
        return (self.values.detach() / self._step).round().clamp(-MOST_LEVEL, MOST_LEVEL)
