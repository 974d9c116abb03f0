"""What draws are usually worth, which a score-function gradient takes off to vary less."""

import torch
from torch import Tensor, nn


class RunningAverage(nn.Module):
    r"""The exponentially weighted average :math:`a \leftarrow 0.9\, a + 0.1\, \bar c` of all costs c before.

    One number for all data points, so that batches may differ in size. Pyro's ELBO fits a baseline b to the costs by
    the gradient of :math:`\sum_n (c_n - b_n)^2`, from which the average learns what they were. It is a parameter, not a
    buffer, so that a checkpoint holds it; no gradient reaches it and no optimizer moves it.

    >>> baseline = RunningAverage()
    >>> (torch.tensor([3.0, 5.0]) - baseline(torch.zeros(2, 7))).square().sum().backward()
    >>> baseline(torch.zeros(3, 7))
    tensor([0.4000, 0.4000, 0.4000], requires_grad=True)
    """

    decay = 0.9

    def __init__(self) -> None:
        super().__init__()
        self.average = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """The average for each row of x (B, \\*any)."""
        value = self.average.detach().expand(len(x)).clone().requires_grad_()
        if torch.is_grad_enabled():
            value.register_hook(self._learn)
        return value

    @torch.no_grad()
    def _learn(self, gradient: Tensor) -> None:
        """From the gradient 2 (b - c)."""
        self.average.sub_((1 - self.decay) * gradient.mean() / 2)
