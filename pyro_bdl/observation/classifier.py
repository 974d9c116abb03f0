"""Classes observed through the logits of a network."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_bdl.data_plate import observation_plate
from pyro_bdl.observation.checks import check_length, check_rank


class Classifier:
    r"""The model :math:`y_n \sim \mathrm{Categorical}(\mathrm{softmax}\, f(x_n))`, in a data plate.

    Written out: `logits = network(x)`, then `pyro.sample("y", dist.Categorical(logits=logits), obs=y)` within
    `pyro.plate("data", size=N, subsample_size=len(x))`. Calling it without labels samples them.

    Args:
        network: gives logits of shape (B, classes); a `BayesianModule`, or any Pyro program.
        size: N, the number of data points of which a call sees B. Default: what `fit_svi` or a kernel says it is;
            B itself where nobody says.
        plate: the name of the data plate.
        site: the name of the observed site.

    Raises:
        InputError: logits that are no matrix, labels of another length, labels that are no integers.

    >>> import torch, pyro_bdl as bdl
    >>> model = Classifier(bdl.BayesianModule(torch.nn.Linear(4, 3)))
    >>> model(torch.randn(5, 4)).shape
    torch.Size([5])
    """

    def __init__(
        self, network: Callable[..., Tensor], *, size: int | None = None, plate: str = "data", site: str = "y"
    ) -> None:
        self.network, self.size, self.plate, self.site = network, size, plate, site

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The labels: those observed, or a draw."""
        logits = self.network(x)
        check_rank("the network's output", logits, 2, "(batch, classes)")
        if y is not None:
            check_length("labels", y, logits, integers=True)
        with observation_plate(self.plate, len(x), self.size):
            return pyro.sample(self.site, dist.Categorical(logits=logits), obs=y)
