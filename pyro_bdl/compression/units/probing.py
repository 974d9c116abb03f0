"""Whether a group of units can be cut out of a network: tried on a copy with random weights."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyro_bdl.compression.units.cutting import cut, is_linear, zero
from pyro_bdl.compression.units.unit_groups import Role, UnitGroup
from pyro_bdl.errors import InputError

OUTPUT = "its units are the network's output"
_READING: tuple[Role, ...] = ("consumer",)


@dataclass(frozen=True)
class Probe:
    """A copy of a network with random weights and inputs, in evaluation mode, on the CPU.

    Attributes:
        network, inputs: the copy and its positional arguments; in float64 if the network runs in it.
        tolerance: largest difference, relative to the largest output, that rounding explains.
        order: names of the layers that were called, with their rank.
        reads: by name of a linear layer, what it was handed at each call.
        idle: weights that make no difference to the outputs, of which a trial would tell nothing.
    """

    network: nn.Module
    inputs: tuple[Any, ...]
    tolerance: float
    order: Mapping[str, int]
    reads: Mapping[str, Sequence[Tensor]]
    idle: Collection[str]

    @staticmethod
    def of(module: nn.Module, example_input: Any) -> "Probe":
        """The probe of a network.

        Raises:
            InputError: the network cannot be called with this example.
        """
        inputs = positional(example_input)
        failure: Exception | None = None
        for dtype, tolerance in ((torch.float64, 1e-9), (None, 1e-3)):
            network = copy.deepcopy(module).cpu().to(dtype=dtype).eval().requires_grad_(False)
            randomised = tuple(_random_like(x, dtype) if isinstance(x, Tensor) else x for x in inputs)
            try:
                idle = _randomise(network, randomised)
                order, reads = _observe(network, randomised)
            except Exception as error:  # what a network's own code raises is not known
                failure = error
            else:
                return Probe(network, randomised, tolerance, order, reads, idle)
        raise InputError(
            "the example input",
            expected="a tensor, or a tuple of arguments, that the network can be called with",
            got=f"{type(failure).__name__}: {failure}",
        ) from failure

    def outputs(self, network: nn.Module, inputs: tuple[Any, ...] | None = None) -> list[Tensor]:
        """All tensors that a version of the network returns."""
        return _call(network, self.inputs if inputs is None else inputs)

    def zeroed(self, groups: Collection[UnitGroup], masks: Mapping[str, Tensor]) -> nn.Module:
        """The network with zeros in the columns that read the units that are not kept."""
        own = {member.name for group in groups for member in group.of("consumer")}
        return zero(self._copy(own=own), groups, masks, roles=_READING)

    def cut(self, groups: Collection[UnitGroup], masks: Mapping[str, Tensor]) -> nn.Module:
        """The network without the units that are not kept."""
        return cut(self._copy(), groups, masks)

    def _copy(self, *, own: Collection[str] = ()) -> nn.Module:
        """A copy that shares all tensors but these with the probe's network."""
        tensors = [*self.network.named_parameters(), *self.network.named_buffers()]
        return copy.deepcopy(self.network, {id(tensor): tensor for name, tensor in tensors if name not in own})


def agrees(probe: Probe, groups: Sequence[UnitGroup], masks: Mapping[str, Tensor]) -> str | None:
    """None if the network without units equals the one that does not read them; else what happens."""
    expected = probe.outputs(probe.zeroed(groups, masks))
    try:
        got = probe.outputs(probe.cut(groups, masks))
    except Exception as error:
        return f"without some of its units the network fails ({str(error).splitlines()[0] if str(error) else error!r})"
    if [x.shape for x in expected] != [x.shape for x in got]:
        return OUTPUT
    return None if same(expected, got, tolerance=probe.tolerance) else "its units act on the output by other ways too"


def same(expected: Sequence[Tensor], got: Sequence[Tensor], *, tolerance: float) -> bool:
    """Whether these are the same finite numbers, to a tolerance relative to the largest."""
    if [x.shape for x in expected] != [x.shape for x in got]:
        return False
    return all(
        x.numel() == 0 or bool((x - y).abs().max() <= tolerance * x.abs().max().clamp(min=1e-6))
        for x, y in zip(expected, got, strict=True)
    )


def positional(example_input: Any) -> tuple[Any, ...]:
    """An example input as a tuple of arguments."""
    return tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)


def random_mask(size: int, *, seed: int) -> Tensor:
    """A mask that keeps a random half of two or more units, never all and never none."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(size, dtype=torch.bool)
    mask[order[: max(1, size // 2)]] = False
    return mask


def _call(network: nn.Module, inputs: tuple[Any, ...], *, gradients: bool = False) -> list[Tensor]:
    """The tensors of floats that a network returns; random numbers that it draws are the same at each call."""
    with torch.set_grad_enabled(gradients), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return [x for x in tree_leaves(network(*inputs)) if isinstance(x, Tensor) and x.is_floating_point()]


def _observe(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[dict[str, int], dict[str, list[Tensor]]]:
    order: dict[str, int] = {}
    reads: dict[str, list[Tensor]] = {}

    def watch(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            order.setdefault(name, len(order))
            if is_linear(layer) and args:
                reads.setdefault(name, []).append(args[0])

        return layer.register_forward_pre_hook(hook)

    handles = [watch(name, layer) for name, layer in network.named_modules()]
    try:
        _call(network, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return order, reads


def _random_like(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    if not x.is_floating_point():
        return x.cpu()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise.to(dtype or x.dtype)


def _randomise(network: nn.Module, inputs: tuple[Any, ...], *, attempts: int = 5) -> list[str]:
    """Random parameters and running statistics, so that no unit is dead or equal to another; what is idle all the same.

    Units behind a rectifier may be off for these inputs: then other numbers are tried.
    """
    found = []
    for seed in range(attempts):
        _draw(network, seed)
        found.append(_idle(network, inputs))
        if not found[-1]:
            return []
    best = min(range(attempts), key=lambda seed: len(found[seed]))
    _draw(network, best)
    return found[best]


@torch.no_grad()
def _draw(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        scale = max(1, parameter[0].numel()) ** -0.5 if parameter.dim() > 1 else 1.0
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    for name, buffer in network.named_buffers():
        noise = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            buffer.copy_(0.5 + noise)
        elif name.endswith("running_mean"):
            buffer.copy_(noise - 0.5)


def _idle(network: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """The weights of which the outputs have no gradient."""
    weights = {name: p for name, p in network.named_parameters() if p.dim() > 1}
    network.requires_grad_(True)
    try:
        outputs = [x for x in _call(network, inputs, gradients=True) if x.requires_grad]
        if not outputs or not weights:
            return list(weights)
        generator = torch.Generator().manual_seed(0)
        noise = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in outputs]
        gradients = torch.autograd.grad(outputs, list(weights.values()), noise, allow_unused=True)
    finally:
        network.requires_grad_(False)
    return [name for name, g in zip(weights, gradients, strict=True) if g is None or not bool((g != 0).any())]
