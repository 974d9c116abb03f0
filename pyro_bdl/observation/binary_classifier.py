"""Two classes observed through one logit: logistic regression, and its deep kin."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_bdl.data_plate import observation_plate
from pyro_bdl.observation.checks import check_length, one_each


class BinaryClassifier:
    r"""The model :math:`y_n \sim \mathrm{Bernoulli}(1 / (1 + e^{-f(x_n)}))`, in a data plate.

    With a linear f it is logistic regression; `Classifier` is the model of several classes.

    Args:
        network: gives logits of shape (B,) or (B, 1).
        size: N, the number of data points of which a call sees B. Default: what `fit_svi` or a kernel says it is;
            B itself where nobody says.
        plate: the name of the data plate.
        site: the name of the observed site.

    Raises:
        InputError: outputs or labels of another shape, labels that are no integers.

    >>> import torch, pyro_bdl as bdl
    >>> model = BinaryClassifier(bdl.BayesianModule(torch.nn.Linear(4, 1)))
    >>> model(torch.randn(5, 4)).shape
    torch.Size([5])
    """

    def __init__(
        self, network: Callable[..., Tensor], *, size: int | None = None, plate: str = "data", site: str = "y"
    ) -> None:
        self.network, self.size, self.plate, self.site = network, size, plate, site

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The labels: those observed, or a draw."""
        logits = one_each(self.network(x))
        if y is not None:
            check_length("labels", y, logits, integers=True)
            y = y.to(logits.dtype)
        with observation_plate(self.plate, len(x), self.size):
            return pyro.sample(self.site, dist.Bernoulli(logits=logits), obs=y)
