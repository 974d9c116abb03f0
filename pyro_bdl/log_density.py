"""The log density of a sample site, summed over its elements, with the scale and mask that its plates gave it."""

from typing import Any

from pyro.distributions import Categorical
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.nn.functional import nll_loss


def log_density(fn: Any, value: Tensor, *, scale: Any = 1.0, mask: Any = None) -> Tensor:
    r"""The term of a site in the log joint density, :math:`c \sum_i m_i \log p(v_i)`, a number.

    Args:
        fn: the site's distribution.
        value: its value.
        scale: c, N/B of a data plate.
        mask: m, broadcast over the elements; `None`: all.

    >>> import torch, pyro.distributions as dist
    >>> logits, labels = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    >>> log_density(Categorical(logits=logits), labels, scale=2.0)  # 6 log(1/2)
    tensor(-4.1589)
    """
    number = type(scale) is float
    if type(fn) is Categorical and mask is None and number and fn.logits.dim() == 2 and value.dim() == 1:
        return nll_loss(fn.logits, value.long(), reduction="sum") * -scale  # the same number, in one kernel each way
    term = fn.log_prob(value)
    if mask is None and number:
        return term.sum() * scale
    return scale_and_mask(term, scale, mask).sum()
