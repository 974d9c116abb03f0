"""A plain network within a Pyro program: its parameters are learnt, not random."""

from typing import Any

from torch import nn

from pyro_bdl.parameters import own_parameter


class LearnedNetwork(nn.Module):
    """A `torch.nn.Module` whose parameters are `pyro.param` statements, so that `fit_svi` trains them.

    Args:
        net: the network; its parameters' own names are those of the statements.

    >>> import pyro, torch
    >>> program = LearnedNetwork(nn.Linear(2, 1))
    >>> list(pyro.poutine.trace(program, param_only=True).get_trace(torch.zeros(5, 2)).param_nodes)
    ['weight', 'bias']
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own result."""
        for name, parameter in self.net.named_parameters():
            own_parameter(name, parameter)
        return self.net(*args, **kwargs)
