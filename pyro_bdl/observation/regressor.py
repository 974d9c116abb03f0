"""Real numbers observed through a network with Gaussian noise."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_bdl.errors import InputError
from pyro_bdl.minibatches import data_size
from pyro_bdl.observation.checks import check_length, check_rank

Noise = float | str | Distribution


class Regressor:
    r"""The model :math:`y_n \sim N(f(x_n), \sigma^2)`, in a data plate.

    Args:
        network: gives outputs of shape (B,) or (B, 1), or (B, 2) with heteroscedastic noise.
        noise: the standard deviation :math:`\sigma`. A number: known. `"learned"`: one parameter, fitted by maximum
            likelihood (`pyro.param`; SVI only, a sampler has no place for it). A positive distribution: random, a site
            of its own; `dist.LogNormal(-1., 1.)`, say. `"heteroscedastic"`: the network's second output o gives
            :math:`\sigma_n = \mathrm{softplus}(o_n) + 10^{-3}`, the floor keeping single points from being fitted
            with infinite density. Default `"learned"`.
        size: N, the number of data points of which a call sees B. Default: what `fit_svi` or a kernel says it is;
            B itself where nobody says.
        plate: the name of the data plate.
        site: the name of the observed site; the noise is `<site>.noise`.

    Raises:
        InputError: noise of another kind, outputs or targets of another shape, integer targets.

    >>> import torch, pyro_bdl as bdl
    >>> model = Regressor(bdl.BayesianModule(torch.nn.Linear(4, 1)), noise=dist.LogNormal(-1.0, 1.0))
    >>> sites = pyro.poutine.trace(model).get_trace(torch.randn(5, 4))
    >>> list(sites.stochastic_nodes)
    ['weight', 'bias', 'y.noise', 'data', 'y']
    """

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
        numeric = isinstance(noise, (int, float)) and 0.0 < noise < math.inf
        random = isinstance(noise, Distribution)
        if not (numeric or random or noise in ("learned", "heteroscedastic")):
            raise InputError(
                "noise", expected='a positive number, "learned", "heteroscedastic" or a distribution', got=repr(noise)
            )
        self.network, self.noise, self.size, self.plate, self.site = network, noise, size, plate, site

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The targets: those observed, or a draw."""
        outputs = self.network(x)
        if self.noise == "heteroscedastic":
            check_rank("the network's output", outputs, 2, "(batch, 2)")
            if outputs.shape[1] != 2:
                raise InputError("the network's output", expected="shape (batch, 2)", got=f"{tuple(outputs.shape)}")
            mean, scale = outputs[:, 0], F.softplus(outputs[:, 1]) + self.floor
        else:
            mean = outputs[:, 0] if outputs.dim() == 2 and outputs.shape[1] == 1 else outputs
            check_rank("the network's output", mean, 1, "(batch,) or (batch, 1)")
            scale = self._scale(mean)
        if y is not None:
            check_length("targets", y, mean, integers=False)
        size = data_size(len(x)) if self.size is None else self.size
        with pyro.plate(self.plate, size=size, subsample_size=len(x)):
            return pyro.sample(self.site, dist.Normal(mean, scale), obs=y)

    def _scale(self, mean: Tensor) -> Tensor:
        name = f"{self.site}.noise"
        if isinstance(self.noise, Distribution):
            return pyro.sample(name, self.noise)  # type: ignore[arg-type]
        if self.noise == "learned":
            return pyro.param(name, torch.ones((), dtype=mean.dtype, device=mean.device), constraints.positive)
        return mean.new_tensor(float(self.noise))
