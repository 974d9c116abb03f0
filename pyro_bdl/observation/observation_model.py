"""A target for each data point, observed through a network's output."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyro
from torch import Tensor

from pyro_bdl.data_plate import observation_plate
from pyro_bdl.observation.checks import check_length


class ObservationModel(ABC):
    r"""The model :math:`y_n \sim p(y \mid f(x_n))`, in a data plate: a Pyro program of x, and of y if it is observed.

    What p is, each subclass says: `law`, with its `targets` and whether they are `integers`. Written out:
    `outputs = network(x)`, then `pyro.sample("y", p(outputs), obs=y)` within
    `pyro.plate("data", size=N, subsample_size=len(x))`.

    Args:
        network: gives outputs with a row for each of x; a `BayesianModule`, or any Pyro program.
        size: N, the number of data points of which a call sees B. Default: what `fit_svi` or a kernel says it is;
            B itself where nobody says.
        plate: the name of the data plate. Default "data".
        site: the name of the observed site. Default "y".

    Raises:
        InputError: in a call, outputs or targets of another shape, targets of another kind.

    >>> import torch, pyro_bdl as bdl, pyro.distributions as dist
    >>> class Durations(ObservationModel):
    ...     targets, integers = "durations", False
    ...
    ...     def law(self, outputs):
    ...         return dist.Exponential(outputs[:, 0].exp())
    >>> model = Durations(bdl.BayesianModule(torch.nn.Linear(4, 1)))
    >>> model(torch.randn(5, 4)).shape
    torch.Size([5])
    """

    targets: str
    integers: bool

    def __init__(
        self, network: Callable[..., Tensor], *, size: int | None = None, plate: str = "data", site: str = "y"
    ) -> None:
        self.network, self.size, self.plate, self.site = network, size, plate, site

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The targets: those observed, or a draw."""
        law = self.law(self.network(x))
        if y is not None:
            y = self.read(y, law)
        with observation_plate(self.plate, len(x), self.size):
            return pyro.sample(self.site, law, obs=y)

    @abstractmethod
    def law(self, outputs: Tensor) -> Any:
        """p(y | outputs), with batch shape (B,)."""

    def read(self, y: Tensor, law: Any) -> Tensor:
        """Targets as their law takes them.

        Raises:
            InputError: others than one for each row, or of another kind.
        """
        check_length(self.targets, y, law.batch_shape, integers=self.integers)
        return y
