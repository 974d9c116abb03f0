"""What the competitors share: a training loop, the error, and how much of it may be added."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from pyro_bdl.compression.validation import standard_error
from pyro_bdl.errors import InputError, NumericalError

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Training:
    """One phase of training.

    Attributes:
        epochs: passes over the data; 0 does nothing.
        learning_rate: the first; it falls linearly to zero.
        batch_size: examples a step.
        momentum: of stochastic gradient descent; None is Adam.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    momentum: float | None = None


def train(
    parameters: Iterable[Tensor],
    predict: Callable[[Tensor], Tensor],
    data: Pair,
    how: Training,
    *,
    penalty: Callable[[], Tensor] | None = None,
    after_step: Callable[[int], None] | None = None,
    seed: int = 0,
    bar: str = "training",
    progress: bool = True,
) -> list[float]:
    """Minimise the mean cross-entropy plus a penalty.

    Args:
        parameters: what is learned, in place.
        predict: logits (batch, classes) of inputs (batch, ...), a function of the parameters.
        data: inputs and labels.
        how: epochs, learning rate, batch size.
        penalty: added to the loss, in nats per data point.
        after_step: called with the number of steps so far.
        seed: of the order of the data and of all noise; the caller's random state is left alone.
        bar: what the progress bar and errors call it.
        progress: show the bar.

    Returns:
        The mean loss of each epoch, in nats.

    Raises:
        NumericalError: a loss that is not finite.
    """
    x, y = data
    learned = list(parameters)
    optimizer: torch.optim.Optimizer
    if how.momentum is None:
        optimizer = torch.optim.Adam(learned, lr=how.learning_rate, fused=True)
    else:
        optimizer = torch.optim.SGD(learned, lr=how.learning_rate, momentum=how.momentum)
    losses, steps = [], 0
    every = how.epochs * -(-len(x) // how.batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in tqdm(range(how.epochs), bar, unit="epoch", disable=not progress):
            total = 0.0
            for rows in torch.randperm(len(x)).split(how.batch_size):
                optimizer.param_groups[0]["lr"] = how.learning_rate * (1 - steps / every)
                optimizer.zero_grad()
                loss = F.cross_entropy(predict(x[rows]), y[rows])
                loss = loss if penalty is None else loss + penalty()
                value = loss.item()
                if not math.isfinite(value):
                    raise NumericalError(f"the loss of {bar} in epoch {epoch + 1}: expected a number, got {value}")
                loss.backward()
                optimizer.step()
                steps += 1
                if after_step is not None:
                    after_step(steps)
                total += value * len(rows)
            losses.append(total / len(x))
    return losses


@torch.no_grad()
def error(net: nn.Module, data: Pair) -> float:
    """The share of wrong classes, in evaluation mode."""
    x, y = data
    was = net.training
    net.eval()
    wrong = sum(int((net(a).argmax(-1) != b).sum()) for a, b in zip(x.split(1000), y.split(1000), strict=True))
    net.train(was)
    return wrong / len(x)


@dataclass(frozen=True)
class Dense:
    """The network to be pruned.

    Attributes:
        net: trained, of full size.
        error: on validation data.
        limit: the validation error that a pruned network may have.
    """

    net: nn.Module
    error: float
    limit: float


def fit_dense(
    net: nn.Module,
    training: Pair,
    validation: Pair,
    how: Training,
    *,
    tolerance: float | None,
    seed: int,
    progress: bool,
) -> Dense:
    """Train a copy of a network.

    Args:
        net: not changed.
        training, validation: inputs and labels.
        how: epochs 0 takes the network as it is.
        tolerance: how much validation error pruning may add. None: one standard error.
        seed, progress: see `train`.

    Raises:
        InputError: no data, inputs without labels, inputs that are not finite, a negative tolerance.
    """
    for what, (x, y) in {"the training data": training, "the validation data": validation}.items():
        if len(x) == 0 or y.shape != (len(x),) or y.is_floating_point():
            got = f"inputs {tuple(x.shape)}, labels {tuple(y.shape)} of {y.dtype}"
            raise InputError(what, expected="inputs (N, ...) and integer labels (N,), N > 0", got=got)
        if not bool(torch.isfinite(x).all()):
            raise InputError(what, expected="finite inputs", got="NaN or infinity")
    if tolerance is not None and not 0 <= tolerance < 1:
        raise InputError("tolerance", expected="a fraction in [0, 1)", got=f"{tolerance}")
    dense = copy.deepcopy(net).train()
    train(dense.parameters(), dense, training, how, seed=seed, bar="dense", progress=progress)
    reached = error(dense, validation)
    allowed = standard_error(reached, len(validation[0])) if tolerance is None else tolerance
    return Dense(dense.eval(), reached, reached + allowed)


def weight_names(net: nn.Module) -> list[str]:
    """The parameters that are pruned one by one: of two or more dimensions. Biases and normalisation are not."""
    return [name for name, parameter in net.named_parameters() if parameter.dim() > 1]
