"""Batch normalisation whose running statistics are absorbed by its own weights and biases."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def absorb_statistics(net: nn.Module) -> nn.Module:
    r"""Batch normalisation as the affine map that it is once a network is trained; in place, in evaluation mode.

    .. math:: \gamma' = \gamma / \sqrt{v + \epsilon}, \qquad \beta' = \beta - \gamma' m

    with the running mean m and variance v, which become 0 and :math:`1 - \epsilon`. The outputs stay what they are to
    rounding.

    A variational fit that begins from such a network (left in evaluation mode, as `fit_svi` leaves it) has data points
    that do not meet in a batch, so weights may be drawn for each of them; its posterior mean is a network of the same
    function, where statistics that follow noisy activations would fit neither; and a file codes them in a few bytes.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> x = torch.randn(50, 2)
    >>> for _ in range(9):
    ...     _ = net(x)
    >>> before = net.eval()(x)
    >>> bool(torch.allclose(absorb_statistics(net)(x), before, atol=1e-5)), net[1].running_mean.tolist()
    (True, [0.0, 0.0, 0.0])
    """
    for layer in net.modules():
        if isinstance(layer, _BatchNorm) and layer.affine and layer.track_running_stats:
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.weight.div_((layer.running_var + layer.eps).sqrt())
            layer.bias.sub_(layer.weight * layer.running_mean)
            layer.running_mean.zero_()
            layer.running_var.fill_(1.0 - layer.eps)
    return net.eval()
