"""What is known of a random weight within one pass through the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol

from torch import Tensor

_dry_run: ContextVar[bool] = ContextVar("dry_run", default=False)


class Drawer(Protocol):
    """Decides how each use of a deferred draw is drawn: an `Estimator`."""

    def apply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a function of deferred draws."""


class Root:
    """One sample site of a guide whose draw was deferred.

    Attributes:
        name: the site.
        estimator: decides how each use is drawn, and keeps the coverage report.
        uses: how many operations used it in this pass.
        announced: whether the model tells where its passes begin, so that a second use cannot be a new pass.
        how: "local" once it was drawn where it was used, "drawn" once it got one ordinary draw.
    """

    __slots__ = ("_draw", "_value", "announced", "estimator", "how", "name", "uses")

    def __init__(self, name: str, estimator: Drawer, draw: Callable[[], Tensor]) -> None:
        self.name, self.estimator = name, estimator
        self._draw = draw
        self._value: Tensor | None = None
        self.announced = False
        self._forget()

    def begin_pass(self) -> None:
        """Forget the uses of the pass before; an ordinary draw stays what it was."""
        self.announced = True
        self._forget()

    def _forget(self) -> None:
        self.uses = 0
        self.how: Literal["", "local", "drawn"] = ""

    def value(self) -> Tensor:
        """The one ordinary reparameterised draw that all who need a value share."""
        if self._value is None:
            self._value = self._draw()
        return self._value


def begin_pass(value: Tensor) -> Tensor:
    """Tell a deferred draw that a new pass through the network begins; other tensors are returned as they are."""
    for root in getattr(value, "roots", ()):
        root.begin_pass()
    return value


@contextmanager
def dry_run() -> Iterator[None]:
    """A pass that only finds out how weights are used: it must leave no trace in the network's buffers."""
    token = _dry_run.set(True)
    try:
        yield
    finally:
        _dry_run.reset(token)


def is_dry_run() -> bool:
    """Whether this pass is one."""
    return _dry_run.get()
