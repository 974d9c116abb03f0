"""How the networks of a latent-variable model are called: over any leading dimensions, with checked outputs."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_bdl.data_checks import ObservationCheck, check_finite
from pyro_bdl.data_plate import observation_plate
from pyro_bdl.errors import InputError
from pyro_bdl.latent.random_weights import bayesian_modules
from pyro_bdl.minibatches import Batch
from pyro_bdl.parameters import own_parameter


def as_layers(what: str, networks: nn.Module | Sequence[nn.Module]) -> nn.ModuleList:
    """One network, or a list of them, as a list of modules.

    Raises:
        InputError: something else.
    """
    each = [networks] if isinstance(networks, nn.Module) and not isinstance(networks, nn.ModuleList) else networks
    if not isinstance(each, (list, tuple, nn.ModuleList)) or not all(isinstance(net, nn.Module) for net in each):
        raise InputError(what, expected="a network (torch.nn.Module), or a list of them", got=type(networks).__name__)
    return nn.ModuleList(each)


def run(network: nn.Module, *inputs: Tensor, ranks: Sequence[int]) -> Tensor:
    """The network's outputs over all leading dimensions, such as those of particles or of enumerated classes.

    A network sees one batch dimension, unless it says `broadcasts = True`: its inputs are then (\\*leading, numbers),
    with leading dimensions that may be of size 1, so that what depends on one input only is computed once.

    Args:
        network: takes `inputs` and gives one row of outputs for each of theirs.
        inputs: (\\*leading, \\*event), whose leading shapes broadcast.
        ranks: of each input the rank of its event.

    >>> run(nn.Linear(2, 3), torch.zeros(4, 5, 2), ranks=[1]).shape
    torch.Size([4, 5, 3])
    """
    if getattr(network, "broadcasts", False):
        rows = (value.flatten(-rank) if rank else value for value, rank in zip(inputs, ranks, strict=True))
        return network(*rows)
    leading = [value.shape[: value.dim() - rank] for value, rank in zip(inputs, ranks, strict=True)]
    if all(len(shape) == 1 for shape in leading):
        return network(*inputs)
    batch = torch.broadcast_shapes(*leading)
    events = [value.shape[value.dim() - rank :] for value, rank in zip(inputs, ranks, strict=True)]
    flat = [value.expand(batch + event).reshape(-1, *event) for value, event in zip(inputs, events, strict=True)]
    outputs = network(*flat)
    return outputs.reshape(*batch, *outputs.shape[1:])


class PlainNormal(dist.Normal):
    """A normal through whose draws no gradient passes."""

    has_rsample = False


def normal_of(outputs: Tensor, size: int, what: str, kind: type[dist.Normal] = dist.Normal) -> dist.TorchDistribution:
    """N(mean, diag exp(log-variance)) of `size` numbers, from outputs (\\*batch, 2 size).

    Raises:
        InputError: outputs of another size.
    """
    if outputs.shape[-1] != 2 * size:
        raise InputError(
            what, expected=f"outputs of shape (batch, {2 * size}): means and log-variances of {size} latent numbers",
            got=f"shape {tuple(outputs.shape)}",
        )  # fmt: skip
    mean, log_variance = outputs.chunk(2, -1)
    return kind(mean, (0.5 * log_variance).exp()).to_event(1)


def standard_normal(rows: int, size: int, like: Tensor) -> dist.TorchDistribution:
    """N(0, I) of `size` numbers for each row."""
    zero, one = like.new_zeros(()), like.new_ones(())
    return dist.Normal(zero, one).expand([rows, size]).to_event(1)


def register(network: nn.Module, name: str) -> None:
    """Let the learned parameters of a network be those of the Pyro program; random weights are their module's affair.

    A `pyro.param` statement takes longer than a small layer, so they are made only while a handler is there that wants
    to know of them: a trace (Pyro's bounds look for parameters in theirs), `poutine.lift` and the like. Our own bounds
    take a `Record` instead.
    """
    if not any(_wants_parameters(handler) for handler in _PYRO_STACK):
        return
    random = {id(parameter) for module in bayesian_modules(network) for parameter in module.parameters()}
    for path, parameter in network.named_parameters():
        if id(parameter) not in random:
            own_parameter(f"{name}.{path}", parameter)


def _wants_parameters(handler: Any) -> bool:
    if isinstance(handler, ReplayMessenger):
        return handler.params is not None
    return isinstance(handler, TraceMessenger) or hasattr(handler, "_pyro_param")


def data_plate(rows: int, size: int | None) -> Any:
    """The plate over the data points of a batch.

    Raises:
        InputError: an empty batch, or more rows than there are data points.
    """
    if rows == 0:
        raise InputError("x", expected="at least one row", got="none")
    if size is not None and rows > size:
        raise InputError("x", expected=f"at most {size} rows, the size of the data", got=str(rows))
    return observation_plate("data", rows, size)


def check_numbers(*data: Tensor | None) -> None:
    """Under Pyro's validation, refuse NaN and infinity, for which the encoder, who sees them first, would be blamed.

    Raises:
        InputError: there is one.
    """
    if Distribution._validate_args:
        check_finite(Batch(tuple(tensor for tensor in data if tensor is not None)))


def check_shown(what: str, shown: Tensor | None, rows: int) -> None:
    """Refuse what a classifier is shown unless it has a row for each data point.

    Raises:
        InputError: another number of rows.
    """
    if shown is not None and len(shown) != rows:
        raise InputError(what, expected=f"a row for each of {rows} data points", got=f"{len(shown)}")


def check_labels(y: Tensor, classes: int, rows: int | None = None) -> None:
    """Refuse labels that are not integers in [0, classes), or not one for each row where `rows` says how many.

    Raises:
        InputError: others.
    """
    if rows is not None and y.shape != (rows,):
        raise InputError("labels", expected=f"one for each of the {rows} rows", got=f"shape {tuple(y.shape)}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError("labels", expected=f"integers in [0, {classes})", got=str(y.dtype))
    outside = (y < 0) | (y >= classes)
    if bool(outside.any()):
        raise InputError("labels", expected=f"integers in [0, {classes})", got=f"the label {int(y[outside][0])}")


def observe(site: str, law: Any, value: Tensor) -> Tensor:
    """`pyro.sample` of an observed site; under Pyro's validation a value outside the support is an `InputError`."""
    if not Distribution._validate_args:
        return pyro.sample(site, law, obs=value)
    with ObservationCheck(), pyro.validation_enabled(False):
        return pyro.sample(site, law, obs=value)
