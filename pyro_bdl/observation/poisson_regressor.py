"""Counts observed through the logarithm of their rate."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_bdl.data_plate import observation_plate
from pyro_bdl.observation.checks import check_length, one_each


class PoissonRegressor:
    r"""The model :math:`y_n \sim \mathrm{Poisson}(e^{f(x_n)})`, in a data plate.

    With a linear f it is Poisson regression with its canonical (logarithmic) link.

    Args:
        network: gives log rates of shape (B,) or (B, 1).
        size: N, the number of data points of which a call sees B. Default: what `fit_svi` or a kernel says it is;
            B itself where nobody says.
        plate: the name of the data plate.
        site: the name of the observed site.

    Raises:
        InputError: outputs or counts of another shape, counts that are no integers.

    >>> import torch, pyro_bdl as bdl
    >>> model = PoissonRegressor(bdl.BayesianModule(torch.nn.Linear(4, 1)))
    >>> model(torch.randn(5, 4)).shape
    torch.Size([5])
    """

    def __init__(
        self, network: Callable[..., Tensor], *, size: int | None = None, plate: str = "data", site: str = "y"
    ) -> None:
        self.network, self.size, self.plate, self.site = network, size, plate, site

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The counts: those observed, or a draw."""
        log_rate = one_each(self.network(x))
        if y is not None:
            check_length("counts", y, log_rate, integers=True)
            y = y.to(log_rate.dtype)
        with observation_plate(self.plate, len(x), self.size):
            return pyro.sample(self.site, dist.Poisson(log_rate.exp()), obs=y)
