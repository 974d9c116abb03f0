r"""Estimates of the gradient of the log joint density from a minibatch.

The minibatch alone gives an unbiased estimate whose noise adds to the sampler's own. Where the gradient of all data is
known at one point, a minibatch only has to tell how it differs from there:

.. math::
    \hat g(\theta) = g_{batch}(\theta) - g_{batch}(\hat\theta) + g_{all}(\hat\theta)

which is unbiased, too, and exact at :math:`\theta = \hat\theta`; its variance is of the order of the squared distance
of the two. `ControlVariate` keeps one such point, `SVRG` takes a new one now and then. Both take two gradients an
update where `Minibatch` takes one.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.minibatches import Batch, Minibatches
from pyro_bdl.sgmcmc.flat import Number
from pyro_bdl.sgmcmc.sites import Point

CHUNK = 1000  # data points at once, where all are gone through


class Evaluate(Protocol):
    """The log joint density at flat parameters by a batch, and its gradient in a tensor that the next call reuses."""

    def __call__(self, position: Tensor, batch: Batch | None) -> tuple[Number, Tensor]:
        """The density and its gradient."""


@dataclass(frozen=True)
class Minibatch:
    """The gradient of the batch's own log joint density, N/B times its likelihood. What a kernel takes by default.

    >>> Minibatch()
    Minibatch()
    """


@dataclass(frozen=True, eq=False)
class ControlVariate:
    """Differences from the gradient of all data at a fixed point (Baker, Fearnhead, Fox & Nemeth 2019, section 3.1).

    The nearer the chain stays to the point, the less noise: begin at a good fit, and use it where the posterior has one
    narrow mode. Where the chain goes far, the noise is more than a plain minibatch's.

    Args:
        at: the point: values by site (a MAP fit), or a guide.

    >>> ControlVariate({"theta": torch.zeros(3)}).at["theta"].shape
    torch.Size([3])
    """

    at: Point


@dataclass(frozen=True)
class SVRG:
    """Differences from the gradient of all data where the chain was at most `every` updates ago (Dubey et al. 2016).

    Args:
        every: after how many updates all data are gone through anew; a multiple of the batches of an epoch, say, so
            that this costs no more than the updates.

    Raises:
        InputError: it is not a positive integer.

    >>> SVRG(every=100).every
    100
    """

    every: int

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise InputError("every", expected="an integer, at least 1", got=repr(self.every))


GradientEstimator = Minibatch | ControlVariate | SVRG


class Anchor:
    """A point, the gradient of all data there, and what it makes of a batch's.

    Args:
        evaluate: of the batch alone.
        batches: the data, as tensors.

    Raises:
        UnsupportedModelError: data of which not all can be seen.
    """

    def __init__(self, evaluate: Evaluate, batches: Minibatches | None) -> None:
        if batches is None or batches.tensors is None:
            raise UnsupportedModelError(
                "the data", expected="tensors (data=), as the gradient of all of them is needed",
                got="a model with data of its own" if batches is None else "an iterable of batches",
                remedy="Take the Minibatch estimator",
            )  # fmt: skip
        self.evaluate = evaluate
        self._all = Minibatches(batches.tensors, batch_size=CHUNK, shuffle=False)
        self.position = torch.empty(0)
        self._gradient = torch.empty(0)
        self._log_joint: Number = math.nan

    def move(self, position: Tensor) -> None:
        """Take another point, and go through all data for it."""
        total: Number = 0.0
        gradient = torch.zeros_like(position)
        self._all.restart(torch.Generator())  # from the first; nothing is shuffled, so it decides nothing
        assert self._all.size is not None
        for batch in self._all:
            log_joint, part = self.evaluate(position, batch)
            total = total + log_joint * batch.length / self._all.size
            gradient.add_(part, alpha=batch.length / self._all.size)
        self.position, self._log_joint, self._gradient = position, total, gradient

    def __call__(self, position: Tensor, batch: Batch | None) -> tuple[Number, Tensor]:
        """The estimate, as `Evaluate`."""
        there, gradient = self.evaluate(self.position, batch)
        known = self._gradient - gradient
        here, gradient = self.evaluate(position, batch)
        return here - there + self._log_joint, gradient.add_(known)
