"""One pass through a model: latent sites answered, the rest written down."""

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.log_density import log_density


class Recording(Messenger):
    """Answers the latent sites with `answer(name)`; keeps priors, observations and learned parameters.

    A trace keeps more, and computes more; this is what a step of the fit loop needs.
    """

    def __init__(self, answer: Callable[[str], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.priors: dict[str, Any] = {}
        self.scales: dict[str, tuple[Any, Any]] = {}
        self.observed: list[Message] = []
        self.parameters: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Ready for the next pass."""
        self.priors.clear()
        self.scales.clear()
        self.observed.clear()
        self.parameters.clear()

    def log_likelihood(self) -> Tensor:
        """The sum over the observed sites, scaled to the whole data by their plates."""
        if not self.observed:
            raise InputError(
                "the model", expected="at least one observed site", got="none", remedy="Hand over the targets: (x, y)"
            )
        total: Any = 0.0
        for msg in self.observed:
            value: Any = msg["value"]
            total = total + log_density(msg["fn"], value, scale=msg["scale"], mask=msg["mask"])
        return total

    def _pyro_sample(self, msg: Message) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None or isinstance(msg["fn"], _Subsample):
            return
        msg["value"], msg["done"] = self.answer(str(msg["name"])), True

    def _pyro_post_sample(self, msg: Message) -> None:
        if isinstance(msg["fn"], _Subsample):
            return
        if not msg["is_observed"]:
            self.priors[str(msg["name"])] = msg["fn"]
            self.scales[str(msg["name"])] = (msg["scale"], msg["mask"])
        elif not (msg["infer"] or {}).get("_deterministic"):
            self.observed.append(msg)

    def _pyro_post_param(self, msg: Message) -> None:
        value: Any = msg["value"]
        self.parameters[str(msg["name"])] = value.unconstrained() if hasattr(value, "unconstrained") else value
