"""Kernels of several chains as one kernel, whose parameters have a first dimension for the chains."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.sgmcmc.batches import MinibatchesOfChains
from pyro_bdl.sgmcmc.chain import Chain
from pyro_bdl.sgmcmc.gradients import Anchor
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
    one = kernels[0]
    if one.batches is None and one.subsampled:
        raise UnsupportedModelError(
            "the model", expected="data from the kernel (data=)",
            got=f"the plate {one.subsampled[0]!r}, which draws a batch of its own",
        )  # fmt: skip
    many, chains = copy.copy(one), [kernel.chain for kernel in kernels]
    many.numbers = one.chain.density.chains = [number for kernel in kernels for number in kernel.numbers]
    many.chain = _together(chains)
    _require_same(chains, many.chain)
    many.chain.anchor = _anchor(chains)
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
        kernel.chain.density(kernel.chain.position, batches.gather(indices), check=True)


def _together(chains: Sequence[Chain]) -> Chain:
    """All at once, but for their anchors; each goes on as it would by itself."""
    first = chains[0]
    many = copy.copy(first)
    many.carried = {name: torch.stack([chain.carried[name] for chain in chains]) for name in first.carried}
    many.noise = NoiseOfChains([chain.noise for chain in chains if isinstance(chain.noise, Noise)])
    many.records, many.probe, many.checked_steps = Records((len(chains),)), Probe(), 0
    if first.data is not None and first.data.shuffle:  # else each batch is all data, the same for all
        many.stream = MinibatchesOfChains([chain.data for chain in chains if chain.data is not None])
        indices = [c.pending.indices for c in chains if c.pending and c.pending.indices is not None]
        many.pending = first.data.gather(torch.stack(indices))
    many.move(torch.stack([chain.position for chain in chains]))
    return many


def _anchor(chains: Sequence[Chain]) -> Anchor | None:
    """Where all chains have theirs."""
    anchors = [chain.anchor for chain in chains if chain.anchor is not None]
    if not anchors:
        return None
    many = copy.copy(anchors[0])
    if many.position.numel():
        many.move(torch.stack([anchor.position for anchor in anchors]))
    return many


def _require_same(chains: Sequence[Chain], many: Chain) -> None:
    """Compare what the model gives for all chains at once with what it gives for the first and the last."""
    density = many.density
    try:
        # A little off: at a mode the gradient is rounding alone.
        found, gradients = density(_off(many.position), many.pending, refuse=False)
    except (RuntimeError, IndexError, ValueError, NotImplementedError) as error:
        raise UnsupportedModelError(
            "the model", expected="operations that torch.vmap knows", got=str(error).splitlines()[0]
        ) from error
    gradients = gradients.clone()
    for place in {0, len(chains) - 1}:
        alone, gradient = density(_off(chains[place].position), chains[place].pending, refuse=False)
        close = torch.allclose(gradients[place], gradient, rtol=TOLERANCE, atol=TOLERANCE * float(gradient.abs().max()))
        together = float(torch.as_tensor(found)[place])
        if not math.isclose(together, float(alone), rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            raise _other(f"a log joint density of {together} instead of {alone}")
        if not close:
            off = float((gradients[place] - gradient).abs().max() / gradient.abs().max())
            raise _other(f"a gradient that is off by {off:.2g} of its largest element")


def _other(got: str) -> UnsupportedModelError:
    return UnsupportedModelError("the model", expected="the same for all chains at once as for each alone", got=got)


def _off(position: Tensor) -> Tensor:
    return position + 0.01 * (1 + position.abs())
