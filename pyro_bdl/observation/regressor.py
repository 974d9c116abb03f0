"""Real numbers observed through a network with Gaussian noise."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_bdl.errors import InputError
from pyro_bdl.observation.checks import check_rank, one_each
from pyro_bdl.observation.observation_model import ObservationModel
from pyro_bdl.parameters import own_parameter

Noise = float | str | Distribution


class Regressor(ObservationModel):
    r"""The model :math:`y_n \sim N(f(x_n), \sigma^2)`, in a data plate.

    Args:
        network: gives outputs of shape (B,) or (B, 1), or (B, 2) with heteroscedastic noise.
        noise: the standard deviation :math:`\sigma`. A number: known. `"learned"`: one parameter of this object, fitted
            by maximum likelihood (SVI only, a sampler has no place for it); `noise_scale()` tells it. A distribution of
            one positive number: random, a site of its own; `dist.LogNormal(-1., 1.)`, say. `"heteroscedastic"`: the
            network's second output o gives :math:`\sigma_n = \mathrm{softplus}(o_n) + 10^{-3}`, the floor keeping
            single points from being fitted with infinite density. Default `"learned"`.
        size, plate, site: see `ObservationModel`; the noise is the site `<site>.noise`.

    Raises:
        InputError: noise of another kind, outputs or targets of another shape, integer targets.

    >>> import torch, pyro_bdl as bdl
    >>> model = Regressor(bdl.BayesianModule(torch.nn.Linear(4, 1)), noise=dist.LogNormal(-1.0, 1.0))
    >>> sites = pyro.poutine.trace(model).get_trace(torch.randn(5, 4))
    >>> list(sites.stochastic_nodes)
    ['weight', 'bias', 'y.noise', 'data', 'y']
    """

    targets, integers = "targets", False
    floor = 1e-3

    def __init__(
        self,
        network: Callable[..., Tensor],
        *,
        noise: Noise = "learned",
        size: int | None = None,
        plate: str = "data",
        site: str = "y",
    ) -> None:
        if not _is_noise(noise):
            kinds = 'a positive number, "learned", "heteroscedastic" or a distribution of one positive number'
            raise InputError("noise", expected=kinds, got=repr(noise))
        super().__init__(network, size=size, plate=plate, site=site)
        self.noise = noise
        self._log_scale: nn.Parameter | None = None

    def law(self, outputs: Tensor) -> dist.Normal:
        """Normal, of this mean, and with heteroscedastic noise of this deviation, too."""
        if self.noise != "heteroscedastic":
            mean = one_each(outputs)
            return dist.Normal(mean, self._scale(mean))
        check_rank("the network's output", outputs, 2, "(batch, 2)")
        if outputs.shape[1] != 2:
            raise InputError("the network's output", expected="shape (batch, 2)", got=f"{tuple(outputs.shape)}")
        return dist.Normal(outputs[:, 0], F.softplus(outputs[:, 1]) + self.floor)

    def _scale(self, mean: Tensor) -> Tensor:
        if isinstance(self.noise, Distribution):
            return pyro.sample(f"{self.site}.noise", self.noise)  # type: ignore[arg-type]
        if self.noise == "learned":
            if self._log_scale is None:
                self._log_scale = nn.Parameter(mean.new_zeros(()))
            return own_parameter(f"{self.site}.log_noise", self._log_scale).exp()
        return mean.new_tensor(float(self.noise))

    def noise_scale(self) -> Tensor:
        """The standard deviation of learned noise, 1 before the first call.

        Raises:
            InputError: noise of another kind.
        """
        if self.noise != "learned":
            raise InputError("noise", expected='"learned"', got=repr(self.noise))
        return torch.ones(()) if self._log_scale is None else self._log_scale.exp()


def _is_noise(noise: object) -> bool:
    if isinstance(noise, Distribution):
        numbers = noise.batch_shape + noise.event_shape
        return len(numbers) == 0 and noise.support in (constraints.positive, constraints.nonnegative)
    if isinstance(noise, (int, float)) and not isinstance(noise, bool):
        return 0.0 < noise < math.inf
    return noise in ("learned", "heteroscedastic")
