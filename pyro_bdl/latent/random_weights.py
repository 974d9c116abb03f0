"""The weights of Bayesian networks within a latent-variable model."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from pyro import poutine
from torch import Tensor, nn

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.guides import AutoMeanField

Result = TypeVar("Result")


def bayesian_modules(*networks: nn.Module) -> Iterator[BayesianModule]:
    """The networks, and parts of them, whose weights are random."""
    for network in networks:
        yield from (module for module in network.modules() if isinstance(module, BayesianModule))


class RandomWeights(nn.Module):
    """The posterior of all weights that are random in some networks; nothing where none are.

    `compress(module, weights.guide, example_input=z)` takes a `BayesianModule` of them with this posterior. Of several
    whose inputs differ it wants to know which one: `local_reparameterization(weights.guide, model=module)`.

    Args:
        networks: with `BayesianModule`s among them or within them.

    >>> weights = RandomWeights(nn.Sequential(BayesianModule(nn.Linear(2, 1)), nn.Sigmoid()))
    >>> sorted(weights.guide())
    ['bias', 'weight']
    >>> RandomWeights(nn.Linear(2, 1)).guide is None
    True
    >>> import torch, pyro_bdl as bdl
    >>> decoder = BayesianModule(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4)))
    >>> weights, z = RandomWeights(decoder), torch.zeros(1, 2)
    >>> bdl.compress(decoder, weights.guide, example_input=z).module(z).shape
    torch.Size([1, 4])
    """

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self._random = tuple(bayesian_modules(*networks))  # a tuple, so that they are no submodules of this
        self.guide = AutoMeanField(self._sample) if self._random else None

    def forward(self) -> None:
        """Sample them, in a guide."""
        if self.guide is not None:
            self.guide()

    def drawn(self, run: Callable[[], Result]) -> Result:
        """What a function returns when the weights are one draw of their posterior."""
        if self.guide is None:
            return run()
        with poutine.replay(trace=poutine.trace(self.guide).get_trace()):
            return run()

    def _sample(self, *inputs: Tensor) -> None:
        """Sample all weights; with inputs, by running each network on them."""
        for module in self._random:
            if inputs:
                module(*inputs)
            else:
                module.sample()
