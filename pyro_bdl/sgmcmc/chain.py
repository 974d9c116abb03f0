"""A chain: where it is, what it has noted, and everything else that decides how it goes on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.minibatches import Batch, Minibatches
from pyro_bdl.sgmcmc.batches import MinibatchesOfChains
from pyro_bdl.sgmcmc.density import Density
from pyro_bdl.sgmcmc.flat import Number, number
from pyro_bdl.sgmcmc.gradients import Anchor
from pyro_bdl.sgmcmc.noise import Noise, NoiseOfChains
from pyro_bdl.sgmcmc.probe import Probe
from pyro_bdl.sgmcmc.records import Record, Records


class Chain:
    """One chain, or many at once, whose tensors have a first dimension for them.

    Its random numbers are seeded from torch's generator.

    Args:
        density: what it samples.
        position: where it begins.
        data: all of them; `None`: the model has data of its own.
        pending: the first batch, taken from there already.
        checked_steps: so many updates see all data once, and look whether the model supports what is observed.

    Attributes:
        position: the flat unconstrained parameters, (parameters,) or (chains, parameters).
        values: the same by site.
        carried: the sampler's own state; what is called "metric" is a preconditioner.
        step, draws: how many updates and how many draws were made, those of the warm-up included.
        step_size: of the last update.
        log_joint: the density where the last update began, as its batch tells it.
        stream, pending: the batches in their order, and the next one, if it was taken already.
        anchor: where the gradient of all data is known, if the estimator has such a point.
        noise, records, probe: where its random numbers come from, what it noted, who looks at its updates.
    """

    def __init__(
        self,
        density: Density,
        position: Tensor,
        *,
        data: Minibatches | None,
        pending: Batch | None,
        checked_steps: int,
    ) -> None:
        self.density, self.data, self.pending, self.checked_steps = density, data, pending, checked_steps
        self.position, self.values = position, density.views(position)
        self.carried: dict[str, Tensor] = {}
        self.step = self.draws = 0
        self.step_size = math.nan
        self.log_joint: Number = math.nan
        self.stream: Minibatches | MinibatchesOfChains | None = data
        self.anchor: Anchor | None = None
        self.noise: Noise | NoiseOfChains = Noise(position)
        self.records, self.probe = Records(), Probe()

    @property
    def metric(self) -> Tensor | None:
        """The preconditioner, if the sampler has one."""
        return self.carried.get("metric")

    def next_batch(self) -> Batch | None:
        """The data of the next update."""
        batch, self.pending = self.pending, None
        return self.stream.next() if batch is None and self.stream is not None else batch

    def batch_ahead(self) -> Batch | None:
        """The data of the next update, which stay its data."""
        self.pending = self.next_batch()
        return self.pending

    def estimate(
        self, position: Tensor, batch: Batch | None, *, check: bool = False, refuse: bool = True
    ) -> tuple[Number, Tensor]:
        """The log joint density and its gradient by a batch, as the gradient estimator has them."""
        if self.anchor is None or check:
            found = self.density(position, batch, check=check, refuse=refuse)
        return found if self.anchor is None else self.anchor(position, batch)

    def move(self, position: Tensor) -> None:
        """Be there."""
        self.position, self.values = position, self.density.views(position)

    def note(self, heat: Number) -> None:
        """Record the last update, and its kinetic temperature."""
        self.records.append(Record(self.step_size, self.log_joint, heat, self.probe.acceptance, self.probe.noise_ratio))

    def constrained(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The values of these sites (`None`: all) in their supports."""
        sites = self.density.target.sites
        return {name: sites[name].constrain(self.values[name]) for name in (sites if names is None else names)}

    def share(self, density: Density) -> None:
        """Take that of another chain of the same model, so that the model is traced only once."""
        self.density = density
        if self.anchor is not None:
            self.anchor.evaluate = density

    # Its state -------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how it goes on, as tensors and as facts that JSON can hold."""
        tensors = {
            "position": self.position,
            "acceptance": torch.as_tensor(self.probe.acceptance, dtype=torch.float64),
            "noise_ratio": torch.as_tensor(self.probe.noise_ratio, dtype=torch.float64),
            "log_joint": torch.as_tensor(self.log_joint, dtype=torch.float64),
        }
        tensors |= {f"carried.{name}": value for name, value in self.carried.items()}
        tensors |= {f"noise.{i}": generator.get_state() for i, generator in enumerate(self.noise.generators)}
        places = self._places()
        tensors |= {f"order.{i}": p["order_state"] for i, p in enumerate(places) if p["order_state"] is not None}
        if self.pending is not None and self.pending.indices is not None:
            tensors["pending"] = self.pending.indices
        if self.anchor is not None:
            tensors["anchor"] = self.anchor.position
        facts = {
            "step": self.step, "calls": self.draws, "look": self.probe.next_look, "step_size": self.step_size,
            "places": [[p["epoch"], p["position"]] for p in places],
        }  # fmt: skip
        return tensors, facts

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from a state of a chain of the same model and settings.

        What follows from the parameters and the data, a gradient of all data, say, is computed anew.
        """
        like = self.position
        self.carried = {name: tensors[f"carried.{name}"].to(old) for name, old in self.carried.items()}
        self.step, self.draws, self.step_size = facts["step"], facts["calls"], facts["step_size"]
        self.log_joint, self.probe.next_look = number(tensors["log_joint"]), facts["look"]
        self.probe.acceptance = number(tensors["acceptance"])
        self.probe.noise_ratio = number(tensors["noise_ratio"])
        for i, generator in enumerate(self.noise.generators):
            generator.set_state(tensors[f"noise.{i}"])
        states = [
            {"epoch": epoch, "position": position, "order_state": tensors.get(f"order.{i}")}
            for i, (epoch, position) in enumerate(facts["places"])
        ]
        if isinstance(self.stream, MinibatchesOfChains):
            self.stream.load_state_dict(states)
        elif self.stream is not None:
            self.stream.load_state_dict(states[0])
        pending = tensors.get("pending")
        self.pending = None if pending is None or self.data is None else self.data.gather(pending.to(like.device))
        self.move(tensors["position"].to(like))
        if self.anchor is not None and tensors["anchor"].numel():
            self.anchor.move(tensors["anchor"].to(like))

    def _places(self) -> list[dict[str, Any]]:
        if isinstance(self.stream, MinibatchesOfChains):
            return self.stream.state_dict()
        return [] if self.stream is None else [self.stream.state_dict()]
