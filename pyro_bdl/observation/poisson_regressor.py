"""Counts observed through the logarithm of their rate."""

import pyro.distributions as dist
from torch import Tensor

from pyro_bdl.observation.checks import one_each
from pyro_bdl.observation.observation_model import ObservationModel


class PoissonRegressor(ObservationModel):
    r"""The model :math:`y_n \sim \mathrm{Poisson}(e^{f(x_n)})`, in a data plate.

    With a linear f it is Poisson regression with its canonical (logarithmic) link.

    Args:
        network: gives log rates of shape (B,) or (B, 1).
        size, plate, site: see `ObservationModel`.

    Raises:
        InputError: outputs or counts of another shape, counts that are no integers.

    >>> import torch, pyro_bdl as bdl
    >>> model = PoissonRegressor(bdl.BayesianModule(torch.nn.Linear(4, 1)))
    >>> model(torch.randn(5, 4)).shape
    torch.Size([5])
    """

    targets, integers = "counts", True

    def law(self, outputs: Tensor) -> dist.Poisson:
        """Poisson, of the rates whose logarithms these are."""
        return dist.Poisson(one_each(outputs).exp())

    def read(self, y: Tensor, law: dist.Poisson) -> Tensor:
        """Counts as the floating-point numbers that the law takes."""
        return super().read(y, law).to(law.rate.dtype)
