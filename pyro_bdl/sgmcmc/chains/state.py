"""Everything that decides how a kernel goes on, as tensors and facts, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.sgmcmc.batches import MinibatchesOfChains
from pyro_bdl.sgmcmc.flat import number
from pyro_bdl.sgmcmc.kernel import StochasticGradientKernel


def state_of(kernel: StochasticGradientKernel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Parameters and the sampler's own state, places in the data, random generators, the update's number."""
    assert kernel._noise is not None
    probe = kernel._probe
    tensors = {
        "position": kernel._position,
        "acceptance": torch.as_tensor(probe.acceptance, dtype=torch.float64),
        "noise_ratio": torch.as_tensor(probe.noise_ratio, dtype=torch.float64),
        "log_joint": torch.as_tensor(kernel._log_joint, dtype=torch.float64),
    }
    tensors |= {f"carried.{name}": value for name, value in kernel._carried.items()}
    tensors |= {f"noise.{i}": generator.get_state() for i, generator in enumerate(kernel._noise.generators)}
    places = _places(kernel)
    tensors |= {f"order.{i}": p["order_state"] for i, p in enumerate(places) if p["order_state"] is not None}
    if kernel._pending is not None and kernel._pending.indices is not None:
        tensors["pending"] = kernel._pending.indices
    if kernel._anchor is not None:
        tensors["anchor"] = kernel._anchor.position
    facts = {
        "step": kernel._step, "calls": kernel._calls, "look": probe._next, "step_size": kernel._step_size,
        "places": [[p["epoch"], p["position"]] for p in places],
    }  # fmt: skip
    return tensors, facts


def restore(kernel: StochasticGradientKernel, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Make a kernel that was set up for the same model and settings go on from a state.

    What follows from the parameters and the data, a gradient of all data, say, is computed anew.
    """
    assert kernel._noise is not None
    like = kernel._position
    kernel._carried = {name: tensors[f"carried.{name}"].to(old) for name, old in kernel._carried.items()}
    kernel._step, kernel._calls, kernel._step_size = facts["step"], facts["calls"], facts["step_size"]
    kernel._log_joint = number(tensors["log_joint"])
    probe = kernel._probe
    probe._next = facts["look"]
    probe.acceptance, probe.noise_ratio = number(tensors["acceptance"]), number(tensors["noise_ratio"])
    for i, generator in enumerate(kernel._noise.generators):
        generator.set_state(tensors[f"noise.{i}"])
    states = [
        {"epoch": epoch, "position": position, "order_state": tensors.get(f"order.{i}")}
        for i, (epoch, position) in enumerate(facts["places"])
    ]
    if isinstance(kernel._stream, MinibatchesOfChains):
        kernel._stream.load_state_dict(states)
    elif kernel._stream is not None:
        kernel._stream.load_state_dict(states[0])
    pending = tensors.get("pending")
    kernel._pending = None
    if pending is not None and kernel.batches is not None:
        kernel._pending = kernel.batches.gather(pending.to(like.device))
    kernel._move(kernel._require_density(), tensors["position"].to(like))
    if kernel._anchor is not None and tensors["anchor"].numel():
        kernel._anchor.move(tensors["anchor"].to(like))


def _places(kernel: StochasticGradientKernel) -> list[dict[str, Any]]:
    if isinstance(kernel._stream, MinibatchesOfChains):
        return kernel._stream.state_dict()
    return [] if kernel._stream is None else [kernel._stream.state_dict()]
