"""What a decoder's outputs say about an observation: one law for each of its numbers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_bdl.errors import InputError


class Likelihood(ABC):
    r"""The law :math:`p(x \mid o) = \prod_d p(x_d \mid o_d)` of an observation given the outputs o of a decoder.

    For each number of x a decoder puts out `numbers` of its own. A row of its outputs may have any shape that holds
    them, in the order (`numbers`, \*shape of x): a dense decoder of images of shape (1, 28, 28) ends in `numbers` 784
    units, a convolutional one in `numbers` channels.
    """

    numbers: int = 1

    @abstractmethod
    def law(self, outputs: Tensor, event_dim: int) -> dist.TorchDistribution:
        """The distribution of x, from outputs (\\*batch, numbers, \\*shape of x); `event_dim` is the rank of x."""

    def mean(self, outputs: Tensor, batch_rank: int) -> Tensor:
        """The mean of x, from outputs with `batch_rank` leading dimensions; in their shape, but for `numbers`.

        Raises:
            InputError: outputs whose first dimension is no multiple of `numbers`.
        """
        batch, (first, *rest) = outputs.shape[:batch_rank], outputs.shape[batch_rank:]
        if first % self.numbers:
            raise InputError(
                "the decoder's output", expected=f"a multiple of {self.numbers} units (or channels)", got=str(first)
            )
        shape = (first // self.numbers, *rest)
        return self.law(outputs.reshape(*batch, self.numbers, *shape), len(shape)).mean

    def __call__(self, outputs: Tensor, shape: Sequence[int], batch_rank: int = 1) -> dist.TorchDistribution:
        """The distribution of observations of this shape, from outputs with `batch_rank` leading dimensions.

        Raises:
            InputError: rows of another number of outputs than `numbers` times that of x.
        """
        batch, row = outputs.shape[:batch_rank], outputs.shape[batch_rank:]
        size = self.numbers * math.prod(shape)
        if math.prod(row) != size:
            raise InputError(
                "the decoder's output", expected=f"{size} numbers a row: {self.numbers} for each of x, whose shape "
                f"is {tuple(shape)}", got=f"rows of shape {tuple(row)}",
            )  # fmt: skip
        return self.law(outputs.reshape(*batch, self.numbers, *shape), len(shape))


class Bernoulli(Likelihood):
    r"""Black and white: :math:`x_d \sim \mathrm{Bernoulli}(1 / (1 + e^{-o_d}))`, for x in {0, 1}.

    >>> import torch
    >>> Bernoulli()(torch.zeros(2, 3), (3,)).log_prob(torch.ones(2, 3))  # 3 log(1/2)
    tensor([-2.0794, -2.0794])
    """

    def law(self, outputs: Tensor, event_dim: int) -> dist.TorchDistribution:
        """The distribution of x."""
        return _Bits(dist.Bernoulli(logits=outputs.squeeze(-event_dim - 1)), event_dim)


class _Bits(dist.Independent):
    """Bernoulli numbers whose log-probabilities get their sign after the sum, which saves two passes over them."""

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of each vector or image."""
        law: Any = self.base_dist
        if law._validate_args:
            law._validate_sample(value)
        logits, x = torch.broadcast_tensors(law.logits, value)
        cost = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        rank = self.reinterpreted_batch_ndims
        return -cost.flatten(cost.dim() - rank).sum(-1) if rank else -cost


class ContinuousBernoulli(Likelihood):
    r"""Grey values: :math:`p(x_d) = C(\lambda_d)\, \lambda_d^{x_d} (1 - \lambda_d)^{1 - x_d}`, for x in [0, 1].

    :math:`\lambda_d = 1 / (1 + e^{-o_d})`; C makes it a density (Loaiza-Ganem & Cunningham 2019, equation 5), which the
    Bernoulli mass is not on grey values.

    >>> import torch
    >>> ContinuousBernoulli()(torch.zeros(2, 3), (3,)).log_prob(torch.full((2, 3), 0.3)).exp()  # uniform
    tensor([1., 1.])
    """

    def law(self, outputs: Tensor, event_dim: int) -> dist.TorchDistribution:
        """The distribution of x."""
        return _ContinuousBernoulli(logits=outputs.squeeze(-event_dim - 1)).to_event(event_dim)


