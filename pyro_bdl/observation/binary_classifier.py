"""Two classes observed through one logit: logistic regression, and its deep kin."""

import pyro.distributions as dist
from torch import Tensor

from pyro_bdl.observation.checks import one_each
from pyro_bdl.observation.observation_model import ObservationModel


class BinaryClassifier(ObservationModel):
    r"""The model :math:`y_n \sim \mathrm{Bernoulli}(1 / (1 + e^{-f(x_n)}))`, in a data plate.

    With a linear f it is logistic regression; `Classifier` is the model of several classes.

    Args:
        network: gives logits of shape (B,) or (B, 1).
        size, plate, site: see `ObservationModel`.

    Raises:
        InputError: outputs or labels of another shape, labels that are no integers.

    >>> import torch, pyro_bdl as bdl
    >>> model = BinaryClassifier(bdl.BayesianModule(torch.nn.Linear(4, 1)))
    >>> model(torch.randn(5, 4)).shape
    torch.Size([5])
    """

    targets, integers = "labels", True

    def law(self, outputs: Tensor) -> dist.Bernoulli:
        """Bernoulli, of these logits."""
        return dist.Bernoulli(logits=one_each(outputs))

    def read(self, y: Tensor, law: dist.Bernoulli) -> Tensor:
        """Labels as the floating-point numbers that the law takes."""
        return super().read(y, law).to(law.logits.dtype)
