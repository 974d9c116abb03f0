"""Kernels of several chains as one kernel, whose parameters have a first dimension for the chains."""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.sgmcmc.batches import MinibatchesOfChains
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel
from pyro_bdl.sgmcmc.noise import Noise, NoiseOfChains
from pyro_bdl.sgmcmc.probe import Probe
from pyro_bdl.sgmcmc.records import Records

TOLERANCE = 1e-3  # relative: above float32's rounding in a sum over the data


def stacked(kernels: Sequence[StochasticGradientKernel]) -> StochasticGradientKernel:
    """One kernel that does what these do, all at once; they are not to be used again.

    Args:
        kernels: after their `setup`, of the same model and settings.

    Raises:
        UnsupportedModelError: the model does not go through `torch.vmap`, or gives something else there.
    """
    many, first = copy.copy(kernels[0]), kernels[0]
    if first.batches is None and first._subsampled:
        raise UnsupportedModelError(
            "the model", expected="data from the kernel (data=)",
            got=f"the plate {first._subsampled[0]!r}, which draws a batch of its own",
        )  # fmt: skip
    many._chains = [number for k in kernels for number in k._chains]
    many._require_density().chains = many._chains
    many._position = torch.stack([k._position for k in kernels])
    many._carried = _stack([k._carried for k in kernels])
    many._noise = NoiseOfChains([k._noise for k in kernels if isinstance(k._noise, Noise)])
    many._records, many._probe, many._checked_steps = Records((len(kernels),)), Probe(), 0
    if first.batches is not None and first.batches.shuffle:  # else each batch is all data, the same for all
        many._stream = MinibatchesOfChains([k.batches for k in kernels if k.batches is not None])
        pending = torch.stack([k._pending.indices for k in kernels if k._pending and k._pending.indices is not None])
        many._pending = first.batches.gather(pending)
    _require_same(kernels, many)
    many._move(many._require_density(), many._position)
    if first._anchor is not None:
        many._anchor = copy.copy(first._anchor)
        if first._anchor.position.numel():
            many._anchor.move(torch.stack([k._anchor.position for k in kernels if k._anchor is not None]))
    return many


def check_all_data(kernel: StochasticGradientKernel) -> None:
    """Look at all observations once, as one chain by itself does in its first epoch.

    Raises:
        InputError: observed values that the model does not support.
    """
    batches = kernel.batches
    if batches is None or batches.tensors is None or batches.size is None or batches.batch_size is None:
        return
    size, length = batches.size, batches.batch_size
    for start in (*range(0, size - length, length), size - length):
        indices = torch.arange(start, start + length, device=batches.tensors[0].device)
        kernel._require_density()(kernel._position, batches.gather(indices), check=True)


def _require_same(kernels: Sequence[StochasticGradientKernel], many: StochasticGradientKernel) -> None:
    """Compare what the model gives for all chains at once with what it gives for the first and the last."""
    density = many._require_density()
    try:
        # A little off: at a mode the gradient is rounding alone.
        found, gradients = density(_off(many._position), many._pending, refuse=False)
    except (RuntimeError, IndexError, ValueError, NotImplementedError) as error:
        raise UnsupportedModelError(
            "the model", expected="operations that torch.vmap knows", got=str(error).splitlines()[0]
        ) from error
    gradients = gradients.clone()
    for chain in {0, len(kernels) - 1}:
        alone, gradient = density(_off(kernels[chain]._position), kernels[chain]._pending, refuse=False)
        close = torch.allclose(gradients[chain], gradient, rtol=TOLERANCE, atol=TOLERANCE * float(gradient.abs().max()))
        together = float(torch.as_tensor(found)[chain])
        if not math.isclose(together, float(alone), rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            raise _other(f"a log joint density of {together} instead of {alone}")
        if not close:
            off = float((gradients[chain] - gradient).abs().max() / gradient.abs().max())
            raise _other(f"a gradient that is off by {off:.2g} of its largest element")


def _other(got: str) -> UnsupportedModelError:
    return UnsupportedModelError("the model", expected="the same for all chains at once as for each alone", got=got)


def _off(position: Tensor) -> Tensor:
    return position + 0.01 * (1 + position.abs())


def _stack(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