class _ContinuousBernoulli(dist.ContinuousBernoulli):
    """With the normaliser and the mean of any logit o; torch's cut the probability near 0 and 1, and so |o| at 16."""

    def log_prob(self, value: Tensor) -> Tensor:
        r"""x o - softplus(o) + log C, where :math:`C = o / \tanh(o / 2)`."""
        if self._validate_args:
            self._validate_sample(value)
        size = self.logits.abs().clamp_min(torch.finfo(self.logits.dtype).eps ** 0.5)  # C is 2 at o = 0
        log_c = (size / (0.5 * size).tanh()).log()
        return value * self.logits - F.softplus(self.logits) + log_c

    @property
    def mean(self) -> Tensor:
        r""":math:`(1 - e^{-o})^{-1} - 1/o`, and near o = 0 the first terms of its series."""
        near = self.logits.abs() < 0.05
        o = self.logits.where(~near, 1.0)
        series = 0.5 + self.logits / 12 - self.logits.pow(3) / 720
        return series.where(near, -1 / torch.expm1(-o) - 1 / o)


class Gaussian(Likelihood):
    r"""Real numbers: :math:`x_d \sim N(o_d, \sigma^2)`.

    Args:
        scale: the standard deviation. A number: known, in the units of x. `"learned"`: the decoder's second half of
            outputs gives one for each number of x, :math:`\sigma_d = \mathrm{softplus}(o'_d) + 10^{-3}`; the floor
            keeps constant numbers (a pixel that is always black) from an infinite density. Default `"learned"`.

    Raises:
        InputError: a scale that is neither.

    >>> import torch
    >>> Gaussian(1.0)(torch.zeros(2, 3), (3,)).log_prob(torch.zeros(2, 3))  # -3/2 log(2 pi)
    tensor([-2.7568, -2.7568])
    >>> Gaussian().numbers
    2
    """

    floor = 1e-3

    def __init__(self, scale: float | str = "learned") -> None:
        number = isinstance(scale, (int, float)) and not isinstance(scale, bool) and 0 < scale < math.inf
        if scale != "learned" and not number:
            raise InputError("scale", expected='a positive number or "learned"', got=repr(scale))
        self.scale, self.numbers = scale, 2 if scale == "learned" else 1

    def law(self, outputs: Tensor, event_dim: int) -> dist.TorchDistribution:
        """The distribution of x."""
        if self.numbers == 1:
            mean = outputs.squeeze(-event_dim - 1)
            return dist.Normal(mean, mean.new_tensor(float(self.scale))).to_event(event_dim)
        mean, raw = outputs.unbind(-event_dim - 1)
        return dist.Normal(mean, F.softplus(raw) + self.floor).to_event(event_dim)


class Categorical(Likelihood):
    r"""One of C classes: :math:`x_d \sim \mathrm{Categorical}(\mathrm{softmax}\, o_d)`, for integers x in [0, C).

    Args:
        classes: C; 256 for grey values in a byte.

    Raises:
        InputError: fewer than two classes.

    >>> import torch
    >>> Categorical(4)(torch.zeros(2, 12), (3,)).log_prob(torch.zeros(2, 3))  # 3 log(1/4)
    tensor([-4.1589, -4.1589])
    """

    def __init__(self, classes: int) -> None:
        if not isinstance(classes, int) or classes < 2:
            raise InputError("classes", expected="an integer, at least 2", got=repr(classes))
        self.numbers = classes

    def law(self, outputs: Tensor, event_dim: int) -> dist.TorchDistribution:
        """The distribution of x."""
        return _Classes(logits=outputs.movedim(-event_dim - 1, -1)).to_event(event_dim)


class _Classes(dist.Categorical):
    """Classes that are numbers, and have a mean: torch's `Categorical` has none."""

    @property
    def mean(self) -> Tensor:
        return self.probs @ torch.arange(self._num_events, dtype=self.logits.dtype, device=self.logits.device)


class Poisson(Likelihood):
    r"""Counts: :math:`x_d \sim \mathrm{Poisson}(\mathrm{softplus}\, o_d + 10^{-6})`, for integers x >= 0.

    The softplus grows like o, so that one large output is no overflow; the floor keeps a count from being impossible.

    >>> import torch
    >>> Poisson()(torch.full((1, 2), 3.0), (2,)).mean
    tensor([[3.0486, 3.0486]])
    """

    floor = 1e-6

    def law(self, outputs: Tensor, event_dim: int) -> dist.TorchDistribution:
        """The distribution of x."""
        return dist.Poisson(F.softplus(outputs.squeeze(-event_dim - 1)) + self.floor).to_event(event_dim)
