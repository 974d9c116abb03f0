"""Classes observed through the logits of a network."""

import pyro.distributions as dist
from torch import Tensor

from pyro_bdl.observation.checks import check_rank
from pyro_bdl.observation.observation_model import ObservationModel


class Classifier(ObservationModel):
    r"""The model :math:`y_n \sim \mathrm{Categorical}(\mathrm{softmax}\, f(x_n))`, in a data plate.

    Written out: `logits = network(x)`, then `pyro.sample("y", dist.Categorical(logits=logits), obs=y)` within
    `pyro.plate("data", size=N, subsample_size=len(x))`. Calling it without labels samples them.

    Args:
        network: gives logits of shape (B, classes); a `BayesianModule`, or any Pyro program.
        size, plate, site: see `ObservationModel`.

    Raises:
        InputError: logits that are no matrix, labels of another length, labels that are no integers.

    >>> import torch, pyro_bdl as bdl
    >>> model = Classifier(bdl.BayesianModule(torch.nn.Linear(4, 3)))
    >>> model(torch.randn(5, 4)).shape
    torch.Size([5])
    """

    targets, integers = "labels", True

    def law(self, outputs: Tensor) -> dist.Categorical:
        """Categorical, of these logits."""
        check_rank("the network's output", outputs, 2, "(batch, classes)")
        return dist.Categorical(logits=outputs)
