"""What is left of a network goes on being trained, while it is coded or as what it is coded as."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_bdl.errors import InputError, NumericalError
from pyro_bdl.minibatches import Minibatches


@dataclass(frozen=True)
class Retraining:
    r"""How weights adapt to the code that they are given; Adam on

    .. math:: \frac1B \sum_{n \in batch} \ell(f_w(x_n), y_n) + \frac{\lambda}{N} L(w)

    with L the description length of the weights in nats: of integers that of their entropy code
    (`pyro_bdl.compression.quantisation.retrained_integers`), of a draw the KL of what is not drawn yet
    (`pyro_bdl.compression.random_code.retrained_draw`).

    Args:
        data: training inputs and targets. Not the validation data, nor the test set.
        epochs: how often the data are gone through. Default 10.
        learning_rate: of Adam, falling linearly. Default 0.001.
        batch_size: B. Default 128.
        loss: of outputs and targets, averaged over the batch, in nats. Default: the cross-entropy of class scores.
        kl_weight: lambda, as in the fit: 1 is the least description length of weights and labels, less buys accuracy
            with bytes. Default 1. For a draw it is where the multipliers of the budgets begin.
        seed: of the order of the data and of all noise.

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
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise InputError(f"Retraining.{name}", expected="an integer, at least 1", got=repr(count))
        for name in ("learning_rate", "kl_weight"):
            number = getattr(self, name)
            if not (isinstance(number, (int, float)) and 0.0 < number < float("inf")):
                raise InputError(f"Retraining.{name}", expected="a positive number", got=repr(number))


class Steps:
    """The steps of a retraining.

    Args:
        retraining: how.
        parameters: what is trained.
        last_rate: to which share of itself the learning rate falls.

    Attributes:
        points: N, the number of data points.
        total: how many steps there are.
    """

    def __init__(self, retraining: Retraining, parameters: Iterable[Tensor], *, last_rate: float = 0.0) -> None:
        self.points = len(retraining.data[1])
        self._batches = Minibatches(retraining.data, batch_size=min(retraining.batch_size, self.points))
        assert self._batches.batches_per_epoch is not None
        self.total = retraining.epochs * self._batches.batches_per_epoch
        self._optimizer = torch.optim.Adam(list(parameters), lr=retraining.learning_rate)
        self._schedule = torch.optim.lr_scheduler.LinearLR(self._optimizer, 1.0, last_rate, total_iters=self.total)

    def take(self, objective: Callable[[Tensor, Tensor], Tensor]) -> None:
        """One step on the objective, a function of a batch's inputs and targets.

        Raises:
            NumericalError: it is not finite; nothing has moved.
        """
        value = objective(*self._batches.next().args)
        if not bool(torch.isfinite(value)):
            raise NumericalError(f"the loss while retraining is {value.item()}")
        self._optimizer.zero_grad()
        value.backward()
        self._optimizer.step()
        self._schedule.step()
