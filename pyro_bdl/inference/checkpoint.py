"""A fit's state on disk: parameters, optimizer state, the place in the data and the random generators' states."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_bdl.compression.random_code.kl_budget import KLBudget
from pyro_bdl.errors import InputError
from pyro_bdl.inference.shrinking import Shrinking
from pyro_bdl.minibatches import Minibatches
from pyro_bdl.state_file import read_state, write_state

FORMAT = "pyro_bdl fit 1"


class Checkpoint:
    """Saves and restores a fit.

    Args:
        path: the file.
        guide: for its sites' layout, if it has one; its parameters are among the parameters.
        parameters: what the optimizer works on, in order.
        optimizer: its state is saved.
        batches: their place is saved.
        shrinking: of a fit whose network shrinks; what was cut is saved.
        budget: of a fit whose KL it drives; its multipliers are saved.
        settings: what else a fit must have in common with that of the file.
    """

    def __init__(
        self,
        path: str | Path,
        guide: Any,
        parameters: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        batches: Minibatches,
        shrinking: Shrinking | None = None,
        budget: KLBudget | None = None,
        *,
        settings: Sequence[str] = (),
    ) -> None:
        self.path, self.optimizer, self.batches, self.shrinking = Path(path), optimizer, batches, shrinking
        self.budget = budget
        self._parameters = parameters
        self.layout = [str(site) for site in getattr(guide, "sites", ())]
        self.layout += [f"{batches.size} data points", f"batches of {batches.batch_size}", type(optimizer).__name__]
        self.layout += [str(shrinking.options)] if shrinking is not None else []
        self.layout += [f"a budget of {len(budget.multipliers)} blocks"] if budget is not None else []
        self.layout += settings

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What the optimizer works on, at present."""
        return self._parameters if self.shrinking is None else self.shrinking.parameters

    def write(self, losses: list[float], kls: list[float], seconds: float) -> None:
        """Replace the file by the present state."""
        tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(self.parameters)}
        state = self.optimizer.state_dict()
        for index, entries in state["state"].items():
            known = {key: value for key, value in entries.items() if value is not None}
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in known.items()}
        place = self.batches.state_dict()
        tensors["random"] = torch.get_rng_state()
        if place["order_state"] is not None:
            tensors["order"] = place["order_state"]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        facts = {
            "format": FORMAT, "layout": self.layout, "losses": losses, "kls": kls, "seconds": seconds,
            "epoch": place["epoch"], "position": place["position"], "groups": state["param_groups"],
        }  # fmt: skip
        if self.shrinking is not None:
            more, facts["shrink"] = self.shrinking.state()
            tensors |= {f"shrink.{name}": tensor for name, tensor in more.items()}
        if self.budget is not None:
            tensors |= {f"budget.{name}": tensor for name, tensor in self.budget.state_dict().items()}
        write_state(self.path, tensors, facts)

    def restore(self) -> tuple[list[float], list[float], float]:
        """The state of the file, if there is one: losses, KLs and seconds so far.

        Raises:
            CorruptFileError: the file is damaged.
            InputError: it is that of another fit: other parameters, data, optimizer or settings.
        """
        if not self.path.exists():
            return [], [], 0.0
        tensors, facts = read(self.path)
        shapes = [list(p.shape) for p in self.parameters]
        found = [list(tensors[f"parameter.{i}"].shape) for i in range(len(shapes)) if f"parameter.{i}" in tensors]
        shrunk = _below("shrink.", tensors)
        if shrunk:
            found = [list(shrunk[f"whole.{i}"].shape) for i in range(len(shapes)) if f"whole.{i}" in shrunk]
        if facts["layout"] != self.layout or found != shapes:
            raise InputError(
                f"the checkpoint {self.path}", expected=f"that of a fit of {self.layout or shapes}",
                got=f"one of {facts['layout'] or found}", remedy="Name another file, or remove it to begin anew",
            )  # fmt: skip
        if self.shrinking is not None:
            self.shrinking.load_state(shrunk, facts["shrink"], self.optimizer)
        if self.budget is not None:
            self.budget.load_state_dict(_below("budget.", tensors))
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"parameter.{i}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
        place = {"epoch": facts["epoch"], "position": facts["position"], "order_state": tensors.get("order")}
        self.batches.load_state_dict(place)
        torch.set_rng_state(tensors["random"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        return facts["losses"], facts["kls"], facts["seconds"]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint, see `read_state`."""
    return read_state(path, what="the checkpoint", kind=FORMAT)
